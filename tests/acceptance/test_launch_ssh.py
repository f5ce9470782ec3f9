"""`hpo launch ssh` with a real sshd: workers that outlive the connection, and are started once."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest
from click.testing import Result
from sqlalchemy.engine import make_url

from tests.support.commandline import Hpo, wait_until
from tests.support.exact import check_exact
from tests.support.launched import in_training
from tests.support.sshd import needs_sshd, sshd

pytestmark = needs_sshd

STUDY = {"trials": 2, "epochs": 100, "sampler": "random", "pruner": "none", "confirm_rounds": 1, "rounds": 1}
PASSWORD = "hunter2"


class Lab:
    """Machines that are reached by ssh, and the workers there."""

    def __init__(self, hpo: Hpo, ssh: str) -> None:
        self.hpo, self._ssh = hpo, ssh
        self.logs = hpo.folder / "logs"

    def launch(self, *words: str, code: int = 0) -> Result:
        """Start what does not run yet."""
        here = [f"--env=PYTHONPATH={path}" for path in [os.environ.get("PYTHONPATH")] if path]
        artifacts = ("--artifacts", str(self.hpo.folder / "artifacts"))
        started = ("launch", "ssh", "--ssh", self._ssh, "--submit", *artifacts, *here, *words)
        return self.hpo(*started, "--", "--drain", "--device", "cpu", "--population", "1", code=code)

    def workers(self) -> dict[int, psutil.Process]:
        """Those that live, by number."""
        pids = {int(path.stem.rpartition("-")[2]): int(path.read_text()) for path in self.logs.glob("*.pid")}
        return {number: psutil.Process(pid) for number, pid in pids.items() if _is_worker(pid)}

    def log(self, number: int) -> str:
        (path,) = self.logs.glob(f"hpo-*-{number}.log")
        return path.read_text()


def _is_worker(pid: int) -> bool:
    return psutil.pid_exists(pid) and Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[1:4] == [
        *(b"-m", b"hpo", b"worker"),
    ]


@pytest.fixture
def lab(hpo_on_postgres: Hpo) -> Iterator[Lab]:
    hpo_on_postgres.url = make_url(hpo_on_postgres.url).set(password=PASSWORD).render_as_string(hide_password=False)
    with sshd() as ssh:
        lab = Lab(hpo_on_postgres, ssh)
        yield lab
        for worker in lab.workers().values():
            worker.kill()


@pytest.mark.long
def test_workers_are_started_once_and_outlive_the_connection(lab: Lab) -> None:
    """One that is stopped gives its slot back and may be started again; the password stands in no command line."""
    lab.hpo.create(**STUDY)
    assert "2 worker(s) started, 0 ran already" in lab.launch("--host", "lab1", "--count", "2").stderr
    wait_until(lambda: len(lab.workers()) == 2)  # the shells have become them
    first = lab.workers()
    seen = " ".join(word for process in psutil.process_iter(["cmdline"]) for word in process.info["cmdline"] or ())
    assert "-m hpo worker" in seen
    assert PASSWORD not in seen
    assert "0 worker(s) started, 2 ran already" in lab.launch("--host", "lab1", "--count", "2").stderr
    assert lab.workers() == first
    wait_until(lambda: len(in_training(lab.hpo.url, 1)) == 2)
    first[0].send_signal(signal.SIGTERM)
    wait_until(lambda: "given back after epoch" in lab.log(0))
    wait_until(lambda: 0 not in lab.workers())
    assert "1 worker(s) started, 1 ran already" in lab.launch("--host", "lab1", "--count", "2").stderr
    assert lab.workers()[1] == first[1]
    wait_until(lambda: lab.hpo.show()["phase"] == "done")
    wait_until(lambda: not lab.workers())
    check_exact(lab.hpo.url, "ws", search=2, confirm=2, rounds=1)
    assert "Traceback" not in lab.log(0) + lab.log(1)


def test_a_host_that_does_not_answer_keeps_no_other_waiting(lab: Lab) -> None:
    """It is named, with the reason; workers of one name are started once, by whichever name a machine is reached."""
    lab.hpo.create(trials=1, confirm_rounds=1, rounds=1)
    said = lab.launch("--host", "nobody", "--host", "lab1", "--host", "lab2", code=1).stderr
    *_, line = said.splitlines()
    assert line.startswith("hpo: 1 worker(s) started, 1 ran already; nobody: ")
    assert "Connection refused" in line
    wait_until(lambda: lab.hpo.show()["phase"] == "done")
    wait_until(lambda: not lab.workers())


def test_what_is_missing_there_is_one_line(lab: Lab) -> None:
    """Hpo for that Python, the folder."""
    lab.hpo.create(trials=1)
    for words, part in ((("--python", "/bin/false"), "no hpo"), (("--folder", "/nowhere"), "/nowhere")):
        *_, line = lab.launch("--host", "lab1", *words, code=1).stderr.splitlines()
        assert line.startswith("hpo: 0 worker(s) started, 0 ran already; lab1: ")
        assert part in line
    assert lab.workers() == {}
