"""`hpo db upgrade` under a running fleet: workers of before end with one line and nothing is lost; both databases."""

import gzip
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import hpo
from hpo.storage import slots, studies
from hpo.storage.engine import open_engine
from hpo.storage.workers import list_workers
from tests.support.commandline import DRAIN, PATIENCE, Hpo, finish, wait_until
from tests.support.dashboard import ask, dashboard
from tests.support.exact import check_exact
from tests.support.long import too_long
from tests.support.versions import HEAD, MIGRATION, REVISION, VERSION, OtherHpo

DATA = Path(__file__).parents[1] / "data"
STUDY = {"trials": 3, "epochs": 60, "sampler": "random", "pruner": "none", "confirm_rounds": 1, "rounds": 1}
EXACT = {"search": 3, "confirm": 2, "rounds": 1}
LINE = re.compile(
    rf"hpo: .*: its tables were brought from version {HEAD} to {REVISION} while this process used them; install the "
    r"hpo that did it \(`hpo --version` there\) and start again"
    r"(; 1 result\(s\) for the next worker here are kept in .+)?"
)


@pytest.fixture(params=["hpo", "hpo_on_postgres"])
def lab(request: pytest.FixtureRequest) -> Hpo:
    """`hpo` on each of the two databases."""
    command: Hpo = request.getfixturevalue(request.param)
    return command


@pytest.fixture
def newer(lab: Hpo) -> Iterator[OtherHpo]:
    """A version with a migration more, beside it."""
    other = OtherHpo(lab, migration=MIGRATION)
    yield other
    other.close()


def upgrade(newer: OtherHpo) -> None:
    _, err = finish(newer.start("db", "upgrade"))
    assert f"hpo: {HEAD} -> {REVISION}" in err


def last_line(err: str) -> str:
    """The only words about it."""
    *log, last = err.splitlines()
    assert LINE.fullmatch(last), err
    assert not [line for line in log if "ERROR" in line or "WARNING" in line or "Traceback" in line], err
    return last


def all_slots(url: str) -> list[slots.Slot]:
    engine = open_engine(url)
    try:
        return slots.list_slots(engine, studies.get_study(engine, "ws").id)
    finally:
        engine.dispose()


def test_a_worker_in_training_ends_and_another_goes_on(lab: Hpo, newer: OtherHpo) -> None:
    """It keeps a checkpoint and gives its slot back at once; the new version's worker goes on from there."""
    lab.create(**{**STUDY, "epochs": 2000})
    worker = lab.start(*DRAIN, "--lease", "4", "--checkpoint", "0")
    wait_until(lambda: [slot for slot in all_slots(lab.url) if slot.epoch > 5])
    upgrade(newer)
    _, err = finish(worker, code=3)
    assert "kept" not in last_line(err)
    assert re.search(r"given back after epoch \d+ of 2000", err)
    (slot,) = [slot for slot in all_slots(lab.url) if slot.trial_id is not None]
    assert (slot.state, slot.attempt, slot.expiries) == ("waiting", 1, 0)
    engine = open_engine(lab.url)
    assert [worker.left_why for worker in list_workers(engine)] == ["the database was upgraded"]
    engine.dispose()
    successor = newer.start(*DRAIN)
    wait_until(lambda: any(again.epoch > slot.epoch for again in all_slots(lab.url)))
    successor.send_signal(signal.SIGTERM)
    _, err = finish(successor, code=128 + signal.SIGTERM)
    assert re.search(r"resumes after epoch \d+", err)


@pytest.mark.parametrize("lab", ["hpo"], indirect=True)  # where a worker can be frozen in training
def test_a_result_of_that_moment_is_stored_by_the_next_worker(lab: Hpo, newer: OtherHpo) -> None:
    """It is on disk, its slot is not given back, and nothing is trained twice."""
    lab.create(**{**STUDY, "epochs": 2})  # frozen in the last one, it asks the database for nothing before its end
    worker = lab.start(*DRAIN, "--lease", "600")
    slot, pid = lab.freeze_in_training()
    upgrade(newer)
    os.kill(pid, signal.SIGCONT)
    _, err = finish(worker, code=3)
    assert "1 result(s)" in last_line(err)
    _, err = finish(newer.start(*DRAIN))
    assert f"slot {slot}: stored the result that an earlier worker left on disk" in err
    actual = check_exact(lab.url, "ws", **EXACT)
    assert {done.attempt for of_kind in actual.values() for done in of_kind} == {1}


def test_a_worker_that_waits(lab: Hpo, newer: OtherHpo) -> None:
    """It ends too, and started again it says what it lacks."""
    lab.create(**STUDY)
    lab("study", "pause", "ws")
    worker = lab.start("worker", "--device", "cpu")
    wait_until(lambda: workers_of(lab.url))
    upgrade(newer)
    _, err = finish(worker, code=3)
    last_line(err)
    assert f"are at version {REVISION}, which this hpo does not know; install the newer" in lab.refused(*DRAIN)


def test_the_dashboard_and_a_run_on_this_machine(hpo: Hpo) -> None:
    """Both end with the line: the one at the next request, the other with its workers."""
    newer = OtherHpo(hpo, migration=MIGRATION)
    run = hpo.start("run", "--file", hpo.study(**{**STUDY, "trials": 200}), "--workers", "1", "--out", "report")
    wait_until(hpo.running)
    with dashboard(hpo.url) as (port, server):
        upgrade(newer)
        status, body = ask(port, "/api/studies")
        assert (status, "its tables were brought" in body) == (503, True)
        assert server.wait(PATIENCE) == 3
    _, err = finish(run, code=3)
    last_line(err)
    newer.close()


def workers_of(url: str) -> list[str]:
    """The versions of the workers that live."""
    engine = open_engine(url)
    try:
        return [worker.version for worker in list_workers(engine, alive=True)]
    finally:
        engine.dispose()


@pytest.mark.parametrize("lab", ["hpo"], indirect=True)
def test_a_worker_beside_an_older_schema(lab: Hpo) -> None:
    """It says what to run, and touches nothing."""
    newest = max(DATA.glob("*-search.db.gz"))
    path = Path(lab.url.removeprefix("sqlite:///"))
    path.write_bytes(gzip.decompress(newest.read_bytes()))
    schema = newest.name.partition("-")[0]
    line = lab.refused(*DRAIN)
    assert re.search(rf"are at version {schema}, this hpo needs {HEAD}; .*run `hpo db upgrade`", line)


@pytest.mark.parametrize("lab", ["hpo", *too_long("hpo_on_postgres")], indirect=True)
def test_two_versions_of_one_schema_work_side_by_side(lab: Hpo) -> None:
    """They train one study together."""
    other = OtherHpo(lab)
    lab.create(**STUDY)
    lab("study", "pause", "ws")
    workers = [command.start("worker", "--device", "cpu", "--population", "1") for command in (lab, other)]
    wait_until(lambda: len(workers_of(lab.url)) == 2)
    assert set(workers_of(lab.url)) == {hpo.__version__, VERSION}
    lab("study", "resume", "ws")
    wait_until(lambda: lab.show()["phase"] == "done")
    for worker in workers:
        worker.send_signal(signal.SIGTERM)
    for worker in workers:
        finish(worker, code=128 + signal.SIGTERM)
    other.close()
    actual = check_exact(lab.url, "ws", **EXACT)
    assert len({slot.worker for of_kind in actual.values() for slot in of_kind}) == 2
