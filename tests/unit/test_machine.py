"""What a process may use of its machine, read from trees of files as the kernel lays them out."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from hpo import machine
from hpo.launch.local import WORKER_BYTES, _workers_for

CORES = len(os.sched_getaffinity(0))
MEGABYTE = 1 << 20


def tree(root: Path, files: Mapping[str, str]) -> Path:
    """Write the files below a root."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("group", "quotas", "cores"),
    [
        ("0::/", {"": "50000 100000"}, 0.5),
        ("0::/", {"": "max 100000"}, CORES),
        ("0::/", {"": "6400000 100000"}, CORES),
        ("0::/a/b", {"a/b": "max 100000", "a": "25000 50000"}, 0.5),
        ("0::/a/b", {"a/b": "10000 100000", "a": "max 100000"}, 0.1),
        ("0::/../host", {"": "50000 100000"}, 0.5),  # from inside a container, of a group that is not in view
        ("4:memory:/x\n0::/a", {"a": "50000 100000"}, 0.5),
        ("4:cpu:/a", {"a": "50000 100000"}, CORES),
        ("", {}, CORES),
        ("0::/", {"": ""}, CORES),
        ("0::/", {"": "0 0"}, CORES),
    ],
)
def test_cores(tmp_path: Path, group: str, quotas: Mapping[str, str], cores: float) -> None:
    """The tightest quota of the group and of all that it lies in; what cannot be read limits nothing."""
    files = {f"sys/fs/cgroup/{folder}/cpu.max": text for folder, text in quotas.items()}
    assert machine.cores(tree(tmp_path, {"proc/self/cgroup": group, **files})) == cores


def test_free_memory(tmp_path: Path) -> None:
    """The least of what the machine and every group have left; cached files give way."""
    files = {"proc/self/cgroup": "0::/a/b", "proc/meminfo": "MemTotal: 4000 kB\nMemAvailable:    3000 kB"}
    assert machine.free_memory(tree(tmp_path, files)) == 3000 * 1024
    group = "sys/fs/cgroup/a"
    tree(tmp_path, {f"{group}/memory.max": "2000000", f"{group}/memory.current": "1500000"})
    assert machine.free_memory(tmp_path) == 500_000
    tree(tmp_path, {f"{group}/memory.stat": "anon 5\ninactive_file 300000"})
    assert machine.free_memory(tmp_path) == 800_000
    tree(tmp_path, {f"{group}/b/memory.max": "max", f"{group}/b/memory.current": "1500000"})
    assert machine.free_memory(tmp_path) == 800_000
    tree(tmp_path, {f"{group}/b/memory.max": "1000000"})
    assert machine.free_memory(tmp_path) == 0, "over its limit"
    assert machine.free_memory(tmp_path / "nothing") is None


def test_this_machine() -> None:
    """The real files are read: on Linux there is some memory, and no more than all cores."""
    assert 0 < machine.cores() <= CORES
    assert (machine.free_memory() or 0) > MEGABYTE


@pytest.mark.parametrize(
    ("cores", "memory", "workers"),
    [(0.5, None, 1), (1.9, None, 1), (4.0, None, 4), (4.0, 2 * WORKER_BYTES, 2), (4.0, MEGABYTE, 1)],
)
def test_workers(cores: float, memory: int | None, workers: int) -> None:
    """One for each whole core that memory suffices for, never none."""
    assert _workers_for(cores, memory) == workers


def test_without_a_choice_of_cores_all_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As on macOS, which has neither control groups nor /proc."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert machine.cores(tmp_path) == os.cpu_count()
    assert machine.free_memory(tmp_path) is None


def test_the_peak_of_memory_is_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system says kilobytes on Linux and bytes on macOS."""
    here = machine.peak_memory()
    assert 10 * MEGABYTE < here < 1 << 40
    monkeypatch.setattr(sys, "platform", "darwin")
    assert machine.peak_memory() <= here // 512
