"""Workers that only sleep where others train: claims, leases, reports, searches and results are the real ones.

A `SleepingWorker` is hpo's worker with other trainers: an epoch is a sleep, and its value follows from the parameters.
`run_workers` has many of them in one process, a thread each, and answers what its parent asks over a pipe.
"""

import logging
import math
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import Connection, Engine, event

from hpo.digits import load
from hpo.digits.pools import Digits
from hpo.storage import claims
from hpo.storage.engine import open_engine
from hpo.storage.outcome import Outcome, OutcomeState
from hpo.training.population import LaneState
from hpo.worker.claim import Claim
from hpo.worker.fetcher import Group
from hpo.worker.job import Job
from hpo.worker.options import Options
from hpo.worker.outcomes import circumstances
from hpo.worker.trainers import Conclusion, TrainingEvent
from hpo.worker.worker import Worker

JITTER = 0.25  # a trial takes its seconds times 1 minus to 1 plus this
LONGEST_NAP = 2.0  # seconds after which a sleeper looks whether it is to stop
SWITCH_SECONDS = 0.0005  # after which a thread lets others of its process have a turn; they are to be like processes
VERSIONS = {"hpo": "0.1.0", "numpy": "2.4.6", "optuna": "5.0.0", "torch": "2.13.0"}


class Death(BaseException):
    """A simulated worker's process is gone: whatever its threads would do next does not happen."""


# --- What is counted ----------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Tally:
    """What the workers of a process have done so far."""

    reads: int = 0  # transactions
    writes: int = 0
    statements: int = 0
    waited: float = 0.0  # seconds in statements and commits, of all threads together
    fetches: list[float] = field(default_factory=list)  # seconds from asking for a slot to its training
    claims: list[float] = field(default_factory=list)  # seconds of the claim alone
    first: list[float] = field(default_factory=list)  # seconds since 1970 when a worker began its first training
    begun: int = 0  # trainings
    finished: int = 0  # trainings handed over
    lost: list[tuple[int, str]] = field(default_factory=list)  # leases, while their slots were in training
    warnings: Counter[str] = field(default_factory=Counter)  # lines of the log from WARNING on, by their template
    ended: Counter[str] = field(default_factory=Counter)  # workers whose life ended by itself, by the reason
    cpu: float = 0.0  # seconds of the process


class Watch:
    """Counts what engines do; all workers of a process share it."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._lock = threading.Lock()

    def add(self, **amounts: Any) -> None:
        """Add to numbers, append to lists."""
        with self._lock:
            for name, amount in amounts.items():
                current = getattr(self.tally, name)
                if isinstance(current, list):
                    current.append(amount)
                elif isinstance(current, Counter):
                    current[amount] += 1
                else:
                    setattr(self.tally, name, current + amount)

    def report(self) -> Tally:
        """A copy of what has been counted, with the process's time as it is."""
        with self._lock:
            now = dict(vars(self.tally))
            copied = {name: value.copy() for name, value in now.items() if isinstance(value, list | Counter)}
            return Tally(**{**now, **copied, "cpu": time.process_time()})

    def look_at(self, engine: Engine) -> None:
        """Count the engine's transactions and statements, and time what it waits for."""
        event.listen(engine, "begin", self._begun)
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)
        event.listen(engine, "commit", self._committing)
        event.listen(engine, "checkin", self._returned)

    def _begun(self, connection: Connection) -> None:
        reads = connection.get_execution_options().get("hpo_read_only", False)
        self.add(**{"reads" if reads else "writes": 1})

    def _before(self, connection: Connection, *_: Any) -> None:
        connection.info["bench_asked"] = time.perf_counter()

    def _after(self, connection: Connection, *_: Any) -> None:
        self.add(statements=1, waited=time.perf_counter() - connection.info.pop("bench_asked"))

    def _committing(self, connection: Connection) -> None:
        connection.info["bench_commits"] = time.perf_counter()

    def _returned(self, _: Any, record: Any) -> None:
        if (begun := record.info.pop("bench_commits", None)) is not None:
            self.add(waited=time.perf_counter() - begun)


