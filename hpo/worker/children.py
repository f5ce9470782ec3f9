"""Trainings by a user's functions, in child processes: the other kind of `Trainers`.

A function's training has a child of its own; those by a recipe share one, in the lanes of a population, but for final
rounds, which are trained where they are tested. A child is warm between trainings. It is replaced after a test, for it
has seen pool B, unless a copy of it was trained and tested; after a failure; where it ignores that it is to stop; and
where its memory has grown much. What the user's code prints goes to logs.
"""

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hpo.errors import ExperimentError
from hpo.experiment.messages import Message
from hpo.storage.columns import pack_columns
from hpo.storage.outcome import OutcomeState
from hpo.training.population import LaneState
from hpo.worker.aside import SetAside
from hpo.worker.child import Ended
from hpo.worker.child_pool import ChildPool, WarmChild, successors
from hpo.worker.child_training import ChildTraining
from hpo.worker.claim import Claim
from hpo.worker.fetcher import Group
from hpo.worker.folds import TrainedFold, over_folds
from hpo.worker.function_checkpoints import KEEP_SECONDS, FunctionCheckpoints, Resumed
from hpo.worker.job import Job
from hpo.worker.outcomes import FunctionResult, outcome_of_function
from hpo.worker.serving import Serving
from hpo.worker.threads import in_thread
from hpo.worker.trainers import Conclusion, TrainingEvent

WAIT_SECONDS = 1.0  # that a poll waits for an answer at most
START_SECONDS = 600.0  # until a child that has not imported the experiment is given up
STOP_SECONDS = 5.0  # that a training has to end after it was told so

logger = logging.getLogger(__name__)


