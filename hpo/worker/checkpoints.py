"""A worker's checkpoints. What goes wrong with them is logged, and costs no more than the training since the last."""

import io
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from hpo.training.population import LaneState
from hpo.worker.job import Job
from hpo.worker.stores import Store, opened, sealed
from hpo.worker.threads import in_threads

THREADS = 8  # checkpoints read or written at once: a bucket takes long for each
SAVE_SECONDS = 10.0  # that the training waits for them to be written
POLL_SECONDS = 0.2  # between two questions whether to go on waiting
logger = logging.getLogger(__name__)
_ARRAYS = ("parameters", "first_moment", "second_moment")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training at an epoch boundary."""

    state: LaneState
    record: Mapping[str, Any]  # what the job had recorded by then


class Checkpoints:
    """Checkpoints by the digest of what makes a training."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(self, name: str, checkpoint: Checkpoint) -> None:
        """Keep it in place of an earlier one."""
        arrays = {array: getattr(checkpoint.state, array).numpy() for array in _ARRAYS}
        about = json.dumps({"epoch": checkpoint.state.epoch, "record": checkpoint.record}).encode()
        buffer = io.BytesIO()
        np.savez(buffer, about=np.frombuffer(about, dtype=np.uint8), **arrays)
        self._store.write(name, sealed(buffer.getvalue()))

    def load(self, name: str) -> Checkpoint | None:
        """The last one kept, or None; Damaged where it is not whole."""
        content = self._store.read(name)
        if content is None:
            return None
        with np.load(io.BytesIO(opened(f"checkpoint {name}", content)), allow_pickle=False) as arrays:
            about = json.loads(arrays["about"].tobytes())
            tensors = {array: torch.from_numpy(arrays[array]) for array in _ARRAYS}
        return Checkpoint(state=LaneState(epoch=about["epoch"], **tensors), record=about["record"])

    def remove(self, name: str) -> None:
        """Forget it: the training is over."""
        self._store.remove(name)


class Checkpointer:
    """Saves, loads and removes the checkpoints of jobs."""

    def __init__(self, checkpoints: Checkpoints, seconds: float) -> None:
        """`seconds` from one round of checkpoints to the next."""
        self._checkpoints, self._seconds = checkpoints, seconds
        self._last = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for the next."""
        return time.monotonic() - self._last >= self._seconds

    def save(
        self,
        states: Iterable[tuple[Job, LaneState]],
        seconds: float = SAVE_SECONDS,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Keep trainings where they are, at an epoch boundary; waits for so many seconds at most, or until `stop`."""
        now = [(job.digest, Checkpoint(state=state, record=job.record())) for job, state in states if state.epoch]
        writes = in_threads([partial(self._save, *checkpoint) for checkpoint in now], THREADS)
        deadline = time.monotonic() + seconds
        while (late := wait(writes, POLL_SECONDS).not_done) and time.monotonic() < deadline and not stop():
            pass
        problems = {problem for write in writes if write not in late and (problem := write.result()) is not None}
        if late:
            problems.add(f"{len(late)} of {len(writes)} take too long")
        for problem in sorted(problems):
            logger.warning("no checkpoint: %s", problem)
        logger.debug("%d checkpoint(s) written", len(writes) - len(late) - len(problems))
        self._last = time.monotonic()

    def _save(self, name: str, checkpoint: Checkpoint) -> str | None:
        try:
            self._checkpoints.save(name, checkpoint)
        except Exception as error:  # a full disk, a bucket that does not answer: the training goes on
            return str(error)
        return None

    def load_all(self, jobs: Sequence[Job]) -> None:
        """`load` for many."""
        for loaded in in_threads([partial(self.load, job) for job in jobs], THREADS):
            loaded.result()

    def load(self, job: Job) -> None:
        """Let the job go on where an earlier attempt got to, if it left a checkpoint."""
        try:
            kept = self._checkpoints.load(job.digest)
        except Exception as error:
            logger.warning("%s: starts from epoch 0, its checkpoint cannot be used: %s", job.title, error)
            return
        if kept is not None:
            job.resume(kept.state, kept.record)
            logger.info("%s: resumes after epoch %d", job.title, kept.state.epoch)

    def remove(self, job: Job) -> None:
        """Its training is over, its result kept."""
        try:
            self._checkpoints.remove(job.digest)
        except Exception as error:
            logger.warning("%s: its checkpoint could not be deleted: %s", job.title, error)
