"""What a training's end gives: the outcome to store, with the versions and the device that made it."""

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import hpo
from hpo.storage.outcome import Outcome, OutcomeState, Seeds
from hpo.worker.job import Job

PACKAGES = ("torch", "optuna", "numpy", "sqlalchemy")  # whose versions every outcome records, beside hpo's own


@dataclass(frozen=True, kw_only=True)
class FunctionResult:
    """What a child process says of a training."""

    scores: Mapping[str, float | None] = field(default_factory=dict)  # by metric
    items: int | None = None  # that they were measured on
    units_digest: str | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)  # the last that were reported
    memory: int | None = None  # bytes of its process, at the training's end
    epochs: int = 0
    seconds: float = 0.0  # in the user's function
    device: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    code_digest: str | None = None


def outcome_of_function(job: Job, result: FunctionResult, state: OutcomeState) -> Outcome:
    """The outcome of a training by a user's function; a diverged one has the value that its metric says."""
    spec = job.claim.spec
    metrics = {metric.name: _known(result.scores.get(metric.name)) for metric in spec.metrics}
    value = spec.metric.diverged if state == "diverged" else metrics[spec.metric.name]
    assert value is not None  # else it has diverged
    second = None if spec.tie_breaker is None or state == "diverged" else metrics[spec.tie_breaker.name]
    losses = tuple(finite(x) for x in job.train_loss)
    whole = len(losses) == result.epochs and any(loss is not None for loss in losses)
    return Outcome(
        state=state,
        value=value,
        loss=second,
        train_accuracy=None,
        epochs=result.epochs,
        train_loss=losses if whole else (),
        validation_accuracy=tuple(job.validation_accuracy),
        metrics=metrics,
        numbers={name: finite(number) for name, number in result.numbers.items()},
        memory=result.memory,
        items=result.items,
        units_digest=result.units_digest,
        code_digest=result.code_digest,
        device_seconds=round(result.seconds, 3),
        device=result.device,
        versions={**versions(), **result.versions},
        **circumstances(job),
    )


def circumstances(job: Job) -> dict[str, Any]:
    """What an outcome says of the attempt, whatever trained."""
    claim = job.claim
    return {
        "seconds": round(job.seconds, 3),
        "resumed_at": tuple(job.resumed_at),
        "attempt": claim.slot.attempt,
        "worker": claim.slot.worker,
        "git_commit": git_commit(),
        "spec_digest": claim.study.spec_digest,
        "data_digest": claim.study.data_digest,
        "seeds": Seeds(slot=claim.slot.seed, draw=claim.draw_seed),
    }


def summary_of(outcome: Outcome, kind: str) -> str:
    """An outcome on one line: how it ended, its values, epochs, time."""
    items = "test" if kind == "final" else "validation"
    parts: list[str] = [outcome.state]
    if outcome.train_accuracy is not None:
        parts.append(f"train {outcome.train_accuracy:.2%}")
    if outcome.metrics:
        known = {name: value for name, value in outcome.metrics.items() if value is not None}
        parts += [f"{items} {name} {value:.4g}" for name, value in list(known.items())[:2]]
    elif outcome.state != "diverged":
        parts.append(f"{items} {outcome.value:.2%}")
    if outcome.epochs:
        parts.append(f"{outcome.epochs} epochs")
    return ", ".join([*parts, f"{outcome.seconds:.0f} s"])


def _known(score: float | None) -> float | None:
    return None if score is None else finite(score)


def finite(x: float) -> float | None:
    """A number as JSON can have it, None where it is not finite."""
    return x if np.isfinite(x) else None


def device_name(device: torch.device) -> str:
    """The device as people know it."""
    if device.type == "cuda":
        return f"{device} {torch.cuda.get_device_name(device)}"
    return f"cpu {platform.machine()}, {torch.get_num_threads()} thread(s)"


@functools.cache
def versions() -> dict[str, str]:
    """Versions of Python, of hpo and of the packages that make a result."""
    return {
        "python": platform.python_version(),
        "hpo": hpo.__version__,
        **{name: version(name) for name in PACKAGES},
    }


@functools.cache
def git_commit() -> str | None:
    """The commit of the code that runs, "+" behind it where files differ; HPO_GIT_COMMIT in images without git."""
    if given := os.environ.get("HPO_GIT_COMMIT"):
        return given
    package = Path(hpo.__file__).parent
    try:
        commit = _git(package, "rev-parse", "HEAD")
        return commit + ("+" if _git(package, "status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
