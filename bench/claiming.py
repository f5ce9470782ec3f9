"""Claims of many claimers at once, and of one claimer on several databases in turns."""

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.pool import Pool
from multiprocessing.synchronize import Barrier
from typing import Any

from sqlalchemy import Engine, func, select

from bench.outcomes import outcome
from hpo.errors import DatabaseUnreachable
from hpo.storage import claims, slots
from hpo.storage.engine import begin_read, open_engine
from hpo.storage.schema import slots as table

PROCESSES = 8  # more claimers than that share them as threads
LEASE = 600.0  # seconds: none expires while it is measured
MODEL = "ws"
EMPTY_PAUSE = 0.01  # seconds until a claimer that got nothing looks again


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one process does."""

    url: str
    study_ids: Sequence[int]  # that it serves, as a worker names them
    claimers: int  # threads, each with an engine, hence a connection, of its own
    starts: float  # seconds since 1970
    seconds: float
    finish: bool  # whether a slot is finished, untimed, as soon as it is claimed


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """What claimers got: a time for each slot."""

    ids: list[int]
    seconds: list[float]
    until: float  # when the last claim was answered, seconds since 1970
    empty: int = 0  # claims that got nothing
    timeouts: int = 0  # claims that the database did not answer in time


def start_processes() -> Pool:
    """The processes, ready: what they import is loaded."""
    context = get_context("spawn")
    ready = context.Barrier(PROCESSES)
    pool = context.Pool(PROCESSES, initializer=_remember, initargs=(ready,))
    pool.map(_wait, range(PROCESSES), chunksize=1)
    return pool


_ready: Barrier  # of all processes; set in each as it starts


def _remember(ready: Barrier) -> None:
    global _ready
    _ready = ready


def _wait(_: int) -> None:
    _ready.wait()


def measure_claims(
    pool: Pool, url: str, study_ids: Sequence[int], claimers: int, seconds: float, *, finish: bool
) -> dict[str, Any]:
    """Claims of so many claimers for so long; raises AssertionError where a slot was given twice."""
    processes = min(claimers, PROCESSES)
    starts = time.time() + 1.0 + 0.03 * claimers
    task = Task(
        url=url,
        study_ids=study_ids,
        claimers=claimers // processes,
        starts=starts,
        seconds=seconds,
        finish=finish,
    )
    parts = pool.map(_claim_all, [task] * processes, chunksize=1)
    ids = [slot_id for part in parts for slot_id in part.ids]
    latencies = [latency for part in parts for latency in part.seconds]
    check_once(url, ids)
    return {
        "claimers": claimers,
        "per_second": len(ids) / (max(part.until for part in parts) - starts),  # the last ones may take long
        **quantiles(latencies),
        "empty": sum(part.empty for part in parts),
        "timeouts": sum(part.timeouts for part in parts),
    }


def check_once(url: str, ids: Sequence[int]) -> None:
    """No slot was given twice, and the database says so too: one attempt for each slot that is not waiting."""
    assert len(set(ids)) == len(ids), "a slot was given twice"
    engine = open_engine(url)
    given = select(func.count(), func.max(table.c.attempt)).where(table.c.idx >= 1_000_000, table.c.attempt > 0)
    with begin_read(engine) as connection:
        count, attempts = connection.execute(given).one()
    engine.dispose()
    assert (count, attempts) == (len(ids), 1 if ids else None), (count, attempts, len(ids))


def _claim_all(task: Task) -> Claimed:
    engines = [open_engine(task.url) for _ in range(task.claimers)]
    try:
        with ThreadPoolExecutor(task.claimers) as threads:
            parts = list(threads.map(lambda engine: _claim(engine, task), engines))
    finally:
        for engine in engines:
            engine.dispose()
    return Claimed(
        ids=[i for part in parts for i in part.ids],
        seconds=[s for part in parts for s in part.seconds],
        until=max(part.until for part in parts),
        empty=sum(part.empty for part in parts),
        timeouts=sum(part.timeouts for part in parts),
    )


def _claim(engine: Engine, task: Task) -> Claimed:
    with begin_read(engine) as connection:
        connection.execute(select(1))
    pause = task.starts - time.time()
    assert pause > 0, "the claimers took too long to connect"
    time.sleep(pause)
    ids, seconds, until, empty, timeouts = [], [], task.starts, 0, 0
    while time.time() < task.starts + task.seconds:
        begun = time.perf_counter()
        try:
            slot = claim_slot(engine, task.study_ids)
        except DatabaseUnreachable:
            timeouts += 1
            continue
        if slot is None:
            empty += 1
            time.sleep(EMPTY_PAUSE)
            continue
        seconds.append(time.perf_counter() - begun)
        ids.append(slot.id)
        until = time.time()
        if task.finish:
            end(engine, slot)
    return Claimed(ids=ids, seconds=seconds, until=until, empty=empty, timeouts=timeouts)


def claim_slot(engine: Engine, study_ids: Sequence[int]) -> slots.Slot | None:
    """Claim one slot."""
    claimed = claims.claim(engine, 1, worker="bench", lease_seconds=LEASE, model=MODEL, study_ids=study_ids)
    return claimed[0] if claimed else None


def end(engine: Engine, slot: slots.Slot) -> None:
    """Finish a claimed slot."""
    assert slots.finish(engine, slot.id, slot.token or "", outcome())


def in_turns(
    engines: Mapping[int, Engine], study_ids: Sequence[int], turns: int
) -> tuple[dict[int, list[float]], dict[int, list[float]]]:
    """Seconds of one worker's looks for something to claim and of its claims on each database.

    Each turn goes through all databases, beginning with another one.
    """
    polls: dict[int, list[float]] = {name: [] for name in engines}
    seconds: dict[int, list[float]] = {name: [] for name in engines}
    names = list(engines)
    for turn in range(turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            begun = time.perf_counter()
            assert claims.next_models(engines[name], study_ids) == [("digits", MODEL)]
            actual = time.perf_counter()
            slot = claim_slot(engines[name], study_ids)
            ended = time.perf_counter()
            assert slot is not None, "nothing was waiting any more"
            polls[name].append(actual - begun)
            seconds[name].append(ended - actual)
            end(engines[name], slot)
    return polls, seconds


def quantiles(seconds: Iterable[float]) -> dict[str, Any]:
    """Median and 99th percentile in ms, and of how many."""
    values = list(seconds)
    if len(values) < 2:
        return {"p50_ms": None, "p99_ms": None, "n": len(values)}
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {"p50_ms": 1e3 * cuts[49], "p99_ms": 1e3 * cuts[98], "n": len(values)}
