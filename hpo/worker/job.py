"""One training of this worker: what it was given, what it has given so far, and the population's task for it."""

import functools
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo.training import draws
from hpo.training.population import EpochReport, LaneState, Task
from hpo.worker.claim import Claim


@dataclass(kw_only=True)
class Job:
    """A claim in training."""

    claim: Claim
    params: Mapping[str, float]
    state: LaneState | None = None  # where it begins: a checkpoint's, None from the start
    started: float = field(default_factory=time.monotonic)
    train_loss: list[float] = field(default_factory=list)
    validation_accuracy: list[float] = field(default_factory=list)
    validation_loss: float | None = None
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
        """Of all that makes this training what it is: equal digests are equal trainings, in any database."""
        identity = [
            self.claim.study.spec_digest,
            self.claim.study.data_digest,
            self.claim.slot.kind,
            self.claim.draw_seed,
            self.claim.slot.seed,
            sorted(self.params.items()),
        ]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:40]

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

    def resume(self, state: LaneState, record: Mapping[str, Any]) -> None:
        """Go on where an earlier attempt was, with what it had recorded."""
        self.state = state
        self.train_loss = list(record["train_loss"])
        self.validation_accuracy = list(record["validation_accuracy"])
        self.validation_loss = record["validation_loss"]
        self.seconds_before = record["seconds"]
        self.device_seconds = record.get("device_seconds", 0.0)  # checkpoints made before 0.1.0 have none
        self.resumed_at = [*record["resumed_at"], state.epoch]

    def add_epoch(self, report: EpochReport, device_seconds: float) -> None:
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
        claim, protocol = job.claim, job.claim.spec.protocol
        training, validation = self._draw(claim.draw_seed, protocol.training_pairs, protocol.validation_pairs)
        return Task(
            key=claim.slot.id,
            params=job.params,
            seed=claim.slot.seed,
            epochs=job.epochs,
            training=training,
            validation=None if claim.slot.kind == "final" else validation,
        )
