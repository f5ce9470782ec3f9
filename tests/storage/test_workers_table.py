"""The table of workers, and who takes up what failed on one of them; both databases."""

import time

import pytest
from sqlalchemy import Engine

from hpo.storage import claims, slots, workers
from hpo.storage.optuna_storage import EpochRecord, make_storage
from hpo.storage.slots import Slot
from hpo.storage.studies import StudyRow
from tests.support.beats import beat_of
from tests.support.fixtures import MakeStudy

SERVED = "d" * 64  # the data of the study below


@pytest.fixture
def study(make_study: MakeStudy) -> StudyRow:
    return make_study("ws", trials=1)


def claim(engine: Engine, worker: str, *not_again: int) -> Slot | None:
    """The study's slot, where this worker gets it."""
    claimed = claims.claim(engine, 1, worker=worker, lease_seconds=60, model="ws", not_again=not_again)
    return claimed[0] if claimed else None


def fail_on(engine: Engine, worker: str, *, trains: bool) -> str:
    """Let the slot raise on a worker; returns its state then."""
    slot = claim(engine, worker)
    assert slot is not None
    assert slots.fail(engine, slot.id, slot.token or "", "broken", retry=True, trains=trains)
    return slots.get_slot(engine, slot.id).state


def lives(engine: Engine, study: StudyRow, name: str) -> None:
    workers.beat_alone(engine, beat_of(name, data_digest=study.data_digest), 60)


def test_a_workers_life(engine: Engine) -> None:
    """The first beat makes the row, later ones change it, the last one says why it left."""
    workers.beat_alone(engine, beat_of("a", study_names=("x", "y"), lanes=None), 60)
    workers.beat_alone(engine, beat_of("b"), 0.05)
    workers.beat_alone(engine, beat_of("a", lanes=4, completed=3, failed=1), 60)
    a, b = workers.list_workers(engine)
    assert (a.name, a.lanes, a.completed, a.failed, a.study_names) == ("a", 4, 3, 1, ("x", "y"))
    assert (b.study_names, b.left_at) == ((), None)
    assert a.started_at <= a.seen_at < a.alive_until
    time.sleep(0.1)
    assert [worker.name for worker in workers.list_workers(engine, alive=True)] == ["a"], "b is taken for dead"
    workers.beat_alone(engine, beat_of("a"), 0, left_why="its work was done")
    assert workers.list_workers(engine, alive=True) == []
    assert workers.list_workers(engine)[0].left_why == "its work was done"


def test_a_long_name_is_the_same_in_every_table(engine: Engine, study: StudyRow) -> None:
    """Host names may be long; names are cut alike, so a worker is not another one to itself."""
    name = "h" * 300
    lives(engine, study, name)
    lives(engine, study, name)
    assert len(workers.list_workers(engine)) == 1
    assert workers.served_by_others(engine, name, study.data_digest, [(study.id, "ws")]) == set()
    assert fail_on(engine, name, trains=False) == "waiting"
    assert claim(engine, name, study.id) is None
    assert slots.forgive(engine, name) == 1
    assert claim(engine, name, study.id) is not None


@pytest.mark.parametrize(
    ("names", "data", "served"),
    [((), SERVED, True), (("ws", "x"), SERVED, True), (("x",), SERVED, False), ((), "other", False)],
)
def test_who_serves_a_study_too(
    engine: Engine, study: StudyRow, names: tuple[str, ...], data: str, served: bool
) -> None:
    """A living worker with the same data that serves all studies or this one."""
    workers.beat_alone(engine, beat_of("other", data_digest=data, study_names=names), 60)
    lives(engine, study, "me")
    expected = {study.id} if served else set()
    assert workers.served_by_others(engine, "me", SERVED, [(study.id, "ws")]) == expected


def test_another_worker_tries_what_failed_here(engine: Engine, study: StudyRow) -> None:
    """In the studies named, until the time that it is reserved for others is over; elsewhere the same worker may."""
    assert fail_on(engine, "a", trains=True) == "waiting"
    assert claim(engine, "a", study.id) is None
    assert claims.next_models(engine, worker="a", not_again=[study.id]) == []
    assert claims.next_models(engine, worker="b", not_again=[study.id]) == [("digits", "ws")]
    slot = claim(engine, "b", study.id)
    assert slot is not None
    slots.release(engine, slot.id, slot.token or "")
    assert claim(engine, "a", study.id + 1) is not None


