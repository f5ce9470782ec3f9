"""A training in a child process, as the worker follows it."""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from hpo.experiment.messages import Message
from hpo.worker.child_pool import WarmChild
from hpo.worker.folds import TrainedFold
from hpo.worker.function_checkpoints import Curves, Resumed, storable
from hpo.worker.job import CheckpointRecord, Job
from hpo.worker.outcomes import FunctionResult

ChildStage = Literal["starting", "training", "trained", "testing", "tested"]


@dataclass(kw_only=True, eq=False)
class ChildTraining:
    """A training, and the child that has it."""

    job: Job
    child: WarmChild  # others may train there too, where it has lanes
    stage: ChildStage = "starting"
    deadline: float = math.inf  # of this stage, by the monotonic clock
    stop_by: float = math.inf  # when a training that is to stop must have ended
    log_start: int = 0  # bytes of the log when it began
    folds: int = 1  # that are trained one after another
    trained_folds: list[TrainedFold] = field(default_factory=list)
    is_fork: bool = False  # a copy of the child has it, which ends with its test
    result: FunctionResult = field(default_factory=FunctionResult)
    outputs: bytes | None = None
    is_moved: bool = False  # the child that it was given to had ended before it began
    is_resumable: bool = False  # it keeps checkpoints
    has_unusable_checkpoint: bool = False
    resumed: Resumed | None = None

    @property
    def is_late(self) -> bool:
        """Whether its child takes too long for what it does."""
        return time.monotonic() >= min(self.deadline, self.stop_by)

    def tell(self, kind: str, values: Mapping[str, Any]) -> None:
        """Tell its child something that concerns it."""
        self.child.process.tell(kind, {**values, "id": self.job.claim.token})

    def is_of(self, answer: Message) -> bool:
        """Whether a child's answer concerns it."""
        return bool(answer.values["id"] == self.job.claim.token)

    @property
    def seeds(self) -> dict[str, Any]:
        """The seeds of the training and of its items, and the options of the data."""
        claim = self.job.claim
        return {"seed": claim.slot.seed, "draw_seed": claim.draw_seed, "options": dict(claim.spec.data)}

    @property
    def max_seconds(self) -> float:
        """That it, or its test, may take."""
        limit = self.job.claim.spec.budget.max_seconds
        return math.inf if limit is None else float(limit)

    def go_on_from(self, resumed: Resumed) -> None:
        """Take up what an earlier attempt's checkpoint says of it."""
        curves = resumed.curves
        numbers = {name: math.nan if value is None else value for name, value in curves.numbers.items()}
        epochs = 0 if curves.folds else resumed.record.epoch
        self.result = replace(self.result, scores=curves.scores, numbers=numbers, epochs=epochs)
        self.trained_folds = list(curves.folds)

    def learn(self, values: Mapping[str, Any]) -> None:
        """What the child says of the training, or of its test."""
        before, about = self.result, self.child.about or {}
        kernels = values.get("kernels") or before.versions.get("kernels")  # of the training: a test does not say
        self.result = replace(
            before,
            scores=values["scores"],
            items=values["items"],
            numbers=values.get("numbers") or before.numbers,  # none where no epoch was left to train
            memory=values.get("memory", before.memory),
            epochs=values.get("epochs", before.epochs),
            seconds=values.get("seconds", before.seconds),
            device=values.get("device", before.device),
            versions=about["versions"] | ({} if kernels is None else {"kernels": kernels}),
        )

    def end(self) -> None:
        """It is over, and waits for its conclusion; nobody is late any more."""
        self.stage, self.deadline, self.stop_by = "trained", math.inf, math.inf

    def curves(self, epoch: int) -> Curves:
        """What it has reported by an epoch, for a checkpoint."""
        job = self.job
        return Curves(
            train_loss=[loss if math.isfinite(loss) else None for loss in job.train_loss[:epoch]],
            values=job.validation_accuracy[:epoch],
            numbers=storable(self.result.numbers),
            scores=storable(self.result.scores),
            epoch=epoch,
            folds=self.trained_folds if self.folds > 1 else [],
        )

    def record(self, epoch: int) -> CheckpointRecord:
        """How far it is after an epoch, for a checkpoint."""
        job = self.job
        return CheckpointRecord(
            epoch=epoch, seconds=job.seconds, device_seconds=job.device_seconds, resumed_at=tuple(job.resumed_at)
        )
