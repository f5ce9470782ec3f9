"""One worker's life: claim slots, have them trained, hand over what they gave, refill, stop."""

import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

import hpo
from hpo.errors import DatabaseReplaced, DatabaseUpgraded, HpoError
from hpo.experiment.description import Description
from hpo.experiment.shipped import ShippedData
from hpo.server.notes import update_notes
from hpo.storage import claims, slots
from hpo.storage.engine import of_any_revision
from hpo.storage.identity import key_of
from hpo.storage.optuna_storage import open_lean
from hpo.storage.workers import NOT_NEEDED, STOPPED, WORK_DONE, Beat, beat_alone
from hpo.study.projection import project
from hpo.study.search import Search
from hpo.worker import signals
from hpo.worker.aside import SetAside, short_reason
from hpo.worker.backoff import Backoff
from hpo.worker.checkpoints import Checkpointer, Checkpoints
from hpo.worker.children import Children
from hpo.worker.coordinator import Coordinator
from hpo.worker.device import choose_device
from hpo.worker.evaluation import Evaluation
from hpo.worker.fetcher import Fetcher, Group
from hpo.worker.function_checkpoints import FunctionCheckpoints
from hpo.worker.health import Health
from hpo.worker.job import Job
from hpo.worker.lanes import Lanes
from hpo.worker.options import Options
from hpo.worker.serving import Serving
from hpo.worker.signing import Signer
from hpo.worker.spool import Spool
from hpo.worker.stores import places
from hpo.worker.threads import Background, in_thread
from hpo.worker.trainers import Trainers, TrainingEvent, TrainingFailed

T = TypeVar("T")

EXIT_SECONDS = 2.5  # each for checkpoints, for slots on their way, for the database: what a signal leaves to do
PROMPT_SECONDS = 0.2  # that lanes in training wait for the database at an epoch boundary
POLL_SECONDS = 1.0  # between two questions for work when there is none
REFILLS = 16  # lanes refilled before the worker asks which model has the fewest running slots

logger = logging.getLogger(__name__)


