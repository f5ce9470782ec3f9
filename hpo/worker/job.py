"""One training of this worker: what it was given, and what it has given so far."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hpo.experiment.spaces import Value
from hpo.storage.outcome import Seconds
from hpo.training.code import code_digest
from hpo.training.population import EpochReport, LaneState
from hpo.worker.claim import Claim

Epoch = Annotated[int, Field(ge=1)]


class CheckpointRecord(BaseModel):
    """How far a training has got, as its checkpoint has it beside state and curves."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    epoch: Epoch  # epochs trained
    seconds: Seconds  # wall seconds in a lane
    device_seconds: Seconds
    resumed_at: Annotated[tuple[Epoch, ...], Field(strict=False)] = ()  # a list in JSON

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if list(self.resumed_at) != sorted(self.resumed_at) or max(self.resumed_at, default=0) > self.epoch:
            raise ValueError(f"it was not resumed at epochs {self.resumed_at} before epoch {self.epoch}")
        return self


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training at an epoch boundary."""

    state: LaneState
    record: CheckpointRecord
    train_loss: Sequence[float]  # by epoch
    validation_accuracy: Sequence[float]  # by epoch; empty in final rounds


@dataclass(kw_only=True)
class Job:
    """A claim in training."""

    claim: Claim
    params: Mapping[str, Value]  # the active hyperparameters, without constants
    state: LaneState | None = None  # where it begins: a checkpoint's, None from the start
    started: float = field(default_factory=time.monotonic)
    train_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    validation: Mapping[str, float] | None = None  # metrics of its weights as they are, measured here; never read back
    seconds_before: float = 0.0  # of earlier attempts, where it goes on from a checkpoint
    device_seconds: float = 0.0  # of the device in its epochs, each shared by the lanes that trained in it
    resumed_at: list[int] = field(default_factory=list)  # epochs where it went on from a checkpoint

    @property
    def title(self) -> str:
        """The claim's name for people."""
        return self.claim.title

    @property
    def epochs(self) -> int:
        """How many it is to train."""
        return self.claim.spec.budget.epochs

    @property
    def trained(self) -> bool:
        """Whether the state that it begins with is that after its last epoch: only its test is left."""
        return self.state is not None and self.state.epoch >= self.epochs

    @property
    def seconds(self) -> float:
        """Wall seconds in a lane so far, earlier attempts that it builds on included."""
        return self.seconds_before + time.monotonic() - self.started

    @property
    def digest(self) -> str:
        """Of all that makes this training what it is, code included: equal digests are equal trainings."""
        identity = [
            code_digest(),
            self.claim.study.spec_digest,
            self.claim.study.data_digest,
            self.claim.slot.kind,
            self.claim.draw_seed,
            self.claim.slot.seed,
            sorted(self.params.items()),
        ]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:40]

    def checkpoint(self, state: LaneState) -> Checkpoint:
        """The job as it is now, in this state."""
        record = CheckpointRecord(
            epoch=state.epoch,
            seconds=self.seconds,
            device_seconds=self.device_seconds,
            resumed_at=tuple(self.resumed_at),
        )
        return Checkpoint(
            state=state,
            record=record,
            train_loss=tuple(self.train_loss),
            validation_accuracy=tuple(self.validation_accuracy),
        )

    def resume(self, checkpoint: Checkpoint) -> None:
        """Go on where an earlier attempt was, with what it had recorded."""
        self.state, record = checkpoint.state, checkpoint.record
        self.train_loss = list(checkpoint.train_loss)
        self.validation_accuracy = list(checkpoint.validation_accuracy)
        self.seconds_before, self.device_seconds = record.seconds, record.device_seconds
        self.resumed_at = [*record.resumed_at, record.epoch]

    def add_epoch(self, report: EpochReport, device_seconds: float) -> None:
        """Keep an epoch's numbers, and its share of the device's time."""
        self.device_seconds += device_seconds
        self.train_loss.append(report.train_loss)
        if report.validation:
            self.validation = report.validation
            self.validation_accuracy.append(report.validation[self.claim.spec.metric.name])