def test_a_reservation_ends(engine: Engine, study: StudyRow, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others may have their hands full for long."""
    monkeypatch.setattr(slots, "RESERVED_SECONDS", 0.0)
    assert fail_on(engine, "a", trains=True) == "waiting"
    time.sleep(0.01)
    assert claim(engine, "a", study.id) is not None


@pytest.mark.parametrize(
    ("first", "second", "trains", "third_lives", "state"),
    [
        ("a", "a", True, False, "failed"),  # others complete there
        ("a", "a", False, False, "waiting"),  # it may be the machine
        ("a", "b", True, True, "failed"),  # on two workers
        ("a", "b", False, False, "failed"),  # nobody else can try it
        ("a", "b", False, True, "waiting"),  # somebody can
    ],
)
def test_when_a_failure_counts(
    engine: Engine, study: StudyRow, first: str, second: str, trains: bool, third_lives: bool, state: str
) -> None:
    """The second time, unless that too may be a machine's fault."""
    lives(engine, study, second)
    if third_lives:
        lives(engine, study, "c")
    assert fail_on(engine, first, trains=True) == "waiting"
    assert fail_on(engine, second, trains=trains) == state


def test_what_a_broken_machine_failed_is_forgiven(engine: Engine, study: StudyRow) -> None:
    """The next failure is the first again."""
    assert fail_on(engine, "a", trains=False) == "waiting"
    assert slots.forgive(engine, "b") == 0
    assert slots.forgive(engine, "a") == 1
    assert fail_on(engine, "b", trains=True) == "waiting"
    assert fail_on(engine, "c", trains=True) == "failed"


def test_a_worker_sees_that_it_is_asked_to_stop(engine: Engine) -> None:
    """With its next sign of life, alone or with its leases; those that are gone cannot be asked."""
    for name in ("a", "b", "left", "lost"):
        assert not workers.beat_alone(engine, beat_of(name), -1 if name == "lost" else 60)
    workers.beat_alone(engine, beat_of("left"), 0, left_why=workers.WORK_DONE)
    assert workers.request_stop(engine, ["b", "left", "lost", "unheard of", "a"]) == ["a", "b"]
    assert [worker.stop_requested for worker in workers.list_workers(engine)] == [True, True, False, False]
    assert workers.beat_alone(engine, beat_of("a"), 60)
    assert not workers.beat_alone(engine, beat_of("c"), 60)


def test_renewals_bring_the_request(engine: Engine, study: StudyRow) -> None:
    """In the transaction that prolongs the leases."""
    slot = claim(engine, "a")
    assert slot is not None
    asked: list[str] = []
    row = EpochRecord(slot_id=slot.id, token=slot.token or "", trial_id=None, epoch=1, value=None)

    def renew() -> None:
        assert make_storage(engine).report([row], 60, beat_of("a"), lambda: asked.append("a")) == set()

    renew()
    renew()
    assert asked == []
    workers.request_stop(engine, ["a"])
    renew()
    assert asked == ["a"]


def test_a_worker_by_the_beginning_of_its_name(engine: Engine) -> None:
    """Where one alone begins so; a whole name is never ambiguous."""
    for name in ("gpu-1:7", "gpu-1:77", "gpu-2:7", "old"):
        workers.beat_alone(engine, beat_of(name), 60)
    workers.beat_alone(engine, beat_of("old"), 0, left_why=workers.WORK_DONE)
    assert workers.living_worker(engine, "gpu-1:7").name == "gpu-1:7"
    assert workers.living_worker(engine, "gpu-2").name == "gpu-2:7"
    with pytest.raises(workers.WorkerNotFound, match="3 workers begin with 'gpu': gpu-1:7, gpu-1:77, gpu-2:7;"):
        workers.living_worker(engine, "gpu")
    for name in ("old", "x", ""):
        with pytest.raises(workers.WorkerNotFound, match="no worker that lives"):
            workers.living_worker(engine, name)


def test_the_code_is_shown(engine: Engine) -> None:
    workers.beat_alone(engine, beat_of("a", code_digest="c" * 64), 60)
    workers.beat_alone(engine, beat_of("b"), 60)
    assert [worker.code_digest for worker in workers.list_workers(engine)] == ["c" * 64, None]


@pytest.mark.parametrize(
    ("why", "in_order"),
    [
        (workers.WORK_DONE, True),
        (workers.STOPPED, True),
        ("SIGHUP", True),
        ("RuntimeError: SIGHUP", False),
        (None, False),
    ],
)
def test_which_ends_are_in_order(why: str | None, in_order: bool) -> None:
    assert workers.left_in_order(why) is in_order
