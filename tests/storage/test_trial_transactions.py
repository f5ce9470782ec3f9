"""What a trial costs the database: a real worker, whose trainings sleep, counted while it goes through a search."""

from pathlib import Path

from sqlalchemy import Engine

from bench import backlog
from bench.sleeping import SleepingWorker, Watch
from hpo.digits.load import load
from hpo.worker.options import Options
from tests.support.fixtures import OpenDatabase
from tests.support.handmade import create, small_spec

DIGITS = load()
FINISHED = 300
READS, WRITES = 15, 10  # transactions that a trial of 40 epochs may take


def count(engine: Engine, folder: Path, trials: int) -> Watch:
    """What a worker of its own says to the database about so many trials."""
    watch = Watch()
    watch.look_at(engine)
    options = Options(artifacts=str(folder), device="cpu", lanes=1, max_trials=trials, lease_seconds=60.0)
    book = folder / f"{trials}.book"
    worker = SleepingWorker(engine, DIGITS, options, trial_seconds=1.0, watch=watch, book=book)
    assert worker.run() == 0
    assert watch.report().finished == trials
    if engine.dialect.name == "postgresql":  # a connection to a file is nobody else's
        assert engine.pool.status().startswith("Pool size: 1  Connections in pool: 1 Current Overflow: 0"), "at rest"
    return watch


def test_a_trial_takes_few_transactions(database_url: str, open_database: OpenDatabase, tmp_path: Path) -> None:
    """Its start and end apart, which the first trial has; beside many trials, epochs and a pruner that is asked."""
    engine = open_database(database_url)
    row = create(engine, small_spec("ws", trials=FINISHED + 20, epochs=40), data_digest=DIGITS.digest)
    backlog.finish_trials(engine, row, FINISHED)
    first, more = (count(open_database(database_url), tmp_path, trials).report() for trials in (1, 7))
    reads, writes = ((getattr(more, kind) - getattr(first, kind)) / 6 for kind in ("reads", "writes"))
    assert 0 < reads <= READS
    assert 0 < writes <= WRITES
