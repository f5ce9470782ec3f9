"""One worker's life: claim slots, train them in a population, hand over what they gave, refill, stop."""

import os
import signal
import socket
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from sqlalchemy import Engine

from hpo.artifacts import Checkpoints, Spool, places
from hpo.coordination import FIRST_BACKOFF, LONGEST_BACKOFF, Coordinator, Held, project
from hpo.device import choose_device
from hpo.digits import Digits, FinalPermit, to_network_images
from hpo.errors import LeaseLost
from hpo.job import Draws, Job, finished
from hpo.keeper import Keeper
from hpo.search import Search, fixed_trial
from hpo.spec import StudySpec
from hpo.storage import claims, slots, studies
from hpo.storage.engine import is_transient, why_transient
from hpo.storage.optuna_storage import open_optuna
from hpo.storage.slots import Slot
from hpo.storage.studies import StudyRow
from hpo.training import data
from hpo.training.memory import is_out_of_memory
from hpo.training.population import EpochReport, LaneState, Population
from hpo.training.sizing import choose_lanes

LEASE_SECONDS = 60.0
CHECKPOINT_SECONDS = 60.0  # between two checkpoints of all lanes
EXIT_SECONDS = 5.0  # for the database to take what a signal leaves to be stored
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


@dataclass(frozen=True)
class _Trained:
    """A training that is over, before its outcome is made."""

    job: Job
    held: Held
    how: str  # complete | pruned | diverged
    state: LaneState


@dataclass(frozen=True)
class _Group:
    """Studies whose slots may share a population: one model, equally many steps an epoch."""

    model: str
    training_pairs: int
    batch: int


