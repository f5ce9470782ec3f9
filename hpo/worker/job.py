"""One slot's training: from the slot to the population's task, and from its end to the outcome to store."""

import functools
import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from hpo.storage.slots import Slot
from hpo.storage.studies import StudyRow
from hpo.study.search import CHANCE
from hpo.study.spec import StudySpec
from hpo.training import draws
from hpo.training.population import EpochReport, Population, Prediction, Task

PACKAGES = ("hpo", "torch", "optuna", "numpy", "sqlalchemy")  # whose versions every outcome records


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


def finished(
    job: Job,
    population: Population,
    parameters: Tensor,
    training: draws.PairTable,
    state: str,
    test: Callable[[], tuple[draws.ImagePool, draws.PairTable]],
) -> tuple[dict[str, Any], bytes | None]:
    """The outcome (and a final round's packed outputs) of a job that is complete, pruned or diverged.

    parameters (n,) are what its training ended with; training its samples, over the population's images.
    `test` opens pool B and draws the test pairs; it is called for a complete final round alone.
    """
    value, loss, train_accuracy, outputs = CHANCE, None, None, None
    if state == "complete":
        train_accuracy = population.predict(parameters, training).accuracy
    if state != "diverged" and job.slot.kind != "final":
        value, loss = job.validation_accuracy[-1], job.validation_loss
    elif state == "complete":
        pool, pairs = test()
        prediction = population.predict(parameters, pairs, population.cut(pool.images))
        value, loss, outputs = prediction.accuracy, prediction.loss, pack(prediction)
    outcome = {
        "state": state,
        "value": value,
        "loss": loss,
        "train_accuracy": train_accuracy,
        "epochs": len(job.train_loss),
        "train_loss": [_finite(x) for x in job.train_loss],
        "validation_accuracy": job.validation_accuracy,
        "seconds": round(job.seconds, 3),
        "device_seconds": round(job.device_seconds, 3),
        "resumed_at": job.resumed_at,
        "attempt": job.slot.attempt,
        "worker": job.slot.worker,
        "device": device_name(population),
        "versions": versions(),
        "git_commit": git_commit(),
        "spec_digest": job.row.spec_digest,
        "data_digest": job.row.data_digest,
        "seeds": {"slot": job.slot.seed, "draw": job.draw_seed},
    }
    return outcome, outputs


def pack(prediction: Prediction) -> bytes:
    """One byte a test pair: answer + 2 * (10 * digit 1 + digit 2), digits 0 where the model says none."""
    code = prediction.answer.numpy().astype(np.uint8)
    if prediction.digits is not None:
        digits = prediction.digits.numpy()
        code = code + 2 * (10 * digits[:, 0] + digits[:, 1]).astype(np.uint8)
    return code.tobytes()


def in_words(outcome: dict[str, Any], kind: str) -> str:
    """An outcome on one line: how it ended, accuracies, epochs, time."""
    words = [outcome["state"]]
    if outcome["train_accuracy"] is not None:
        words.append(f"train {outcome['train_accuracy']:.2%}")
    if outcome["state"] != "diverged":
        words.append(f"{'test' if kind == 'final' else 'validation'} {outcome['value']:.2%}")
    return ", ".join([*words, f"{outcome['epochs']} epochs", f"{outcome['seconds']:.0f} s"])


def _finite(x: float) -> float | None:
    return x if np.isfinite(x) else None  # JSON has no NaN


def device_name(population: Population) -> str:
    """The device as people know it."""
    import torch

    if population.device.type == "cuda":
        return f"{population.device} {torch.cuda.get_device_name(population.device)}"
    return f"cpu {platform.machine()}, {torch.get_num_threads()} thread(s)"


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that make a result."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


@functools.cache
def git_commit() -> str | None:
    """The commit of the code that runs, "+" behind it where files differ; HPO_GIT_COMMIT in images without git."""
    if told := os.environ.get("HPO_GIT_COMMIT"):
        return told
    here = Path(__file__).parent
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+" if _git(here, "status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