class Warnings(logging.Handler):
    """Counts warnings instead of printing thousands."""

    def __init__(self, watch: Watch) -> None:
        super().__init__(logging.WARNING)
        self._watch = watch

    def emit(self, record: logging.LogRecord) -> None:
        """Count it by its template."""
        detail = f" [{record.args[-1]}]" if isinstance(record.args, tuple) and "next try" in str(record.msg) else ""
        self._watch.add(warnings=f"{record.msg}{detail[:160]}")


# --- Sleeping instead of training ---------------------------------------------------------------------------


def curve(params: Mapping[str, Any], epochs: int, rng: random.Random) -> list[float]:
    """Accuracies by epoch that rise towards a smooth function of the parameters, with noise."""
    rate = math.log10(float(params.get("learning_rate", 1e-3))) + 2.6
    dropout = float(params.get("dropout", 0.2)) - 0.25
    reached = 0.88 - 0.04 * rate**2 - 0.15 * dropout**2 + rng.gauss(0, 0.01)
    steps = [reached - 0.3 * 0.85**epoch + rng.gauss(0, 0.004) for epoch in range(1, epochs + 1)]
    return [round(min(0.999, max(0.001, value)), 9) for value in steps]


@dataclass(kw_only=True)
class Sleep:
    """A training that sleeps."""

    job: Job
    epoch_seconds: float
    due: float  # when its present epoch ends, by the monotonic clock
    values: Sequence[float]  # by epoch


class Sleepers:
    """`Trainers` whose trainings sleep; epochs end when they are due, whatever the database does."""

    def __init__(
        self,
        *,
        lanes: int,
        trial_seconds: float,
        stopped: Callable[[Claim], bool],
        lost: Callable[[Claim], bool],
        watch: Watch,
        book: Path,
    ) -> None:
        """What is finished is written into the file `book`, a line each, before it is handed over."""
        self.group: Group | None = None
        self.training_seconds = 0.0
        self.dead = False
        self._lanes, self._trial_seconds, self._stopped, self._lost = lanes, trial_seconds, stopped, lost
        self._watch, self._book = watch, book
        self._sleeps: list[Sleep] = []
        self._ended: list[Job] = []
        self._woken = threading.Event()
        self._first = True

    @property
    def jobs(self) -> list[Job]:
        """What sleeps."""
        return [sleep.job for sleep in self._sleeps]

    @property
    def free(self) -> int:
        """How many more may sleep."""
        return 0 if self.group is None else self._lanes - len(self._sleeps)

    @property
    def width(self) -> int | None:
        """The lanes."""
        return self._lanes

    def serve(self, group: Group) -> None:
        """Any group will do."""
        self.group = group

    def leave(self) -> None:
        """Nothing is held."""
        self.group = None

    def load(self, jobs: Sequence[Job]) -> None:
        """Nothing is kept: an attempt begins anew."""

    def start(self, job: Job) -> None:
        """Begin to sleep."""
        rng = random.Random(job.claim.token)
        seconds = self._trial_seconds * rng.uniform(1 - JITTER, 1 + JITTER) / job.epochs
        values = curve(job.params, job.epochs, rng)
        self._sleeps.append(Sleep(job=job, epoch_seconds=seconds, due=time.monotonic() + seconds, values=values))
        self._watch.add(begun=1)
        if self._first:
            self._first = False
            self._watch.add(first=time.time())

    def poll(self, stop: Callable[[], bool]) -> list[TrainingEvent]:
        """The epochs that have ended by now; until then sleep."""
        while not stop():
            if self.dead:
                raise Death
            now = time.monotonic()
            if due := [sleep for sleep in self._sleeps if sleep.due <= now]:
                return [self._event(sleep) for sleep in due]
            if self._woken.wait(min(LONGEST_NAP, min(sleep.due for sleep in self._sleeps) - now)):
                self._woken.clear()
                return []
        return []

    def _event(self, sleep: Sleep) -> TrainingEvent:
        job = sleep.job
        value = sleep.values[len(job.train_loss)]
        job.train_loss.append(round(1 - value, 4))
        job.validation_accuracy.append(value)
        job.device_seconds += sleep.epoch_seconds
        self.training_seconds += sleep.epoch_seconds
        sleep.due += sleep.epoch_seconds
        epoch = len(job.train_loss)
        over = "complete" if epoch == job.epochs else "pruned" if self._stopped(job.claim) else None
        ended: OutcomeState | None = over  # type: ignore[assignment]  # a literal, but for mypy's join
        return TrainingEvent(job=job, epoch=epoch, value=value, ended=ended)

    def wake(self) -> None:
        """End the sleep of `poll`."""
        self._woken.set()

    def states(self) -> Iterator[tuple[Job, LaneState]]:
        """None: there are no weights."""
        return iter(())

    def state_of(self, job: Job) -> LaneState | None:
        """None: there are no weights."""
        return None

    def end(self, job: Job) -> None:
        """Its lane is free."""
        self._remove(job)
        self._ended.append(job)

    def conclude(self, job: Job, how: OutcomeState) -> Conclusion:
        """The outcome, in the book before anybody else has it."""
        outcome = Outcome(
            state=how,
            value=job.validation_accuracy[-1],
            loss=0.5,
            train_accuracy=0.99 if how == "complete" else None,
            epochs=len(job.train_loss),
            train_loss=tuple(job.train_loss),
            validation_accuracy=tuple(job.validation_accuracy),
            device_seconds=round(job.device_seconds, 3),
            device="none: it slept",
            versions=VERSIONS,
            **circumstances(job),
        )
        slot_id, token = job.claim.lease
        with self._book.open("a", encoding="utf-8") as book:
            book.write(f"{slot_id} {token} {outcome.value!r}\n")
        self._watch.add(finished=1)
        return Conclusion(outcome=outcome, outputs=None)

    def drop(self, job: Job) -> None:
        """Its lane is free; where it slept still, its lease is lost."""
        if job in self.jobs and self._lost(job.claim):
            self._watch.add(lost=job.claim.lease)
        self._remove(job)
        self._ended = [other for other in self._ended if other is not job]

    def _remove(self, job: Job) -> None:
        self._sleeps = [sleep for sleep in self._sleeps if sleep.job is not job]

    def settle(self, job: Job) -> None:
        """There is no checkpoint."""

    def forget_checkpoint(self, job: Job) -> None:
        """There is none."""

    def close(self, seconds: float) -> None:
        """There is nothing to keep."""


