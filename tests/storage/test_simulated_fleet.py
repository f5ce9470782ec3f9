"""The simulated fleet of the benchmarks: its workers are real but for their sleep, and its check sees what is wrong."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from bench.fleet import check
from bench.sleeping import Death, SleepingWorker, Watch
from hpo.digits.load import load
from hpo.storage import slots
from hpo.worker.options import Options
from tests.support.commandline import PATIENCE
from tests.support.fixtures import OpenDatabase
from tests.support.handmade import make, small_spec

DIGITS = load()
TRIALS = 3

Said = dict[tuple[int, str], list[float]]


def worker_of(engine: Engine, folder: Path, *, trial_seconds: float, watch: Watch) -> SleepingWorker:
    """A worker of a new study of three trials."""
    make(engine, small_spec("simple", trials=TRIALS, rounds=2), limit=0, data_digest=DIGITS.digest)
    options = Options(artifacts=str(folder), device="cpu", lanes=1, max_trials=TRIALS, lease_seconds=30.0)
    watch.look_at(engine)
    return SleepingWorker(engine, DIGITS, options, trial_seconds=trial_seconds, watch=watch, book=folder / "book")


def said_in(book: Path) -> Said:
    """What stands in the book."""
    lines = [line.split() for line in book.read_text(encoding="utf-8").splitlines()]
    return {(int(slot_id), token): [float(value)] for slot_id, token, value in lines}


@pytest.fixture
def said(sqlite_engine: Engine, tmp_path: Path) -> Said:
    """What a worker says that has slept through all trials, and counted what it did."""
    watch = Watch()
    assert worker_of(sqlite_engine, tmp_path, trial_seconds=0.05, watch=watch).run() == 0
    tally = watch.report()
    assert (tally.begun, tally.finished, len(tally.fetches), tally.lost) == (TRIALS, TRIALS, TRIALS, [])
    assert tally.statements > tally.writes > TRIALS
    assert tally.waited > 0
    return said_in(tmp_path / "book")


def test_nothing_is_wrong_with_what_went_well(sqlite_engine: Engine, said: Said) -> None:
    checked = check(sqlite_engine, said, 0, fault=False)
    assert (checked.pop("done"), checked.pop("said")) == (TRIALS, TRIALS)
    assert set(checked.values()) == {0}


def forget(said: Said) -> None:
    """Nobody says that he finished the first."""
    del said[min(said)]


def repeat(said: Said) -> None:
    """The first was finished twice under one lease."""
    said[min(said)] *= 2


def contradict(said: Said) -> None:
    """The database has another value than the worker gave."""
    said[min(said)] = [0.123]


def invent(said: Said) -> None:
    """Somebody finished a slot that another has."""
    said[min(said)[0], "0" * 40] = [0.5]


@pytest.mark.parametrize(
    ("change", "name"),
    [(forget, "of_nobody"), (repeat, "twice"), (contradict, "other_value"), (invent, "wrong")],
)
def test_what_is_wrong_is_seen(sqlite_engine: Engine, said: Said, change: Callable[[Said], None], name: str) -> None:
    change(said)
    assert check(sqlite_engine, said, 0, fault=False)[name] == 1


def test_who_dies_leaves_its_slot_without_a_word(
    sqlite_engine: Engine, sqlite_url: str, open_database: OpenDatabase, tmp_path: Path
) -> None:
    """Its lease is neither given back nor prolonged: it expires."""
    worker = worker_of(sqlite_engine, tmp_path, trial_seconds=1000.0, watch=Watch())
    ended: list[BaseException] = []

    def live() -> None:
        try:
            worker.run()
        except Death as death:
            ended.append(death)

    thread = threading.Thread(target=live, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE
    while not worker.sleepers.jobs and time.monotonic() < deadline:
        time.sleep(0.01)
    (job,) = worker.sleepers.jobs
    worker.die()
    thread.join(PATIENCE)
    assert len(ended) == 1
    left = slots.get_slot(open_database(sqlite_url), job.claim.slot.id)
    assert (left.state, left.token) == ("running", job.claim.token)
    assert not (tmp_path / "book").exists()
