"""What the database work around one trial costs, step by step."""

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no types
from sqlalchemy import Connection, Engine, event, text

from bench import backlog
from bench.outcomes import outcome
from hpo.digits.pools import Digits
from hpo.digits.study_data import DigitsData
from hpo.storage import claims, migrate, slots, studies
from hpo.storage.engine import begin_read, open_engine
from hpo.storage.optuna_storage import EpochRecord, open_lean
from hpo.study import operations, phases
from hpo.study.search import Search
from hpo.study.spec import builtin_spec

LEASE = 600.0  # seconds
STORED = 10  # epochs between two renewals: a training of a minute, renewed every quarter of one
OFTEN = ("report", "prune")  # steps that come several times in a trial: a renewal, an epoch
STEPS = ("look", "claim", "bind", "ask", *OFTEN, "finish", "tell", "advance")


class Stopwatch:
    """Seconds and transactions of each step."""

    def __init__(self, engine: Engine) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.reads: dict[str, int] = defaultdict(int)  # transactions
        self.writes: dict[str, int] = defaultdict(int)
        self._step = ""
        event.listen(engine, "begin", self._begun)

    def _begun(self, connection: Connection) -> None:
        reads = connection.get_execution_options().get("hpo_read_only", False)
        (self.reads if reads else self.writes)[self._step] += 1

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what happens within, as this step."""
        self._step = name
        begun = time.perf_counter()
        yield
        self.seconds[name].append(time.perf_counter() - begun)
        self._step = ""

    def clear(self) -> None:
        """Forget what was measured."""
        self.seconds.clear()
        self.reads.clear()
        self.writes.clear()


def measure_cost(url: str, digits: Digits, levels: Sequence[int], trials: int) -> list[dict[str, Any]]:
    """One study of `ws`, TPE and 40 epochs that grows to each level; there so many trials are gone through."""
    engine = open_engine(url)
    migrate.create_or_check(engine)
    spec = builtin_spec("ws").with_options(trials=1 + levels[0] + trials)
    operations.create(engine, [operations.Planned(spec=spec, data=DigitsData(lambda: digits))])
    row = studies.get_study(engine, spec.name)
    storage = open_lean(engine)
    _go_through(engine, Search(storage, row), storage, Stopwatch(engine))  # slot 0, whose trial is there from the start
    actual = []
    for place, level in enumerate(levels):
        if place:
            have = studies.counts(engine, row.id)["search"].total
            operations.extend(engine, row.name, 1 + level + trials - have)  # one stays: the search must not end
        backlog.finish_trials(engine, row, level)
        actual.append({"finished": level, **_measure(url, row.name, trials)})
        print(f"{engine.dialect.name}: {level:,} finished trials measured", flush=True)
    engine.dispose()
    return actual


def _measure(url: str, name: str, trials: int) -> dict[str, Any]:
    """As a worker that is new to the study: the first trial, in which it reads all others, apart."""
    engine = open_engine(url)
    watch = Stopwatch(engine)
    storage = open_lean(engine)
    search = Search(storage, studies.get_study(engine, name))
    _go_through(engine, search, storage, watch)
    first = {step: sum(seconds) for step, seconds in watch.seconds.items()}
    watch.clear()
    before, begun, cpu = server_seconds(engine), time.perf_counter(), time.process_time()
    for _ in range(trials - 1):
        _go_through(engine, search, storage, watch)
    wall, cpu, after = time.perf_counter() - begun, time.process_time() - cpu, server_seconds(engine)
    engine.dispose()
    count = trials - 1
    return {
        "trials": count,
        "first": first,
        "steps": {
            step: {
                "seconds": sorted(watch.seconds[step]),
                "reads_a_trial": watch.reads[step] / count,
                "writes_a_trial": watch.writes[step] / count,
            }
            for step in STEPS
        },
        "seconds_a_trial": wall / count,
        "worker_cpu_a_trial": cpu / count,
        "server_cpu_a_trial": None if before is None or after is None else (after - before) / count,
    }


def _go_through(engine: Engine, search: Search, storage: Any, watch: Stopwatch) -> None:
    """All that a worker says to the database about one trial, without the training."""
    row, epochs = search.row, search.spec.budget.epochs
    with watch.step("look"):
        studies.list_studies(engine)
        assert claims.next_models(engine, [row.id])
    with watch.step("claim"):
        claimed = claims.claim(engine, 1, worker="bench", lease_seconds=LEASE, model=row.model, study_ids=[row.id])
    (slot,) = claimed
    token = slot.token or ""
    with watch.step("bind"):
        bound = storage.bind_trial(slot.id, token)
    slot = slots.get_slot(engine, slot.id)
    assert slot.trial_id == bound.trial_id
    with watch.step("ask"):
        search.ask(slot)
    curve = [0.9 - 0.3 * 0.8**epoch for epoch in range(1, epochs + 1)]  # better than most: never stopped
    reached: dict[int, float] = {}
    unstored: list[EpochRecord] = []
    for epoch, value in enumerate(curve, start=1):
        reached[epoch] = value
        unstored.append(EpochRecord(slot_id=slot.id, token=token, trial_id=bound.trial_id, epoch=epoch, value=value))
        renews = epoch % STORED == 1  # the first epoch at once, the last ones with the result
        if renews:
            with watch.step("report"):
                assert not storage.report(unstored, LEASE)
            unstored = []
        with watch.step("prune"):
            search.to_prune([(slot, reached)], max_age=0.0 if renews else math.inf)
    with watch.step("finish"):
        assert slots.finish(engine, slot.id, token, outcome(curve))
    with watch.step("tell"):
        for ended in slots.untold(engine, [row.id]):
            search.tell(ended)
    with watch.step("advance"):
        phases.advance(engine, studies.get_study_by_id(engine, row.id))


def server_seconds(engine: Engine) -> float | None:
    """CPU seconds that PostgreSQL's processes have used so far; SQLite has no server."""
    if engine.dialect.name != "postgresql":
        return None
    with begin_read(engine) as connection:
        backend = connection.scalar(text("SELECT pg_backend_pid()"))
    used = [child.cpu_times() for child in psutil.Process(backend).parent().children()]
    return float(sum(times.user + times.system for times in used))