class SleepingWorker(Worker):
    """hpo's worker with sleepers for lanes."""

    def __init__(
        self, engine: Engine, digits: Digits, options: Options, *, trial_seconds: float, watch: Watch, book: Path
    ) -> None:
        """`options.lanes` says how many sleep at once."""
        super().__init__(engine, lambda: digits, options)
        self.sleepers = Sleepers(
            lanes=options.lanes or 1,
            trial_seconds=trial_seconds,
            stopped=self.coordinator.stopped,
            lost=self.coordinator.lost,
            watch=watch,
            book=book,
        )
        self.lanes = self.sleepers  # type: ignore[assignment]  # what the worker asks of them is in `Trainers`
        self.trainers = self.sleepers
        self._fetch, self._watch = self.fetcher.fetch, watch
        self.fetcher.fetch = self._timed_fetch  # type: ignore[method-assign]
        event.listen(engine, "begin", self._check_alive)

    def _timed_fetch(self, *arguments: Any, **options: Any) -> list[Job]:
        """From asking to slots that can be trained, where there are any."""
        begun = time.perf_counter()
        jobs = self._fetch(*arguments, **options)
        if jobs:
            self._watch.add(fetches=time.perf_counter() - begun)
        return jobs

    def die(self) -> None:
        """As if its process were killed: no thread of it says anything to the database any more."""
        self.sleepers.dead = True
        self.sleepers.wake()

    def _check_alive(self, connection: Connection) -> None:
        if self.sleepers.dead:
            raise Death


# --- Many in a process --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Crew:
    """The workers of one process."""

    url: str
    workers: int
    lanes: int
    trial_seconds: float
    lease_seconds: float
    folder: Path  # for results on disk
    book: Path  # where what is finished is written


