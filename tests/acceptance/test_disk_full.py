"""SQLite on a full disk, a real one: the worker says so and waits, and nothing is lost once there is room again."""

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commandline import DRAIN, Hpo, Said, finish, wait_until
from tests.support.exact import check_exact


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Iterator[Hpo]:
    """`hpo` in a file system of its own, of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("no file system can be mounted here: there is no `mount`")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no file system can be mounted here: {error.stderr.strip()}")
    hpo = Hpo(disk, f"sqlite:///{disk / 'hpo.db'}")
    yield hpo
    hpo.close()
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(ballast: Path) -> bool:
    """Write until the disk is full."""
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 16, 1 << 9):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return True


def test_a_full_disk(on_small_disk: Hpo) -> None:
    """Trials are trained to their end meanwhile, their results kept in memory; each slot ends at its first attempt."""
    hpo = on_small_disk
    hpo.create(trials=3, epochs=20, training_pairs=5, confirm_rounds=1, rounds=1)
    worker = hpo.start(*DRAIN, "--lease", "600")
    said = Said(worker)
    wait_until(lambda: any(epoch > 0 for _, epoch, _ in hpo.running()))
    ballast = hpo.folder / "ballast"
    memory = "could not be written to disk and is only in memory"
    wait_until(lambda: fill(ballast) and said.count("does not answer") and said.in_order(memory, ": complete"))
    assert said.count("the database does not answer; next try in 0.5 s: database or disk is full") > 0
    assert "disk is full; check that the database runs, has room and takes writes" in hpo.refused(
        "study", "pause", "ws"
    )
    assert worker.poll() is None
    ballast.unlink()
    finish(worker)
    assert said.count("Traceback") == 0
    actual = check_exact(hpo.url, "ws", search=3, confirm=2, rounds=1)
    assert {slot.attempt for of_kind in actual.values() for slot in of_kind} == {1}
