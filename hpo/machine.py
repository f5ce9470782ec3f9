"""What a process may use of its machine: cores and memory, as far as control groups (version 2) leave it any.

A container, a batch job or a systemd unit sees all cores and all memory, and is throttled or killed beyond its quota.
The kernel's documentation has the files: admin-guide/cgroup-v2.
"""

import os
import re
import resource
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_ROOT = Path("/")  # where /proc and /sys lie


def cores(root: Path = _ROOT) -> float:
    """The cores that may be kept busy: those that the process may run on, or fewer by the tightest quota."""
    allowed = float(_may_run_on())
    for group in _groups(root):
        quota, _, period = _text(group / "cpu.max").partition(" ")
        if quota.isdecimal() and int(quota) and period.isdecimal() and int(period):
            allowed = min(allowed, int(quota) / int(period))
    return allowed


def peak_memory() -> int:
    """Bytes of memory that this process has had at its most."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _may_run_on() -> int:
    """Cores that the process may run on; all, where the system has no such choice (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_memory(root: Path = _ROOT) -> int | None:
    """Bytes that may still be taken; files in the page cache give way. None where the system does not tell."""
    available = re.search(r"^MemAvailable: *(\d+) kB$", _text(root / "proc/meminfo"), re.MULTILINE)
    free = [] if available is None else [1024 * int(available[1])]
    for group in _groups(root):
        limit, used = _text(group / "memory.max"), _text(group / "memory.current")
        if limit.isdecimal() and used.isdecimal():
            cached = re.search(r"^inactive_file (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
            free.append(max(0, int(limit) - int(used) + (int(cached[1]) if cached else 0)))
    return min(free, default=None)


def _groups(root: Path) -> Iterator[Path]:
    """The folders of this process's control group and of all that it lies in; none where there is no version 2."""
    named = re.search(r"^0::/(.*)$", _text(root / "proc/self/cgroup"), re.MULTILINE)
    if named is None:
        return
    top = root / "sys/fs/cgroup"
    folder = top / named[1]
    while folder != top and top in folder.parents:
        yield folder
        folder = folder.parent
    yield top  # a container's own group, where it has its own view of them


def _text(path: Path) -> str:
    """A file's content without its end; nothing where it cannot be read."""
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").strip()
    return ""