class Worker:
    """A process that pulls slots and trains them."""

    def __init__(
        self,
        engine: Engine,
        digits: Callable[[], ShippedData],
        options: Options,
        experiments: Sequence[Description] = (),
    ) -> None:
        """`digits` loads the images, which is done where a study needs them; `experiments` are served beside."""
        self.engine, self.options = engine, options
        self.serving = Serving(digits, experiments)
        self.device = choose_device(options.device)
        self.short_name = uuid.uuid4().hex[:6]
        self.name = f"{socket.gethostname()}:{os.getpid()}:{self.short_name}"
        self.trials = 0  # begun
        self.seconds = 0.0  # from start to end
        self.storage = open_lean(engine)
        store, folder = places(engine, options.artifacts)
        signer = Signer(key_of(engine))
        self.spool = Spool(folder / "results", engine, signer)
        self.checkpointer = Checkpointer(Checkpoints(store, signer), options.checkpoint_seconds)
        self.background, self.aside, self.health = Background(), SetAside(), Health()
        self.coordinator = Coordinator(
            engine,
            self.storage,
            self.spool,
            self.aside,
            options.lease_seconds,
            self._beat,
            self._phase_moved,
            self._stop_as_asked,
            options.heartbeat,
        )
        self.fetcher = Fetcher(
            engine,
            self.storage,
            self.coordinator,
            self.serving,
            self.aside,
            self.health,
            worker=self.name,
            study_names=options.study_names,
            lease_seconds=options.lease_seconds,
        )
        self.lanes = Lanes(
            lambda: self.serving.digits,
            self.checkpointer,
            self.device,
            lanes=options.lanes,
            most=options.max_trials,
            stopped=self.coordinator.stopped,
            worker=self.name,
        )
        self.children = Children(
            self.serving,
            self.device,
            self.aside,
            FunctionCheckpoints(store, signer, folder / "scratch", self.short_name, options.checkpoint_seconds),
            places=options.lanes or 1,
            threads=options.threads,
            logs=folder / "logs",
            name=self.short_name,
            stopped=self.coordinator.stopped,
        )
        self.trainers: Trainers = self.lanes  # those of the group in turn
        self.evaluation = Evaluation(
            engine,
            self.coordinator,
            self.checkpointer,
            self.background,
            self.aside,
            self.health,
            worker=self.name,
            wait_for=self._wait_for,
        )
        self._backoff = Backoff()
        self._fetched: Future[list[Job]] | None = None  # slots on their way
        self._refills = 0  # since the group was chosen
        self._not_needed = 0  # places for which the last claim found nothing
        self._fetch_at = 0.0  # when the next claim is due all the same
        self._unserved: list[str] = []  # why studies are not done that wait for somebody
        self._broken = ""  # why this machine cannot train
        self._raised = ""  # what ended this life before its time
        self._busy_at = time.monotonic()  # when something was in training last, or this life began
        self._ended = WORK_DONE  # why, where no signal came
        self._signal: int | None = None
        self._asked = False  # to end, by `hpo workers stop`
        self._upgraded = False  # the database, under this worker
        self._wake = threading.Event()

    @property
    def training_seconds(self) -> float:
        """Seconds of this life in trainings: in a population's epochs, in users' functions."""
        return self.lanes.training_seconds + self.children.training_seconds

    # -- life ----------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Pull slots until told to stop, drained, or done with `max_trials`; returns the exit code.

        What raises about a study sets that study aside and ends nothing. Raises DatabaseReplaced where another database
        takes the place of this worker's, DatabaseUpgraded where it is upgraded.
        """
        try:
            return self._run()
        except DatabaseReplaced as error:
            if not (kept := len(self.spool.kept)):
                raise
            whose = "the next worker here" if isinstance(error, DatabaseUpgraded) else "the first"
            raise type(error)(f"{error}; {kept} result(s) for {whose} are kept in {self.spool.folder}") from error

    def _run(self) -> int:
        begun = self._busy_at = time.monotonic()
        self.coordinator.start()
        try:
            self._ask(self.spool.deliver)
            while self._signal is None:
                self.health.next_turn(len(self.trainers.jobs))
                self._leave_failing()
                reached = self._attempt(self._catch_up)
                if self.trainers.jobs:
                    self._train()
                elif not reached:
                    self._wake.wait(self._backoff.remaining)
                elif self._attempt(lambda: self._ask(self._wait_for_work)) is False:
                    break
        except Exception as error:
            self._upgraded = isinstance(error, DatabaseUpgraded)
            self._raised = "the database was upgraded" if self._upgraded else short_reason(error)
            raise
        finally:
            in_training = [*self.trainers.jobs, *self.evaluation.pending]
            self._give_back()
            if not self.coordinator.close(lambda: EXIT_SECONDS if self._is_over else None):
                logger.warning(
                    "the database does not answer; results that it has not taken are kept in %s", self.spool.folder
                )
            elif self.coordinator.gave_back:
                for job in in_training:
                    logger.info("%s: given back after epoch %d of %d", job.title, len(job.train_loss), job.epochs)
                wait([in_thread(self._leave)], EXIT_SECONDS)
        while self._signal is None and not self.background.settle(PROMPT_SECONDS):
            pass
        self._check_coordinator()
        self.seconds = time.monotonic() - begun
        share = self.training_seconds / self.seconds
        logger.info("%d trial(s) in %.0f s, %.0f%% of it training", self.trials, self.seconds, 100 * share)
        return self._code()

    def _beat(self) -> Beat:
        """This worker as the table of workers shows it."""
        return Beat(
            name=self.name,
            host=socket.gethostname(),
            device=str(self.device),
            study_names=self.options.study_names,
            data_digest=self.serving.data_digest,
            code_digest=self.serving.code_digest,
            version=hpo.__version__,
            lanes=self.trainers.width,
            completed=self.health.completed,
            failed=self.health.failed,
        )

    def _leave(self) -> None:
        """Say in the table of workers why this one has ended, if the database answers."""
        stopped = "" if self._signal is None else STOPPED if self._asked else signal.Signals(self._signal).name
        why = self._broken or self._raised or stopped or self._ended
        with suppress(HpoError, DBAPIError):  # tables of a later version may not take it
            beat_alone(of_any_revision(self.engine), self._beat(), 0.0, left_why=why)

    def _code(self) -> int:
        """The exit code: 1 where a study was set aside or waits for somebody, or the machine is broken; logged."""
        if self.aside.names:
            logger.error("not all is done, these studies were left alone: %s", ", ".join(self.aside.names))
        if self._unserved:
            logger.error("not all is done: study %s", ", study ".join(self._unserved))
        if self._broken:
            logger.error("%s", self._broken)
        if self.options.refused:
            logger.error("not all is served: %s", "; ".join(self.options.refused))
        if self._signal is not None and not self._asked:
            return 128 + self._signal
        return 1 if self.aside.names or self._unserved or self._broken or self.options.refused else 0

    def listen(self) -> None:
        """Stop at the next training step on SIGTERM, SIGINT and, but for nohup, SIGHUP; a second one kills."""
        for number in signals.stopping():
            signal.signal(number, self._on_signal)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Stop at the next training step, as if this signal had come; any thread may call it."""
        if self._signal is None:
            self._signal = number
        self._wake.set()
        self.trainers.wake()

    def _stop_as_asked(self) -> None:
        """Stop as on SIGTERM, because of `hpo workers stop`; a signal that has come before is the reason then."""
        if self._signal is None:
            logger.info("asked to stop by `hpo workers stop`")
            self._asked = True
        self.stop()

    @property
    def is_interrupted(self) -> bool:
        """Whether it ends before its work is done: threads may still wait for a database or a bucket."""
        return self._signal is not None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.stop(number)
        signal.signal(number, signals.after_first(number))

    def _give_back(self) -> None:
        """Checkpoint what is in training, end it, and release its slots."""
        self.trainers.close(EXIT_SECONDS)
        if self._fetched is not None:
            wait([self._fetched], EXIT_SECONDS)  # so that no slot is claimed after the release
        if self._fetched is None or self._fetched.done():
            wait([in_thread(self.fetcher.settle)], EXIT_SECONDS)
        self.coordinator.release_all()

    def _phase_moved(self, name: str) -> None:
        """A study's phase has moved on: its note in the dashboard follows."""
        self.background.submit(lambda: update_notes(self.engine, [name], lambda: self.serving.digits))

    @property
    def _is_over(self) -> bool:
        """Whether what is in training is to be kept and given back."""
        return self._signal is not None or self._upgraded or self.coordinator.crash is not None

    def _check_coordinator(self) -> None:
        if self.coordinator.crash is not None:
            raise self.coordinator.crash

    # -- asking the database -------------------------------------------------------------------------------

    def _attempt(self, act: Callable[[], T]) -> T | None:
        """Do what needs the database, or None where it does not answer: not before the next try is due."""
        training = len(self.trainers.jobs)
        return self._backoff.attempt(act, f"{training} trial(s) train on" if training else "")

    def _ask(self, act: Callable[[], T]) -> T | None:
        """With nothing to train, ask the database for something; None where a signal comes before the answer."""
        answer = in_thread(act)
        while self._signal is None and not wait([answer], PROMPT_SECONDS).done:
            pass
        return answer.result() if answer.done() else None

    def _wait_for(self, answers: Sequence[Future[Any]]) -> None:
        """Wait for the database's answers: all of them while nothing trains, else for a moment."""
        while wait(answers, PROMPT_SECONDS).not_done and not self.trainers.jobs and self._signal is None:
            pass

    def _catch_up(self) -> bool:
        """Test the final rounds that are trained, then fill the lanes."""
        self.evaluation.test()
        self._refill()
        return True

    def _wait_for_work(self) -> bool:
        """With nothing to train: complete what others left half done; False when this worker's life is over."""
        self.coordinator.settle(self.options.lease_seconds)
        self._check_coordinator()
        if self._exhausted:
            self._judge()
            return False
        if self._broken:
            return False
        rows = self.fetcher.rows()
        ids = [row.id for row in rows]
        # Read before projecting: a slot that ends later may open the next phase, even if its worker dies at once.
        busy = claims.any_open(self.engine, ids)
        claims.sweep(self.engine)
        for row in rows:
            with self.aside.guard(row):
                if project(self.engine, Search(self.storage, row)):
                    self._phase_moved(row.name)
        if self.fetcher.claimable(rows):
            return True
        if self.health.only_fails and self.health.failing():
            self._judge()
            return False
        if self.options.study_names and not rows and self.aside.names:
            return False
        if self.options.drain and not busy and not claims.any_open(self.engine, ids):
            self._unserved = self.fetcher.unserved()
            self._judge()
            return False
        if (minutes := self.options.idle_minutes) is not None and time.monotonic() > self._busy_at + 60 * minutes:
            self._ended = f"{NOT_NEEDED} {minutes:g} minutes (--scale-to-zero)"
            logger.info("%s", self._ended)
            self._judge()
            return False
        self._wake.wait(POLL_SECONDS)
        return True

    def _leave_failing(self) -> None:
        """Leave studies alone whose trainings have failed one after another, and of which none goes on."""
        in_training = {job.claim.study.id for job in self.trainers.jobs}
        for study, why in self.health.failing():
            if study.id not in in_training:
                self.aside.add([study], why)

    def _judge(self) -> None:
        """At the end: where nothing that was tried here could be trained, the machine is taken for broken.

        After several failures in a row they are left to other machines, as if they had not been.
        """
        if not self.health.only_fails:
            return
        forgiven = ""
        if self.health.failing():
            slots.forgive(self.engine, self.name)
            forgiven = ", so they do not count against the trials"
        failed = "the only training" if self.health.failed == 1 else f"all {self.health.failed} trainings"
        self._broken = (
            f"{failed} failed on this machine ({self.device}){forgiven}; mend the device or the code and start "
            f"again. Last: {self.health.last_error}"
        )

    # -- refilling -----------------------------------------------------------------------------------------

    @property
    def _exhausted(self) -> bool:
        return self.options.max_trials is not None and self.trials >= self.options.max_trials

    @property
    def _wanted(self) -> int:
        """How many slots there are lanes for."""
        free, most = self.trainers.free, self.options.max_trials
        return free if most is None else min(free, most - self.trials)

    def _refill(self) -> None:
        """Have free lanes filled; while others train that is done on a thread, and they are not kept waiting."""
        if self._fetched is None:
            if not self.trainers.jobs and not self._exhausted:
                self._take_turn()
            trainers, group, wanted = self.trainers, self.trainers.group, self._wanted
            turn_over, width = self._refills >= REFILLS, trainers.free + len(trainers.jobs)
            if group is None or not (wanted or self.fetcher.leftovers):
                return
            if trainers.jobs and wanted <= self._not_needed and time.monotonic() < self._fetch_at:
                return

            def fetch() -> list[Job]:
                jobs = self.fetcher.fetch(group, wanted, if_its_turn=turn_over, width=width)
                trainers.load(jobs)
                return jobs

            self._fetched = in_thread(fetch)
            self._fetched.add_done_callback(lambda _: trainers.wake())
        self._wait_for([self._fetched])
        if not self._fetched.done():
            return
        fetched, self._fetched = self._fetched, None
        jobs = fetched.result()
        # Where there was nothing to claim, others' slots may be given back, but not at once.
        self._not_needed, self._fetch_at = self._wanted - len(jobs), time.monotonic() + POLL_SECONDS
        if jobs and self._refills >= REFILLS:
            self._refills = 0
        for job in jobs:
            self._start(job)

    def _take_turn(self) -> None:
        """With nothing to train: stay with the group or take the one whose turn it is."""
        stay = None if self._refills >= REFILLS else self.trainers.group
        group = self._ask(lambda: self.fetcher.turn(stay))
        if group is not None and group != stay:
            self._refills = 0
            self._serve(group)

    def _serve(self, group: Group) -> None:
        """Have those ready that train a group; where that raises its studies are set aside."""
        trainers: Trainers = self.children if group.experiment in self.serving.experiments else self.lanes
        try:
            if trainers is not self.trainers:
                self.trainers.leave()
                self.trainers = trainers
            trainers.serve(group)
        except Exception as error:
            self._ask(partial(self.fetcher.set_aside, group, error))
            if not self.trials and not self._signal and self._ask(lambda: self.fetcher.turn(None)) is None:
                self._broken = f"nothing can be trained on this machine ({self.device}): {short_reason(error)}"

    def _start(self, job: Job) -> None:
        """Begin a training, from its checkpoint where there is one."""
        if not self.trainers.free:  # memory ran out meanwhile
            self.coordinator.release(job.claim)
            return
        trained = job.trained
        try:
            self.trainers.start(job)
        except TrainingFailed as failure:
            self.evaluation.fail(job, str(failure))
            return
        self.trials += 1
        self._refills += 1
        for epoch, value in enumerate(job.validation_accuracy, start=1):
            if epoch > job.claim.slot.epoch:  # its checkpoint has it, the database not yet
                self.coordinator.report(job.claim, epoch, value)
        if trained:
            self.evaluation.end(self.trainers, job, "complete")
            self._attempt(self.evaluation.test)

    # -- training ------------------------------------------------------------------------------------------

    def _train(self) -> None:
        """Train on, and deal with what has happened by then; a signal ends it on the way."""
        self._check_coordinator()
        self._busy_at = time.monotonic()
        for job in self.trainers.jobs:
            self._is_given_up(job)
        if self.trainers.jobs:
            for event in self.trainers.poll(stop=lambda: self._is_over):
                self._deal(event)
        if self.evaluation.pending:
            self._attempt(self.evaluation.test)
        if self.checkpointer.due:
            self.checkpointer.save(self.trainers.states(), stop=lambda: self._is_over)

    def _is_given_up(self, job: Job) -> bool:
        """Whether a training ends without a result, as it does then: its study is left alone, or its lease lost."""
        claim = job.claim
        if claim.study in self.aside:
            self.trainers.drop(job)
            self.coordinator.release(claim)
            return True
        if self.coordinator.lost(claim):
            self.trainers.drop(job)
            logger.warning("%s: its lease was lost; its lane is free", job.title)
            return True
        return False

    def _deal(self, event: TrainingEvent) -> None:
        job = event.job
        if event.error is not None:
            self.evaluation.fail(job, event.error, retry=event.retry)
            return
        if self._is_given_up(job):
            return
        if event.epoch is not None:
            self.coordinator.report(job.claim, event.epoch, event.value)
        if event.ended is not None:
            self.evaluation.end(self.trainers, job, event.ended)
        elif event.conclusion is not None:
            self.evaluation.store(self.trainers, job, event.conclusion)
