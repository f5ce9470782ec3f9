"""What a training's end gives: the outcome to store, with the versions and the device that made it."""

import functools
import os
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from torch import Tensor

import hpo
from hpo.storage.outcome import Outcome, OutcomeState, Seeds, pack_answers
from hpo.study.search import CHANCE
from hpo.training import draws
from hpo.training.population import Population, Prediction
from hpo.worker.job import Job

PACKAGES = ("torch", "optuna", "numpy", "sqlalchemy")  # whose versions every outcome records, beside hpo's own


def outcome_of(
    job: Job,
    population: Population,
    parameters: Tensor,
    training: draws.PairTable,
    state: OutcomeState,
    test: Callable[[], tuple[draws.ImagePool, draws.PairTable]],
) -> tuple[Outcome, bytes | None]:
    """The outcome (and a final round's packed answers) of a job that is complete, pruned or diverged.

    parameters (n,) are what its training ended with; training its samples, over the population's images.
    `test` opens pool B and draws the test pairs; it is called for a complete final round alone.
    """
    claim = job.claim
    value, loss, train_accuracy, answers = CHANCE, None, None, None
    if state == "complete":
        train_accuracy = population.predict(parameters, training).accuracy
    if state != "diverged" and claim.slot.kind != "final":
        assert job.validation is not None  # of these very parameters
        value, loss = job.validation.accuracy, job.validation.loss
    elif state == "complete":
        pool, pairs = test()
        prediction = population.predict(parameters, pairs, population.cut(pool.images))
        value, loss, answers = prediction.accuracy, prediction.loss, _packed(prediction)
    outcome = Outcome(
        state=state,
        value=value,
        loss=loss,
        train_accuracy=train_accuracy,
        epochs=len(job.train_loss),
        train_loss=tuple(_finite(x) for x in job.train_loss),
        validation_accuracy=tuple(job.validation_accuracy),
        seconds=round(job.seconds, 3),
        device_seconds=round(job.device_seconds, 3),
        resumed_at=tuple(job.resumed_at),
        attempt=claim.slot.attempt,
        worker=claim.slot.worker,
        device=device_name(population),
        versions=versions(),
        git_commit=git_commit(),
        spec_digest=claim.study.spec_digest,
        data_digest=claim.study.data_digest,
        seeds=Seeds(slot=claim.slot.seed, draw=claim.draw_seed),
    )
    return outcome, answers


def summary_of(outcome: Outcome, kind: str) -> str:
    """An outcome on one line: how it ended, accuracies, epochs, time."""
    parts: list[str] = [outcome.state]
    if outcome.train_accuracy is not None:
        parts.append(f"train {outcome.train_accuracy:.2%}")
    if outcome.state != "diverged":
        parts.append(f"{'test' if kind == 'final' else 'validation'} {outcome.value:.2%}")
    return ", ".join([*parts, f"{outcome.epochs} epochs", f"{outcome.seconds:.0f} s"])


def _packed(prediction: Prediction) -> bytes:
    digits = prediction.digits
    return pack_answers(prediction.answer.numpy(), None if digits is None else digits.numpy())


def _finite(x: float) -> float | None:
    return x if np.isfinite(x) else None


def device_name(population: Population) -> str:
    """The device as people know it."""
    import torch

    if population.device.type == "cuda":
        return f"{population.device} {torch.cuda.get_device_name(population.device)}"
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
