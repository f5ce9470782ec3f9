"""What a training's end gives: the outcome to store, with the versions and the device that made it."""

import functools
import os
import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

import hpo
from hpo.study.search import CHANCE
from hpo.training import draws
from hpo.training.population import Population, Prediction
from hpo.worker.job import Job

PACKAGES = ("torch", "optuna", "numpy", "sqlalchemy")  # whose versions every outcome records, beside hpo's own


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
    """Versions of Python, of hpo and of the packages that make a result."""
    return {
        "python": platform.python_version(),
        "hpo": hpo.__version__,
        **{name: version(name) for name in PACKAGES},
    }


@functools.cache
def git_commit() -> str | None:
    """The commit of the code that runs, "+" behind it where files differ; HPO_GIT_COMMIT in images without git."""
    if told := os.environ.get("HPO_GIT_COMMIT"):
        return told
    here = Path(hpo.__file__).parent  # of all of hpo
    try:
        commit = _git(here, "rev-parse", "HEAD")
        return commit + ("+" if _git(here, "status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
