"""One worker's life: claim slots, train them in a population, hand over what they gave, refill, stop."""

import os
import signal
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

from sqlalchemy import Engine

from hpo.digits.pools import Digits, FinalPermit, to_network_images
from hpo.server.notes import keep_notes, quietly
from hpo.storage import claims, slots
from hpo.storage.engine import is_transient, why_transient
from hpo.storage.optuna_storage import open_optuna
from hpo.study.projection import project
from hpo.study.search import Search
from hpo.training import draws
from hpo.training.augmentation import SAMPLES_PER_PAIR
from hpo.training.memory import is_out_of_memory
from hpo.training.population import EpochReport, LanesFailed, LaneState, Population
from hpo.training.sizing import choose_lanes
from hpo.worker.checkpoints import Checkpoints, Keeper
from hpo.worker.coordinator import FIRST_BACKOFF, LONGEST_BACKOFF, Coordinator
from hpo.worker.device import choose_device
from hpo.worker.fetcher import Group, Ready, Supply
from hpo.worker.job import Draws, Job
from hpo.worker.outcomes import finished, in_words
from hpo.worker.spool import Spool
from hpo.worker.stores import places
from hpo.worker.threads import Background, errand

T = TypeVar("T")

LEASE_SECONDS = 60.0
CHECKPOINT_SECONDS = 60.0  # between two checkpoints of all lanes
EXIT_SECONDS = 2.5  # each for checkpoints, for slots on their way, for the database: what a signal leaves to do
PROMPT_SECONDS = 0.2  # that lanes in training wait for the database at an epoch boundary
POLL_SECONDS = 1.0  # between two looks for work when there is none
REFILLS = 16  # lanes refilled before the worker looks which model has the fewest running slots


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a worker runs."""

    study_names: Sequence[str] = ()  # none: all studies
    device: str = "auto"  # auto | cpu | cuda | cuda:1
    lanes: int | None = None  # None: chosen by the device
    drain: bool = False  # end when nothing is left
    max_trials: int | None = None  # end after so many
    lease_seconds: float = LEASE_SECONDS
    artifacts: str | None = None  # a folder or s3://BUCKET for checkpoints; None: `default_folder`
    checkpoint_seconds: float = CHECKPOINT_SECONDS


@dataclass
class _Trained:
    """A final round that is trained and waits for its test."""

    ready: Ready
    state: LaneState
    opening: Future[bool] | None = None  # of pool B, as the database records it


class Worker:
    """A process that pulls slots and trains them."""

    def __init__(self, engine: Engine, digits: Digits, options: Options, say: Callable[[str], None] = print) -> None:
        self.engine, self.digits, self.options, self.say = engine, digits, options, say
        self.device = choose_device(options.device)
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
        self.storage = open_optuna(engine)
        images = to_network_images(digits.pool_a_images())
        self.draws = Draws(draws.ImagePool.from_numpy("A", images, digits.pool_a_labels()))
        store, folder = places(engine, options.artifacts)
        self.spool = Spool(folder / "results", engine)
        self.keeper = Keeper(Checkpoints(store), options.checkpoint_seconds, say)
        self.background = Background()
        self.coordinator = Coordinator(engine, self.storage, self.spool, options.lease_seconds, say, self._moved)
        self.supply = Supply(
            engine,
            self.storage,
            self.coordinator,
            self.keeper,
            digits,
            worker=self.name,
            study_names=options.study_names,
            lease_seconds=options.lease_seconds,
            say=say,
        )
        self.population: Population | None = None
        self.group: Group | None = None
        self.jobs: dict[int, Ready] = {}  # by lane
        self.trials = 0  # begun
        self.refills = 0  # since the group was chosen
        self.seconds = 0.0  # from start to end
        self.training_seconds = 0.0  # of them in epochs: steps and validation
        self._fetched: Future[list[Ready]] | None = None  # slots on their way
        self._untested: list[_Trained] = []
        self._away_until, self._pause = 0.0, FIRST_BACKOFF  # until when the database is not asked again
        self._signal: int | None = None
        self._wake = threading.Event()
        self._measured: dict[Group, int] = {}

    # -- life ----------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Pull slots until told to stop, drained, or done with `max_trials`; returns the exit code."""
        begun = time.monotonic()
        self.coordinator.start()
        try:
            self._ask(lambda: self.spool.deliver(self.say))
            while self._signal is None:
                reached = self._reach(self._catch_up)
                if self.jobs:
                    self._epoch()
                elif not reached:
                    self._wake.wait(max(0.0, self._away_until - time.monotonic()))
                elif self._reach(lambda: self._ask(self._wait_for_work)) is False:
                    break
        finally:
            self._give_back()
            if not self.coordinator.close(lambda: None if self._signal is None else EXIT_SECONDS):
                self.say(f"the database does not answer; results that it has not taken are kept in {self.spool.folder}")
        while self._signal is None and not self.background.settle(PROMPT_SECONDS):
            pass
        self._check_coordinator()
        self.seconds = time.monotonic() - begun
        return 0 if self._signal is None else 128 + self._signal

    def _give_back(self) -> None:
        """Checkpoint what is in work and release its slots."""
        self.keeper.save(self._states(), EXIT_SECONDS)
        if self._fetched is not None:
            wait([self._fetched], EXIT_SECONDS)  # so that no slot is claimed after the release
        self.coordinator.release_all()
        for one in [*self.jobs.values(), *(trained.ready for trained in self._untested)]:
            done, epochs = len(one.job.train_loss), one.job.spec.budget.epochs
            self.say(f"slot {one.job.slot.id}: given back after epoch {done} of {epochs}")

    def _states(self) -> list[tuple[Job, LaneState]]:
        """Every training where it is."""
        states = [(one.job, self.population.state(lane)) for lane, one in self.jobs.items() if self.population]
        return [*states, *((trained.ready.job, trained.state) for trained in self._untested)]

    def _moved(self, name: str) -> None:
        """A study's phase has moved on: its note is to say so."""
        self.background.ask(lambda: quietly(lambda: keep_notes(self.engine, [name]), self.say))

    def _reach(self, act: Callable[[], T]) -> T | None:
        """Do what needs the database, or None where it does not answer: not before the next try is due."""
        if time.monotonic() < self._away_until:
            return None
        try:
            done = act()
        except Exception as error:
            if not is_transient(error):
                raise
            self.say(f"the database does not answer; {len(self.jobs)} trial(s) train on: {why_transient(error)}")
            self._away_until = time.monotonic() + self._pause
            self._pause = min(2 * self._pause, LONGEST_BACKOFF)
            return None
        self._pause = FIRST_BACKOFF
        return done

    def _ask(self, act: Callable[[], T]) -> T | None:
        """With nothing to train, ask the database for something; None where a signal comes before the answer."""
        asked = errand(act)
        while self._signal is None and not wait([asked], PROMPT_SECONDS).done:
            pass
        return asked.result() if asked.done() else None

    def _done(self, future: Future[Any]) -> bool:
        """Whether an errand is done: waited for while nothing trains, else for a moment."""
        while not wait([future], PROMPT_SECONDS).done and not self.jobs and self._signal is None:
            pass
        return future.done()

    def _catch_up(self) -> bool:
        """Test the final rounds that are trained, then fill the lanes."""
        for trained in list(self._untested):
            self._test(trained)
        self._refill()
        return True

    def listen(self) -> None:
        """Stop at the next training step on SIGTERM and SIGINT; a second signal kills."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = number
        self._wake.set()
        signal.signal(number, signal.SIG_DFL)

    def _check_coordinator(self) -> None:
        if self.coordinator.crash is not None:
            raise self.coordinator.crash

    @property
    def _exhausted(self) -> bool:
        return self.options.max_trials is not None and self.trials >= self.options.max_trials

    def _wait_for_work(self) -> bool:
        """With nothing to train: heal what others left; False when this worker's life is over."""
        self.coordinator.settle(self.options.lease_seconds)
        self._check_coordinator()
        if self._exhausted:
            return False
        rows = self.supply.rows()
        ids = [row.id for row in rows]
        # Looked at first: what ends after this may open the next phase, which its worker need not survive.
        busy = claims.any_open(self.engine, ids)
        claims.sweep(self.engine)
        for row in rows:
            if project(self.engine, Search(self.storage, row)):
                self._moved(row.name)
        if self.supply.claimable(rows):
            return True
        if self.options.drain and not busy and not claims.any_open(self.engine, ids):
            return False
        self._wake.wait(POLL_SECONDS)
        return True

    # -- refilling -----------------------------------------------------------------------------------------

    def _refill(self) -> None:
        """Have free lanes filled; while others train it is a thread's errand, and they are not kept waiting."""
        if self._fetched is None:
            if not self.jobs and not self._exhausted:
                self._take_turn()
            if self.population is None or self.group is None or not self._wanted:
                return
            group, turn_over = self.group, self.refills >= REFILLS
            wanted = self._wanted
            self._fetched = errand(lambda: self.supply.fetch(group, wanted, if_its_turn=turn_over))
        if not self._done(self._fetched):
            return
        fetched, self._fetched = self._fetched, None
        ready = fetched.result()
        if ready and self.refills >= REFILLS:
            self.refills = 0
        for one in ready:
            self._start(one)

    @property
    def _wanted(self) -> int:
        """How many slots there are lanes for."""
        assert self.population is not None
        free = len(self.population.free)
        return free if self.options.max_trials is None else min(free, self.options.max_trials - self.trials)

    def _take_turn(self) -> None:
        """With nothing to train: stay with the group or take the one whose turn it is."""
        stay = None if self.refills >= REFILLS else self.group
        group = self._ask(lambda: self.supply.turn(stay))
        if group is not None and group != stay:
            self._populate(group)

    def _populate(self, group: Group) -> None:
        self.refills = 0
        if group == self.group:
            return
        self.group = group
        self.population = None  # its memory is free before the next one's is asked for
        samples = SAMPLES_PER_PAIR * group.training_pairs
        lanes = self.options.lanes or self._lanes(group, samples)
        while self.population is None:
            try:
                self.population = Population(
                    group.model, lanes, self.draws.pool.images, samples=samples, batch=group.batch, device=self.device
                )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error) or lanes == 1:
                    raise
                lanes = (lanes + 1) // 2
                self.say(f"out of memory: a population of {lanes} lane(s) instead")

    def _lanes(self, group: Group, samples: int) -> int:
        """As many lanes as are measured to be fastest for a group, found out once."""
        if group not in self._measured:
            size = choose_lanes(
                group.model,
                self.draws.pool,
                samples=samples,
                batch=group.batch,
                device=self.device,
                most=self.options.max_trials,
            )
            self.say(f"{group.model}: {size}")
            self._measured[group] = size.lanes
        return self._measured[group]

    def _start(self, one: Ready) -> None:
        """Put a slot on a lane, from its checkpoint where there is one."""
        assert self.population is not None
        if not self.population.free:  # memory ran out meanwhile
            self.coordinator.release(one.held)
            return
        lane = self.population.free[0]
        try:
            self.population.start(lane, self.draws.task(one.job), one.state)
        except Exception:
            self.population.stop(lane)
            self._failed(one, traceback.format_exc())
            return
        self.jobs[lane] = one
        self.trials += 1
        self.refills += 1
        if one.state is not None and one.state.epoch >= one.job.spec.budget.epochs:  # trained, but not tested
            self._end(lane, "complete")

    # -- training ------------------------------------------------------------------------------------------

    def _epoch(self) -> None:
        """Train one epoch and deal with what every lane reports; a signal ends it on the way."""
        assert self.population is not None
        self._check_coordinator()
        width, begun = self.population.width, time.monotonic()
        try:
            reports, errors = self.population.train_epoch(stop=lambda: self._signal is not None), {}
        except LanesFailed as failed:
            reports, errors = failed.reports, failed.errors
        elapsed = time.monotonic() - begun
        self.training_seconds += elapsed
        if self.population.width < width:
            self.say(f"out of memory: {self.population.width} lane(s) at a time from now on; every trial goes on")
        for lane, why in errors.items():
            self._failed(self._free(lane), why)
        for report in reports:
            self.jobs[report.lane].job.note(report, elapsed / len(reports))
            self._deal(report)
        if self.keeper.due:
            self.keeper.save(self._states(), stop=lambda: self._signal is not None)

    def _failed(self, one: Ready, why: str) -> None:
        """An exception in a trial's training or evaluation, and not its neighbours' failure."""
        self.say(why)
        self.coordinator.fail(one.held, why)

    def _deal(self, report: EpochReport) -> None:
        one = self.jobs[report.lane]
        job, held = one.job, one.held
        if self.coordinator.lost(held):
            self._free(report.lane)
            self.say(f"{job.title}: its lease was lost; its lane takes another")
            return
        if not report.diverged:
            self.coordinator.report(held, report.epoch, report.validation_accuracy)
        if report.diverged:
            self._end(report.lane, "diverged")
        elif report.last:
            self._end(report.lane, "complete")
        elif self.coordinator.stopped(held):
            self._end(report.lane, "pruned")

    def _end(self, lane: int, how: str) -> None:
        """A training is over: complete, pruned or diverged. A final round's test takes the database's leave."""
        assert self.population is not None
        trained = _Trained(self.jobs[lane], self.population.state(lane))
        one = self._free(lane)
        if one.job.slot.kind == "final" and how == "complete":
            self._untested.append(trained)
            self._reach(lambda: self._test(trained))
        else:
            self._finish(one, trained.state, how)

    def _test(self, trained: _Trained) -> bool:
        """Open pool B for a final round, once that is on record, and hand over its outcome."""
        slot, token = trained.ready.job.slot, trained.ready.held.token
        if trained.opening is None:
            trained.opening = errand(lambda: slots.record_opening(self.engine, slot.id, token, self.name))
        if not self._done(trained.opening):
            return False
        opening, trained.opening = trained.opening, None
        opened = opening.result()
        self._untested.remove(trained)
        if opened:
            self._finish(trained.ready, trained.state, "complete")
        else:
            self.coordinator.release(trained.ready.held)
            self.say(f"slot {slot.id}: the lease was lost before its test")
        return True

    def _finish(self, one: Ready, state: LaneState, how: str) -> None:
        """Hand over the outcome of a training."""
        assert self.population is not None
        job = one.job
        training = self.draws.task(job).training
        try:
            outcome, outputs = finished(
                job, self.population, state.parameters, training, how, lambda: self._test_pairs(job)
            )
        except Exception:
            self._failed(one, traceback.format_exc())
            return
        self.coordinator.finish(one.held, outcome, outputs)
        self.background.ask(lambda: self.keeper.forget(job))
        self.say(f"{job.title}: {in_words(outcome, job.slot.kind)}")

    def _test_pairs(self, job: Job) -> tuple[draws.ImagePool, draws.PairTable]:
        """The test pairs of a final round, whose opening of pool B is on record."""
        permit = FinalPermit(slot_id=job.slot.id, attempt=job.slot.attempt, worker=self.name)
        opened = self.digits.open_pool_b(permit)
        pool = draws.ImagePool.from_numpy("B", to_network_images(opened.images), opened.labels)
        return pool, draws.draw_test(pool, job.draw_seed, job.spec.protocol.test_pairs)

    def _free(self, lane: int) -> Ready:
        assert self.population is not None
        self.population.stop(lane)
        return self.jobs.pop(lane)
