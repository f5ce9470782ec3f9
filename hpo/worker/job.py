"""One slot's training: from the slot to the population's task, and from its end to the outcome to store."""

import functools
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo.storage.slots import Slot
from hpo.storage.studies import StudyRow
from hpo.study.spec import StudySpec
from hpo.training import draws
from hpo.training.population import EpochReport, Task


@dataclass(kw_only=True)
class Job:
    """A slot in a lane: what it was given and what it has given so far."""

    slot: Slot
    row: StudyRow
    spec: StudySpec
    params: Mapping[str, float]
    started: float = field(default_factory=time.monotonic)
    train_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    validation_loss: float | None = None
    seconds_before: float = 0.0  # of earlier attempts, where it goes on from a checkpoint
    device_seconds: float = 0.0  # of the device in its epochs, each shared by the lanes that trained in it
    resumed_at: list[int] = field(default_factory=list)  # epochs where it went on from a checkpoint

    @property
    def draw_seed(self) -> int:
        """The search's draws are the study's; a round's are its own, shared by all models and labels."""
        return self.row.seed if self.slot.kind == "search" else self.slot.seed

    @property
    def title(self) -> str:
        """What people call it, for example "ws:final tuned round 3"."""
        if self.slot.kind == "search":
            return f"{self.row.name} trial {self.slot.trial_number}"
        return f"{self.row.name}:{self.slot.kind} {self.slot.label} round {self.slot.round}"

    @property
    def seconds(self) -> float:
        """Wall seconds in a lane so far, earlier attempts that it builds on included."""
        return self.seconds_before + time.monotonic() - self.started

    @property
    def digest(self) -> str:
        """Of all that makes this training what it is: equal digests are equal trainings, in any database."""
        makes = [
            self.row.spec_digest,
            self.row.data_digest,
            self.slot.kind,
            self.draw_seed,
            self.slot.seed,
            sorted(self.params.items()),
        ]
        return hashlib.sha256(json.dumps(makes).encode()).hexdigest()[:40]

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as it is now."""
        return {
            "train_loss": list(self.train_loss),
            "validation_accuracy": list(self.validation_accuracy),
            "validation_loss": self.validation_loss,
            "seconds": self.seconds,
            "device_seconds": self.device_seconds,
            "resumed_at": self.resumed_at,
        }

    def go_on(self, epoch: int, record: Mapping[str, Any]) -> None:
        """Take over what an earlier attempt had noted by an epoch."""
        self.train_loss = list(record["train_loss"])
        self.validation_accuracy = list(record["validation_accuracy"])
        self.validation_loss = record["validation_loss"]
        self.seconds_before = record["seconds"]
        self.device_seconds = record.get("device_seconds", 0.0)  # checkpoints made before had none
        self.resumed_at = [*record["resumed_at"], epoch]

    def note(self, report: EpochReport, device_seconds: float) -> None:
        """Keep an epoch's numbers, and its share of the device's time."""
        self.device_seconds += device_seconds
        self.train_loss.append(report.train_loss)
        if report.validation_accuracy is not None:
            self.validation_accuracy.append(report.validation_accuracy)
            self.validation_loss = report.validation_loss


class Draws:
    """The draws of a data set's pool A, the last few kept: all trials of a search share theirs."""

    def __init__(self, pool: draws.ImagePool) -> None:
        self.pool = pool
        self._draw = functools.lru_cache(maxsize=4)(self._fresh)

    def _fresh(self, seed: int, training: int, validation: int) -> tuple[draws.PairTable, draws.PairTable]:
        samples, left = draws.draw_training(self.pool, seed, training)
        return samples, draws.draw_validation(self.pool, left, seed, validation)

    def task(self, job: Job) -> Task:
        """The population's task for a job; a final round has no validation."""
        protocol = job.spec.protocol
        training, validation = self._draw(job.draw_seed, protocol.training_pairs, protocol.validation_pairs)
        return Task(
            key=job.slot.id,
            params=job.params,
            seed=job.slot.seed,
            epochs=job.spec.budget.epochs,
            training=training,
            validation=None if job.slot.kind == "final" else validation,
        )
