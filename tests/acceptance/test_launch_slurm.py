"""`hpo launch slurm` on a real Slurm of one node: what is taken from a worker there goes on from its checkpoint."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.commandline import Hpo, wait_until
from tests.support.exact import check_exact
from tests.support.launched import in_training, search_slots
from tests.support.slurm import Slurm, needs_slurm, single_node

pytestmark = [needs_slurm, pytest.mark.long]

EPOCHS = 400  # some seconds, in which Slurm interrupts
STUDY = {"trials": 2, "epochs": EPOCHS, "sampler": "random", "pruner": "none", "confirm_rounds": 1, "rounds": 1}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Slurm]:
    with single_node() as slurm:
        yield slurm


@pytest.fixture
def slurm(cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """The cluster, for the commands of this test too."""
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    return cluster


def submit(hpo: Hpo, **changes: object) -> str:
    """Submit one worker, which must come to train; returns the job's number."""
    hpo.create(**(STUDY | changes))
    words = ["launch", "slurm", "--partition", "low", "--artifacts", "artifacts", "--logs", "logs", "--submit"]
    said = hpo(*words, "--", "--drain", "--device", "cpu", "--population", "1").stderr
    match = re.search(r"^job (\d+): 1 task", said, flags=re.MULTILINE)
    assert match, said
    return match[1]


def preempt(slurm: Slurm, job: str, folder: Path) -> Callable[[], object]:
    """Submit what goes before: Slurm ends the worker and queues it again; returns what lets it come back."""
    wait = f"while [ ! -e {folder}/over ]; do sleep 0.1; done"
    slurm("sbatch", "--partition=high", "--output=/dev/null", f"--wrap={wait}")
    return (folder / "over").touch


def reach_time_limit(slurm: Slurm, job: str, folder: Path) -> Callable[[], object]:
    """Send the batch shell what `--signal` asks for, as Slurm does before the time limit."""
    slurm("scancel", "--batch", "--signal=USR1", f"{job}_0")
    return lambda: None


@pytest.mark.parametrize("interrupt", [preempt, reach_time_limit])
def test_a_requeued_worker_goes_on_from_its_checkpoint(
    hpo_on_postgres: Hpo, slurm: Slurm, interrupt: Callable[[Slurm, str, Path], Callable[[], object]]
) -> None:
    """The same trial of Optuna's, after the very epoch at which it was given back; in the end the budget is exact."""
    hpo = hpo_on_postgres
    job = submit(hpo)
    log = hpo.folder / "logs" / f"hpo-{job}_0.log"
    (before,) = wait_until(lambda: in_training(hpo.url, 1))
    let_it_return = interrupt(slurm, job, hpo.folder)
    (given_back,) = wait_until(lambda: re.findall(rf"given back after epoch (\d+) of {EPOCHS}", log.read_text()))
    wait_until(lambda: slurm.task(job)["JobState"] == "PENDING")
    released = search_slots(hpo.url)[before.idx]
    assert (released.state, released.attempt, released.trial_id) == ("waiting", 1, before.trial_id)
    let_it_return()
    wait_until(lambda: slurm.task(job)["JobState"] == "COMPLETED")
    assert slurm.task(job)["Restarts"] == "1"
    actual = check_exact(hpo.url, "ws", search=2, confirm=2, rounds=1)["search"]
    assert f"ws trial {before.trial_number}: resumes after epoch {given_back}" in log.read_text()
    after, other = actual[before.idx], actual[1 - before.idx]
    assert after.outcome is not None
    assert other.outcome is not None
    assert after.outcome.resumed_at == (int(given_back),)
    assert int(given_back) >= before.epoch
    assert (after.trial_id, after.attempt) == (before.trial_id, 2)
    assert (other.outcome.resumed_at, other.attempt) == ((), 1)
    assert "Traceback" not in log.read_text()


def test_slurm_signals_before_the_time_limit(hpo_on_postgres: Hpo, slurm: Slurm) -> None:
    """By itself, as `--signal` asks for: the task is requeued within its limit, and goes on from its checkpoint."""
    hpo = hpo_on_postgres
    job = submit(hpo, epochs=10_000)
    log = hpo.folder / "logs" / f"hpo-{job}_0.log"
    (before,) = wait_until(lambda: in_training(hpo.url, 1))
    slurm("scontrol", "update", f"JobId={job}_0", "TimeLimit=2")  # minutes, as long as the warning comes before
    (given_back,) = wait_until(lambda: re.findall(r"given back after epoch (\d+) of 10000", log.read_text()))
    wait_until(lambda: f"ws trial {before.trial_number}: resumes after epoch {given_back}" in log.read_text())
    assert slurm.task(job)["Restarts"] == "1"
    assert "TIME LIMIT" not in log.read_text()
    slurm("scancel", job)
    wait_until(lambda: slurm.task(job)["JobState"] == "CANCELLED")


def test_a_cancelled_worker_gives_its_slot_back(hpo_on_postgres: Hpo, slurm: Slurm) -> None:
    """In order, and it does not come again."""
    hpo = hpo_on_postgres
    job = submit(hpo)
    wait_until(lambda: in_training(hpo.url, 1))
    slurm("scancel", job)
    wait_until(lambda: slurm.task(job)["JobState"] == "CANCELLED")
    log = hpo.folder / "logs" / f"hpo-{job}_0.log"
    wait_until(lambda: "given back after epoch" in log.read_text())
    assert {slot.state for slot in search_slots(hpo.url)} == {"waiting"}
    assert not slurm("squeue", "--noheader").strip()


def test_what_slurm_refuses_is_one_line(hpo_on_postgres: Hpo, slurm: Slurm) -> None:
    """As sbatch puts it."""
    hpo_on_postgres.create(trials=1)
    said = hpo_on_postgres("launch", "slurm", "--partition", "nowhere", "--submit", code=1).stderr
    assert said.splitlines()[-1].startswith("hpo: sbatch --parsable: ")
    assert "partition" in said.splitlines()[-1]