class Worker:
    """A process that pulls slots and trains them."""

    def __init__(self, engine: Engine, digits: Digits, options: Options, say: Callable[[str], None] = print) -> None:
        self.engine, self.digits, self.options, self.say = engine, digits, options, say
        self.device = choose_device(options.device)
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
        self.storage = open_optuna(engine)
        images = to_network_images(digits.pool_a_images())
        self.draws = Draws(data.ImagePool.from_numpy("A", images, digits.pool_a_labels()))
        store, folder = places(engine, options.artifacts)
        self.spool = Spool(folder / "results", engine)
        self.keeper = Keeper(Checkpoints(store), options.checkpoint_seconds, say)
        self.coordinator = Coordinator(engine, self.storage, self.spool, options.lease_seconds, say)
        self.population: Population | None = None
        self.group: _Group | None = None
        self.jobs: dict[int, tuple[Job, Held]] = {}  # by lane
        self.trials = 0  # claimed
        self.refills = 0  # since the group was chosen
        self.seconds = 0.0  # from start to end
        self.training_seconds = 0.0  # of them in epochs: steps and validation
        self._untested: list[_Trained] = []
        self._away_until, self._pause = 0.0, FIRST_BACKOFF  # until when the database is not asked again
        self._signal: int | None = None
        self._wake = threading.Event()
        self._other_data: set[str] = set()
        self._measured: dict[_Group, int] = {}

    # -- life ----------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Pull slots until told to stop, drained, or done with `max_trials`; returns the exit code."""
        begun = time.monotonic()
        self.coordinator.start()
        try:
            self.spool.deliver(self.say)
            while self._signal is None:
                reached = self._reach(self._catch_up)
                if self.jobs:
                    self._epoch()
                elif not reached:
                    self._wake.wait(max(0.0, self._away_until - time.monotonic()))
                elif self._reach(self._wait_for_work) is False:
                    break
        finally:
            self._give_back()
            if not self.coordinator.close(lambda: None if self._signal is None else EXIT_SECONDS):
                self.say(f"the database does not answer; results that it has not taken are kept in {self.spool.folder}")
        self._check_coordinator()
        self.seconds = time.monotonic() - begun
        return 0 if self._signal is None else 128 + self._signal

    def _give_back(self) -> None:
        """Checkpoint what is in work and release its slots."""
        self._checkpoint()
        for job, held in [*self.jobs.values(), *((one.job, one.held) for one in self._untested)]:
            self.coordinator.release(held)
            self.say(f"slot {job.slot.id}: given back after epoch {len(job.train_loss)} of {job.spec.budget.epochs}")

    def _checkpoint(self) -> None:
        """Keep every training where it is."""
        states = [(job, self.population.state(lane)) for lane, (job, _) in self.jobs.items() if self.population]
        self.keeper.save([*states, *((one.job, one.state) for one in self._untested)])

    def _reach(self, act: Callable[[], bool]) -> bool | None:
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

    def _catch_up(self) -> bool:
        """Test the final rounds that are trained, then fill the lanes."""
        while self._untested:
            self._finish(self._untested[0])
            self._untested.pop(0)
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
        rows = self._rows()
        ids = [row.id for row in rows]
        # Looked at first: what ends after this may open the next phase, which its worker need not survive.
        busy = claims.any_open(self.engine, ids)
        claims.sweep(self.engine)
        for row in rows:
            project(self.engine, Search(self.storage, row))
        if self._claimable(ids):
            return True
        if self.options.drain and not busy and not claims.any_open(self.engine, ids):
            return False
        self._wake.wait(POLL_SECONDS)
        return True

    # -- refilling -----------------------------------------------------------------------------------------

    def _rows(self) -> list[StudyRow]:
        """The studies that this worker serves: the named ones or all, made with the data that it has."""
        names = self.options.study_names
        rows = [studies.get_study(self.engine, n) for n in names] if names else studies.list_studies(self.engine)
        for row in rows:
            if row.data_digest != self.digits.digest and row.name not in self._other_data:
                self._other_data.add(row.name)
                self.say(f"study {row.name} was made with other data than {self.digits.source}: left alone")
        return [row for row in rows if row.data_digest == self.digits.digest]

    def _claimable(self, ids: Sequence[int]) -> list[str]:
        return claims.next_models(self.engine, ids)

    def _choose(self, rows: Sequence[StudyRow]) -> _Group | None:
        """The group whose model has the fewest running slots."""
        for model in self._claimable([row.id for row in rows]):
            groups = {_group(row): row for row in rows if row.model == model}
            for group in sorted(groups, key=lambda g: (g.training_pairs, g.batch)):
                ids = [row.id for row in rows if _group(row) == group]
                if self._claimable(ids):
                    return group
        return None

    def _refill(self) -> None:
        if self._exhausted or (self.jobs and self.population and not self.population.free):
            return
        rows = self._rows()
        if not self.jobs and (self.group is None or self.refills >= REFILLS or not self._serves(rows)):
            group = self._choose(rows)
            if group is None:
                return
            self._populate(group)
        elif self.refills >= REFILLS:
            if self._choose(rows) != self.group:
                return  # another model's turn: let the population run empty
            self.refills = 0
        assert self.population is not None
        free = self.population.free
        wanted = len(free) if self.options.max_trials is None else min(len(free), self.options.max_trials - self.trials)
        own = {row.id: row for row in rows if _group(row) == self.group}
        if not own or not wanted:
            return
        claimed = claims.claim(
            self.engine,
            wanted,
            worker=self.name,
            lease_seconds=self.options.lease_seconds,
            model=self.population.name,
            study_ids=list(own),
        )
        waiting = list(zip(free, claimed, strict=False))
        try:
            while waiting:
                lane, slot = waiting[0]
                self._start(lane, slot, own[slot.study_id])
                waiting.pop(0)
        except Exception as error:
            if is_transient(error):
                for _, slot in waiting:
                    search = Search(self.storage, own[slot.study_id])
                    self.coordinator.release(Held(slot=slot, token=slot.token or "", search=search))
            raise

    def _serves(self, rows: Sequence[StudyRow]) -> bool:
        return bool(self._claimable([row.id for row in rows if _group(row) == self.group]))

    def _populate(self, group: _Group) -> None:
        self.refills = 0
        if group == self.group:
            return
        self.group = group
        self.population = None  # its memory is free before the next one's is asked for
        samples = 2 * len(data.SHIFTS) * group.training_pairs
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

    def _lanes(self, group: _Group, samples: int) -> int:
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

    def _start(self, lane: int, slot: Slot, row: StudyRow) -> None:
        """Bind the slot to its trial, ask for its parameters, and put it on a lane."""
        assert self.population is not None
        assert slot.token is not None
        search = Search(self.storage, row)
        try:
            template = None
            if slot.kind != "search":
                template = fixed_trial(search.spec, slot.params or {}, slot.label or "", slot.round or 0)
            bound = self.storage.bind_trial(slot.id, slot.token, template)
            slot = replace(slot, trial_id=bound.trial_id, trial_number=bound.number)
            params = search.ask(slot) if slot.kind == "search" else slot.params or {}
            if slot.params is None and not slots.record_params(self.engine, slot.id, slot.token or "", params):
                raise LeaseLost(f"slot {slot.id}: the lease was lost before it began")
        except LeaseLost as error:
            self.say(str(error))
            return
        held = Held(slot=slot, token=slot.token or "", search=search)
        job = Job(slot=slot, row=row, spec=search.spec, params=params, lane=lane)
        self.coordinator.hold(held)
        self.jobs[lane] = (job, held)
        self.trials += 1
        self.refills += 1
        state = self.keeper.load(job)
        self.population.start(lane, self.draws.task(job), state)
        if state is not None and state.epoch >= job.spec.budget.epochs:  # trained, but not tested
            self._end(lane, "complete")

    # -- training ------------------------------------------------------------------------------------------

    def _epoch(self) -> None:
        """Train one epoch and deal with what every lane reports; a signal ends it on the way."""
        assert self.population is not None
        self._check_coordinator()
        width, begun = self.population.width, time.monotonic()
        try:
            reports = self.population.train_epoch(stop=lambda: self._signal is not None)
        except Exception:
            for lane in list(self.jobs):
                _, held = self._free(lane)
                self.coordinator.fail(held, traceback.format_exc())
            self.say(traceback.format_exc())
            self.population = self.group = None
            return
        self.training_seconds += time.monotonic() - begun
        if self.population.width < width:
            self.say(f"out of memory: {self.population.width} lane(s) at a time from now on; every trial goes on")
        for report in reports:
            self._deal(report)
        if self.keeper.due:
            self._checkpoint()

    def _deal(self, report: EpochReport) -> None:
        job, held = self.jobs[report.lane]
        job.note(report)
        if self.coordinator.lost(job.slot.id):
            self._free(report.lane)
            self.say(f"{job.title}: its lease was lost; its lane takes another")
            return
        if not report.diverged:
            self.coordinator.report(held, report.epoch, report.validation_accuracy)
        state = None
        if report.diverged:
            state = "diverged"
        elif report.last:
            state = "complete"
        elif self.coordinator.stopped(job.slot.id):
            state = "pruned"
        if state is not None:
            self._end(report.lane, state)

    def _end(self, lane: int, how: str) -> None:
        """A training is over: make its outcome, now or, where that takes a database that is away, later."""
        assert self.population is not None
        job, held = self.jobs[lane]
        trained = _Trained(job, held, how, self.population.state(lane))
        self._free(lane)
        if not (job.slot.kind == "final" and how == "complete"):
            self._finish(trained)
        elif self._reach(lambda: self._finish(trained)) is None:
            self._untested.append(trained)

    def _finish(self, trained: "_Trained") -> bool:
        """Hand over the outcome of a training; a final round opens pool B for it, on the record."""
        assert self.population is not None
        job, held = trained.job, trained.held
        try:
            outcome, outputs = finished(
                job,
                self.population,
                trained.state.parameters,
                self.draws.task(job).training,
                trained.how,
                lambda: self._test_pairs(job, held),
            )
        except LeaseLost as error:
            self.coordinator.release(held)
            self.say(str(error))
            return True
        self.coordinator.finish(held, outcome, outputs)
        self.keeper.forget(job)
        self.say(f"{job.title}: {_in_words(outcome, job.slot.kind)}")
        return True

    def _test_pairs(self, job: Job, held: Held) -> tuple[data.ImagePool, data.PairTable]:
        """Open pool B for a final round, on the record, and draw its test pairs."""
        if not slots.record_opening(self.engine, held.slot.id, held.token, self.name):
            raise LeaseLost(f"slot {held.slot.id}: the lease was lost before its test")
        permit = FinalPermit(slot_id=held.slot.id, attempt=held.slot.attempt, worker=self.name)
        opened = self.digits.open_pool_b(permit)
        pool = data.ImagePool.from_numpy("B", to_network_images(opened.images), opened.labels)
        return pool, data.draw_test(pool, job.draw_seed, job.spec.protocol.test_pairs)

    def _free(self, lane: int) -> tuple[Job, Held]:
        assert self.population is not None
        self.population.stop(lane)
        return self.jobs.pop(lane)


def _group(row: StudyRow) -> _Group:
    protocol = StudySpec.from_canonical(row.spec).protocol
    return _Group(row.model, protocol.training_pairs, protocol.batch_size)


def _in_words(outcome: dict[str, Any], kind: str) -> str:
    words = [outcome["state"]]
    if outcome["train_accuracy"] is not None:
        words.append(f"train {outcome['train_accuracy']:.2%}")
    if outcome["state"] != "diverged":
        words.append(f"{'test' if kind == 'final' else 'validation'} {outcome['value']:.2%}")
    return ", ".join([*words, f"{outcome['epochs']} epochs", f"{outcome['seconds']:.0f} s"])