class _Compiled:
    """SQL that one worker of a process has compiled is compiled for all, as it is for the trials of a real one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: Engine | None = None

    def share(self, engine: Engine) -> None:
        """Let an engine that has just been opened use what the first one of the process has compiled."""
        with self._lock:
            self._first = self._first or engine
        engine.dialect, engine._compiled_cache = self._first.dialect, self._first._compiled_cache


class _Place:
    """Where a worker lives, one after the other: who dies is followed by another."""

    def __init__(self, crew: Crew, digits: Digits, watch: Watch, compiled: "_Compiled") -> None:
        self._crew, self._digits, self._watch, self._compiled = crew, digits, watch, compiled
        self._over = threading.Event()
        self.worker: SleepingWorker | None = None
        self.thread = threading.Thread(target=self._live, daemon=True)

    def stop(self) -> None:
        self._over.set()
        if (worker := self.worker) is not None:
            worker.stop()

    def _live(self) -> None:
        while not self._over.is_set():
            engine = None
            try:
                engine = open_engine(self._crew.url)
                self._compiled.share(engine)
                self._watch.look_at(engine)
                self._work(engine)
            except Death:
                self._watch.add(ended="died, as it was to")
            except Exception as error:
                self._watch.add(ended=f"{type(error).__name__}: {' '.join(str(error).split())[:160]}")
                self._over.wait(1.0)
            finally:
                self.worker = None
                if engine is not None:
                    engine.dispose()

    def _work(self, engine: Engine) -> None:
        options = Options(
            device="cpu",
            lanes=self._crew.lanes,
            lease_seconds=self._crew.lease_seconds,
            artifacts=str(self._crew.folder),
        )
        crew = self._crew
        self.worker = SleepingWorker(
            engine,
            self._digits,
            options,
            trial_seconds=crew.trial_seconds,
            watch=self._watch,
            book=crew.book,
        )
        if self._over.is_set():
            return
        code = self.worker.run()
        if not self._over.is_set():
            self._watch.add(ended=f"ended with code {code}")


def run_workers(crew: Crew, pipe: Pipe) -> None:
    """Start the workers when told "go", then answer: "report" (a Tally), "kill" with how many, "stop"."""
    sys.setswitchinterval(SWITCH_SECONDS)
    watch = Watch()
    logging.basicConfig(handlers=[Warnings(watch)], level=logging.WARNING)
    threading.excepthook = lambda _: None  # of those that died
    digits = load.load(None)
    timed = _timed(claims.claim, watch)
    with mock.patch.object(claims, "claim", timed):
        compiled = _Compiled()
        places = [_Place(crew, digits, watch, compiled) for _ in range(crew.workers)]
        pipe.send("ready")
        with suppress(EOFError):
            while _obey(pipe.recv(), places, watch, pipe):
                pass
    os._exit(0)  # some threads may still wait for the database


def _obey(command: tuple[Any, ...], places: Sequence[_Place], watch: Watch, pipe: Pipe) -> bool:
    match command:
        case ("go", spread):
            for number, place in enumerate(places):
                threading.Timer(spread * (number + random.random()) / len(places), place.thread.start).start()
        case ("kill", count):
            training = [p.worker for p in places if p.worker is not None and p.worker.sleepers.jobs]
            chosen = random.sample(training, min(count, len(training)))
            for worker in chosen:
                worker.die()
            pipe.send(len(chosen))
        case ("report",):
            pipe.send(watch.report())
        case ("stop", seconds):
            deadline = time.monotonic() + seconds
            for place in places:
                place.stop()
            for place in places:
                place.thread.join(max(0.0, deadline - time.monotonic()))
            pipe.send((watch.report(), sum(place.thread.is_alive() for place in places)))
            return False
    return True


def _timed(claim: Callable[..., list[Any]], watch: Watch) -> Callable[..., list[Any]]:
    def act(*arguments: Any, **options: Any) -> list[Any]:
        begun = time.perf_counter()
        claimed = claim(*arguments, **options)
        if claimed:
            watch.add(claims=time.perf_counter() - begun)
        return claimed

    return act
