"""Work in a fork: done beside, and where that cannot be, here. In processes of their own, for this one has threads."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, threading, time
from hpo.report import fork
fork.cores = lambda: 2.0
here = os.getpid()

def work():
    {work}
    return "beside" if os.getpid() != here else "here"

{before}
result = fork.begun(work)
print(result())
"""


def done(work: str = "", before: str = "") -> subprocess.CompletedProcess[str]:
    """What a process says that begins the work and waits for it."""
    script = SCRIPT.format(work=work or "pass", before=before)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")
def test_work_is_done_beside() -> None:
    ended = done()
    assert (ended.stdout, ended.stderr, ended.returncode) == ("beside\n", "", 0)


@pytest.mark.parametrize("end", ["raise ValueError('as it is')", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_what_fails_there_is_done_here(end: str) -> None:
    """An exception, or a process that is killed, for instance where memory is short."""
    ended = done(f"if os.getpid() != here: {end}")
    assert (ended.stdout, ended.stderr, ended.returncode) == ("here\n", "", 0)


def test_an_error_is_the_works_own() -> None:
    ended = done("raise ValueError('as it is')")
    assert ended.returncode == 1
    assert ended.stderr.count("Traceback") == 1
    assert ended.stderr.endswith("ValueError: as it is\n")


def test_beside_other_threads_nothing_is_forked() -> None:
    before = "threading.Thread(target=threading.Event().wait, daemon=True).start()"
    assert done(before=before).stdout == "here\n"