class Children:
    """Trainings of functions, each in a child process."""

    def __init__(
        self,
        serving: Serving,
        device: torch.device,
        aside: SetAside,
        checkpoints: FunctionCheckpoints,
        *,
        places: int,
        threads: int,
        logs: Path,
        name: str,
        stopped: Callable[[Claim], bool],
    ) -> None:
        """`logs` is the folder for what children print, `name` the worker's short one; `stopped` asks the pruner."""
        self.group: Group | None = None
        self.training_seconds = 0.0  # of the user's functions, shared among the places
        self._serving, self._device, self._aside, self._stopped = serving, device, aside, stopped
        self._places, self._threads = places, threads
        self._checkpoints = checkpoints
        self._resumed: dict[str, Resumed] = {}  # by token, of jobs that have not begun
        self._keeping: dict[str, Future[None]] = {}  # by token, the last checkpoint on its way
        self._trainings: list[ChildTraining] = []
        self._successors = 0  # of children that end with their training, which are to be ready or on their way
        self._last_seconds = math.inf  # that a training took, its measurements included
        self._bell = threading.Event()  # rung where a child has answered, and by `wake`
        self._pool = ChildPool(device=str(device), threads=threads, logs=logs, worker=name, notify=self._bell.set)

    # -- what the worker asks ------------------------------------------------------------------------------

    @property
    def jobs(self) -> list[Job]:
        """The trainings and tests that go on."""
        return [training.job for training in self._trainings if training.stage in ("starting", "training", "testing")]

    @property
    def free(self) -> int:
        """How many trainings more there is room for."""
        return 0 if self.group is None else max(0, self._places - len(self._trainings))

    @property
    def width(self) -> int | None:
        """How many there is room for."""
        return self._places

    def serve(self, group: Group) -> None:
        """Start a first child, which loads the experiment while slots are claimed."""
        self._pool.keep_ready(self._serving.experiments[group.experiment], 1)
        self.group = group

    def leave(self) -> None:
        """Let the children end, with the memory that they hold."""
        for child in self._pool.empty():
            self._pool.end(child)
        self.group, self._successors = None, 0

    def load(self, jobs: Sequence[Job]) -> None:
        """Let jobs go on from their checkpoints; what these say of their curves is taken up."""
        for job in jobs:
            resumed = self._checkpoints.load(job, self._code(job))
            if resumed is None:
                continue
            self._resumed[job.claim.token] = resumed
            record, curves = resumed.record, resumed.curves
            job.train_loss = [math.nan if loss is None else loss for loss in curves.train_loss]
            job.validation_accuracy = list(curves.values)
            job.seconds_before, job.device_seconds = record.seconds, record.device_seconds
            job.resumed_at = [*record.resumed_at, record.epoch]
            logger.info("%s: resumes after %s %d", job.title, "fold" if curves.folds else "epoch", record.epoch)

    def start(self, job: Job) -> None:
        """Give a training to a child that waits, or to a new one."""
        self._start_in(self._child_for(job), job)

    def _start_in(self, child: WarmChild, job: Job, *, is_moved: bool = False) -> None:
        deadline = time.monotonic() + START_SECONDS
        training = ChildTraining(job=job, child=child, deadline=deadline, is_moved=is_moved)
        training.log_start = child.log_size()
        training.resumed = self._resumed.pop(job.claim.token, None)
        self._trainings.append(training)
        if child.about is not None:
            self._begin(training)

    def poll(self, stop: Callable[[], bool]) -> list[TrainingEvent]:
        """Wait until a child answers or one of them is late, a moment at most."""
        if not stop():
            self._bell.wait(self._patience())
        self._bell.clear()
        self._pool.hear()
        children = {id(training.child): training.child for training in self._trainings}
        events = [event for child in children.values() for event in self._hear(child)]
        return [*events, *(self._late(training) for training in list(self._trainings) if training.is_late)]

    def wake(self) -> None:
        """End a poll that waits."""
        self._bell.set()

    def states(self) -> Iterable[tuple[Job, LaneState]]:
        """None: children keep their own."""
        return ()

    def state_of(self, job: Job) -> LaneState | None:
        """None: a child keeps its own."""
        return None

    def end(self, job: Job) -> None:
        """Its child keeps the predictor, which is to be tested or has been measured."""

    def conclude(self, job: Job, how: OutcomeState) -> Conclusion | None:
        """The outcome of a training; a complete final round is tested now, and an event will tell."""
        training = self._training(job)
        if how == "complete" and job.claim.slot.kind == "final" and training.stage == "trained":
            training.stage = "testing"
            training.deadline = time.monotonic() + training.max_seconds
            training.child.is_reusable = training.child.is_reusable and training.is_fork  # else it sees pool B
            training.tell("test", training.seeds)
            return None
        return Conclusion(outcome=outcome_of_function(job, training.result, how), outputs=training.outputs)

    def drop(self, job: Job) -> None:
        """Forget a training; its child waits for the next, or is ended where it still trains or cannot be trusted."""
        training = next((training for training in self._trainings if training.job is job), None)
        if training is None:
            return
        self._trainings.remove(training)
        self._clean(training)
        self._release(training.child, is_idle=training.stage == ("tested" if training.is_fork else "trained"))

    def settle(self, job: Job) -> None:
        """Wait until none of its checkpoints is on its way, but not for ever: a bucket may not answer."""
        self._settle(job, KEEP_SECONDS)

    def forget_checkpoint(self, job: Job) -> None:
        """Its outcome is kept."""
        self._settle(job)
        self._checkpoints.remove(job, self._code(job))

    def close(self, seconds: float) -> None:
        """Let trainings that keep checkpoints come to an epoch's end, and end all children."""
        deadline = time.monotonic() + seconds
        asked = [t for t in self._trainings if t.stage == "training" and t.is_resumable]
        for training in asked:
            training.tell("give back", {})
        while any(t in self._trainings and t.stage == "training" for t in asked) and time.monotonic() < deadline:
            self.poll(stop=lambda: False)
        children = [*self._pool.empty(), *(training.child for training in self._trainings)]
        ends = [in_thread(child.process.kill) for child in children]
        wait([*ends, *list(self._keeping.values())], max(0.1, deadline - time.monotonic()))
        self._trainings = []
        self._checkpoints.close()
        self._pool.remove_empty_logs()

    # -- trainings -----------------------------------------------------------------------------------------

    def _training(self, job: Job) -> ChildTraining:
        return next(training for training in self._trainings if training.job is job)

    def _child_for(self, job: Job) -> WarmChild:
        """One to train a job in: one of its own, or that whose lanes it may share with others."""
        spec = job.claim.spec
        description = self._serving.experiments[spec.experiment]
        shares = (
            description.models[spec.model].by_lanes
            and job.claim.slot.kind != "final"
            and spec.budget.max_seconds is None  # the time of one, not of all that train beside it
        )
        if shares and self._places > 1:
            for training in self._trainings:
                if training.child.lanes > 1 and training.child.description is description:
                    return training.child
        child = self._pool.take(description)
        child.lanes = self._places if shares else 1
        return child

    def _release(self, child: WarmChild, *, is_idle: bool) -> None:
        """A training has left a child: where none is left it waits for the next, or ends where it may still train."""
        if self._trainings_in(child):
            return
        if is_idle:
            self._pool.put(child, most=self._places - len(self._trainings) + self._successors)
        else:
            self._pool.end(child)

    def _uses_up(self, training: ChildTraining) -> bool:
        """Whether its child ends with it: after a test, or because the model wants a process for each."""
        claim, child = training.job.claim, training.child
        assert child.about is not None
        wants_new = claim.spec.model in child.about["new_process"]
        return wants_new or (claim.slot.kind == "final" and not child.forks)

    def _patience(self) -> float:
        """Seconds to wait for an answer: none of the children is late before."""
        first = min((min(training.deadline, training.stop_by) for training in self._trainings), default=math.inf)
        return max(0.0, min(WAIT_SECONDS, first - time.monotonic()))

    def _begin(self, training: ChildTraining) -> None:
        """Tell a child that is ready to train; not where its code is no more what the studies were made with."""
        job, about = training.job, training.child.about
        assert about is not None
        claim = job.claim
        model = training.child.description.models[claim.spec.model]
        if about["code"].get(claim.spec.model) != model.code_digest:
            name = training.child.description.locator
            why = f"the code of {name} has changed since this worker started; start it again"
            self._aside.add([claim.study], ExperimentError(why))
            return  # the worker gives it back
        job.started = time.monotonic()
        training.folds = 1 if claim.slot.kind == "final" else claim.spec.protocol.folds
        training.result = FunctionResult(code_digest=model.code_digest)
        if training.resumed is not None:
            training.go_on_from(training.resumed)
        training.deadline = time.monotonic() + training.max_seconds - job.seconds_before
        self._tell_train(training)
        self._keep_successors(training.child)

    def _keep_successors(self, child: WarmChild) -> None:
        """Start those that will take the places of children which end with their training, or with the next."""
        begun = [training for training in self._trainings if training.child.about is not None]
        ending = [t for t in begun if self._uses_up(t) or (t.job.claim.slot.kind == "confirm" and not t.child.forks)]
        self._successors = len(ending) * successors(child.start_seconds, self._last_seconds)
        self._pool.keep_ready(child.description, self._successors)

    def _tell_train(self, training: ChildTraining) -> None:
        """Have the next fold trained; a training without folds has one."""
        job, resumed = training.job, training.resumed
        claim = job.claim
        training.stage = "training"
        resume = None if resumed is None else {"epoch": resumed.record.epoch, "folder": str(resumed.folder)}
        checkpoints = {
            "place": str(self._checkpoints.place(job)),
            "seconds": self._checkpoints.seconds,
            "resume": resume,
            "keep_last": claim.slot.kind == "final",  # a test that fails is made again, its training is not
        }
        values = {
            **training.seeds,
            "fold": len(training.trained_folds),
            "folds": training.folds,
            "model": claim.spec.model,
            "params": claim.spec.parsed_space.complete(job.params),
            "max_epochs": job.epochs,
            "device": self._device.type,
            "threads": self._threads,
            "checkpoints": None if training.folds > 1 else checkpoints,
            "tested": claim.slot.kind == "final" and not self._uses_up(training),
            "lanes": training.child.lanes,
        }
        training.tell("train", values)

    def _hear(self, child: WarmChild) -> Iterable[TrainingEvent]:
        """What a child has answered by now, of any of its trainings."""
        while (there := self._trainings_in(child)) and (answer := child.process.poll()) is not None:
            if isinstance(answer, Ended):
                yield from self._died(there, answer)
                return
            if answer.kind == "ready":
                child.is_ready(answer.values, self._device.type)
            concerned = there if answer.kind in ("ready", "refused") else [t for t in there if t.is_of(answer)]
            if not concerned and answer.kind == "epoch":  # of one that was dropped
                child.process.tell("reply", {"stop": True, "id": answer.values["id"]})
            for training in concerned:
                if (event := self._answered(training, answer)) is not None:
                    yield event

    def _trainings_in(self, child: WarmChild) -> list[ChildTraining]:
        return [training for training in self._trainings if training.child is child]

    def _answered(self, training: ChildTraining, answer: Message) -> TrainingEvent | None:
        values = answer.values
        match answer.kind:
            case "ready":
                self._begin(training)
                return None
            case "refused":
                return self._failed(training, values["why"])
            case "epoch":
                return self._epoch(training, values)
            case "resumable":
                training.is_resumable = True
                return None
            case "checkpoint":
                folder = Path(values["folder"])
                if folder.parent == self._checkpoints.place(training.job):  # else it is the user's code that says so
                    self._keep(training, values["epoch"], folder)
                return None
            case "apart":
                logger.warning(
                    "%s: it and those beside it train one at a time from now on: the module cannot be run for several "
                    "lanes at once (%s)", training.job.title, values["why"],
                )  # fmt: skip
                return None
            case "given back":  # as `close` asked
                self._trainings.remove(training)
                if not self._trainings_in(training.child):
                    self._pool.end(training.child)
                return None
            case "trained":
                return self._trained(training, values)
            case "tested":
                return self._tested(training, answer)
            case "diverged":
                return self._diverged(training, values["why"] or "the training says so")
            case _:
                training.has_unusable_checkpoint = values["unusable_checkpoint"]
                return self._failed(training, values["traceback"])

    def _epoch(self, training: ChildTraining, values: Mapping[str, Any]) -> TrainingEvent:
        """An epoch is reported; the child waits for the answer whether to go on."""
        job, spec, epoch = training.job, training.job.claim.spec, values["epoch"]
        stop = self._stopped(job.claim) and training.folds == 1
        training.tell("reply", {"stop": stop})
        if stop:
            training.stop_by = min(training.stop_by, time.monotonic() + STOP_SECONDS)
        value = values["scores"].get(spec.metric.name)
        value = value if value is not None and math.isfinite(value) else None
        training.result = replace(
            training.result,
            scores=values["scores"] or training.result.scores,
            numbers=values["numbers"],
            epochs=max(epoch, training.result.epochs),
        )
        if training.folds > 1:  # the trial's steps are its folds
            return TrainingEvent(job=job)
        judged = job.claim.slot.kind != "final"
        if epoch == len(job.train_loss) + 1:
            job.train_loss.append(values["numbers"].get("loss", math.nan))
        if judged and value is not None and epoch == len(job.validation_accuracy) + 1:
            job.validation_accuracy.append(value)
        return TrainingEvent(job=job, epoch=epoch, value=value if judged else None)

    def _trained(self, training: ChildTraining, values: Mapping[str, Any]) -> TrainingEvent:
        """The training is over, and its predictor measured on the validation items."""
        job = training.job
        pruned = training.stop_by < math.inf
        training.trained_folds.append(TrainedFold.of(values))
        training.learn(over_folds(training.trained_folds))
        training.is_fork = values["fork"]
        if not training.is_fork:
            training.child.forks = values["forks"]
        job.device_seconds += values["seconds"]
        self._last_seconds = time.monotonic() - job.started
        self.training_seconds += values["seconds"] / (1 if training.child.lanes > 1 else self._places)
        training.child.watch_memory(values["memory"])
        if self._uses_up(training):
            training.child.is_reusable = False
        name, folds = job.claim.spec.metric.name, len(training.trained_folds)
        value = training.result.scores[name]
        if value is None or not math.isfinite(value):
            return self._diverged(training, f"{name} on the validation items is {value}")
        if folds < training.folds and not self._stopped(job.claim):
            self._keep(training, folds, None)
            self._tell_train(training)
            return TrainingEvent(job=job, epoch=folds, value=value)
        training.end()
        return TrainingEvent(job=job, ended="pruned" if pruned or folds < training.folds else "complete")

    def _tested(self, training: ChildTraining, answer: Message) -> TrainingEvent:
        """A final round is tested: the outcome, with the scores of the single items."""
        job, values = training.job, answer.values
        training.stage, training.deadline = "tested", math.inf
        unit = answer.arrays.get("unit")
        training.learn(values)
        if unit is not None:
            head = f"{unit.shape} {unit.dtype.str}".encode()
            digest = hashlib.sha256(head + unit.tobytes()).hexdigest()
            training.result = replace(training.result, units_digest=digest)
        name = job.claim.spec.metric.name
        if not math.isfinite(training.result.scores[name] or 0.0):
            return self._diverged(training, f"{name} on the test items is {training.result.scores[name]}")
        training.outputs = pack_columns(answer.arrays) if answer.arrays else None
        outcome = outcome_of_function(job, training.result, "complete")
        return TrainingEvent(job=job, conclusion=Conclusion(outcome=outcome, outputs=training.outputs))

    # -- checkpoints ---------------------------------------------------------------------------------------

    def _code(self, job: Job) -> str:
        """The digest of what a job's training runs."""
        spec = job.claim.spec
        return self._serving.experiments[spec.experiment].models[spec.model].code_digest

    def _keep(self, training: ChildTraining, epoch: int, folder: Path | None) -> None:
        """Keep what a child has written by an epoch, or without a folder what so many folds gave; one after another."""
        job = training.job
        curves, record = training.curves(epoch), training.record(epoch)
        code, before = self._code(job), self._keeping.get(job.claim.token)

        def keep() -> None:
            if before is not None:
                wait([before])
            self._checkpoints.keep(job, code, folder, curves, record)

        self._keeping[job.claim.token] = in_thread(keep)

    def _settle(self, job: Job, seconds: float | None = None) -> None:
        """Wait until none of a training's checkpoints is on its way; however long, or so many seconds."""
        if (keeping := self._keeping.get(job.claim.token)) is not None:
            wait([keeping], seconds)

    def _clean(self, training: ChildTraining) -> None:
        """Delete what is on its way once nobody writes there; one that cannot be loaded goes too."""
        job, code = training.job, self._code(training.job)

        def clean() -> None:
            self._settle(job)
            if training.has_unusable_checkpoint:
                self._checkpoints.remove(job, code)
            self._checkpoints.clean(job)
            self._keeping.pop(job.claim.token, None)

        in_thread(clean)

    # -- ends that are none of a training's making -----------------------------------------------------------

    def _diverged(self, training: ChildTraining, why: str) -> TrainingEvent:
        """A result in a search; elsewhere the round fails, and would again."""
        kind = training.job.claim.slot.kind
        if kind != "search":
            return self._failed(training, f"it diverged in a {kind} round: {why}", retry=False)
        logger.info("%s: diverged: %s", training.job.title, why)
        training.end()
        if not training.result.device:
            training.result = replace(training.result, device=self._device.type)
        return TrainingEvent(job=training.job, ended="diverged")

    def _failed(self, training: ChildTraining, why: str, *, retry: bool = True) -> TrainingEvent:
        """Its child is ended, if nobody else trains there: who knows what is left of it."""
        self._trainings.remove(training)
        self._clean(training)
        training.child.is_reusable = False
        self._release(training.child, is_idle=False)
        return TrainingEvent(job=training.job, error=why, retry=retry)

    def _died(self, trainings: Sequence[ChildTraining], end: Ended) -> Iterable[TrainingEvent]:
        """A child has died: that fails its training. Of several one is why; each goes on in a child of its own.

        What it had not begun goes to another child too, once: it died of something else (memory was short, say).
        """
        child, unfinished = trainings[0].child, trainings
        child.is_reusable = False
        if child.lanes > 1:
            unfinished = [training for training in trainings if training.stage in ("starting", "training")]
        innocent = [training for training in unfinished if self._was_not_begun(training)]
        if len(unfinished) == 1 and not innocent:
            (training,) = unfinished
            words = training.child.last_words(training.log_start)
            yield self._failed(training, f"{words}\n{end.why}" if words else end.why)
            return
        if unfinished:
            logger.warning("%s; its %d trainings go on in processes of their own", end.why, len(unfinished))
        for training in unfinished:
            job = training.job
            self._trainings.remove(training)
            self.settle(job)
            job.train_loss, job.validation_accuracy, job.resumed_at = [], [], []
            self.load([job])
            self._start_in(self._pool.take(child.description), job, is_moved=training in innocent)
        if not self._trainings_in(child):
            self._pool.end(child)

    def _was_not_begun(self, training: ChildTraining) -> bool:
        """Whether its child, which was ready for it, has ended without a word of having begun it."""
        waits = training.stage == "training" and not training.is_moved
        return waits and not training.child.process.has_begun(training.job.claim.token)

    def _late(self, training: ChildTraining) -> TrainingEvent:
        """A child takes too long for what it does: it is killed with all that it has started."""
        training.child.is_reusable = False
        in_thread(training.child.process.kill)
        if training.stage == "starting":
            return self._failed(training, f"the experiment was not imported within {START_SECONDS:g} s")
        if time.monotonic() >= training.stop_by:  # of what it reported last, its trial keeps the value
            logger.info("%s: it did not stop within %g s, so its process was ended", training.job.title, STOP_SECONDS)
            training.end()
            return TrainingEvent(job=training.job, ended="pruned")
        return self._diverged(training, f"it took longer than budget.max_seconds = {training.max_seconds:g}")
