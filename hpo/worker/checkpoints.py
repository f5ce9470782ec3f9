"""A worker's checkpoints. What goes wrong with them is logged, and costs no more than the training since the last."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from hpo.experiment import shipped
from hpo.storage.outcome import first_problem
from hpo.training.population import LaneState
from hpo.worker.arrays import array_chunks, is_finite, read_array, size_of
from hpo.worker.job import Checkpoint, CheckpointRecord, Job
from hpo.worker.manifests import Manifest, SignedFolders
from hpo.worker.signing import Damaged, Signer
from hpo.worker.stores import Store
from hpo.worker.threads import in_threads

THREADS = 8  # checkpoints read or written at once: a bucket takes long for each
SAVE_SECONDS = 10.0  # that the training waits for them to be written
POLL_SECONDS = 0.2  # between two questions whether to go on waiting
SHARE = 0.05  # of the time, for writing at the most: where that takes long it is done less often
logger = logging.getLogger(__name__)
_STATE, _CURVES = "state.npy", "curves.npy"  # float32 (3, n): parameters, moments; float64 (1 or 2, epochs)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a training's checkpoint must fit."""

    parameters: int  # n
    epochs: int  # of the budget
    validated: bool  # whether every epoch has a validation accuracy

    @classmethod
    def of(cls, job: Job) -> "Expected":
        """What the checkpoint of a job must fit."""
        return cls(
            parameters=shipped.part("models").parameter_count(job.claim.study.model),
            epochs=job.epochs,
            validated=job.claim.slot.kind != "final",
        )


class Checkpoints:
    """Checkpoints of trainings in lanes, by the digest of what makes a training."""

    def __init__(self, store: Store, signer: Signer) -> None:
        self._folders, self._signer = SignedFolders(store, signer), signer

    def save(self, digest: str, checkpoint: Checkpoint) -> None:
        """Keep it in place of an earlier one; ValueError where its numbers are not finite."""
        state = [getattr(checkpoint.state, name).numpy() for name in ("parameters", "first_moment", "second_moment")]
        curves = [np.array(curve, np.float64) for curve in (checkpoint.train_loss, checkpoint.validation_accuracy)]
        files = {_STATE: state, _CURVES: [curve for curve in curves if curve.size]}
        if not all(is_finite(row) for rows in files.values() for row in rows):
            raise ValueError("a state or a curve is not finite")
        self._folders.save(
            self._signer.name(digest),
            checkpoint.record.model_dump(mode="json"),
            {file: array_chunks(rows) for file, rows in files.items()},
        )

    def load(self, digest: str, expected: Expected) -> Checkpoint | None:
        """The last one kept, or None; Damaged where it is not whole, not this database's, or does not fit."""
        name = self._signer.name(digest)
        manifest = self._folders.find(name)
        while manifest is not None:
            try:
                return self._read(manifest, expected)
            except Damaged:
                before, manifest = manifest, self._folders.find(name)
                if manifest == before:  # else another worker has written the next meanwhile
                    raise
        return None

    def remove(self, digest: str) -> None:
        """Forget it: the training is over."""
        self._folders.remove(self._signer.name(digest))

    def set_aside(self, digest: str) -> str:
        """Rename one that cannot be used; returns its new name."""
        return self._folders.set_aside(self._signer.name(digest))

    def _read(self, manifest: Manifest, expected: Expected) -> Checkpoint:
        try:
            record = CheckpointRecord.model_validate(manifest.record)
        except ValidationError as error:
            raise Damaged(f"its record is invalid: {first_problem(error)}") from error
        epoch, rows = record.epoch, 2 if expected.validated else 1
        if epoch > expected.epochs:
            raise Damaged(f"it is after epoch {epoch} of {expected.epochs}")
        shapes = {_STATE: ((3, expected.parameters), np.float32), _CURVES: ((rows, epoch), np.float64)}
        sizes = {file: size_of(*shape) for file, shape in shapes.items()}
        if sizes != {file: stored.size for file, stored in manifest.files.items()}:
            raise Damaged(f"its files are not those of {expected.parameters:,} parameters after {epoch} epochs")
        state, curves = (self._array(manifest, file, *shape) for file, shape in shapes.items())
        if curves.min() < 0 or (expected.validated and curves[1].max() > 1):
            raise Damaged("its losses or accuracies have no sense")
        parameters, first, second = torch.from_numpy(state)
        return Checkpoint(
            state=LaneState(epoch=epoch, parameters=parameters, first_moment=first, second_moment=second),
            record=record,
            train_loss=curves[0].tolist(),
            validation_accuracy=curves[1].tolist() if expected.validated else [],
        )

    def _array(self, manifest: Manifest, file: str, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
        array = read_array(self._folders.chunks(manifest, file), shape, dtype)
        if not is_finite(array):
            raise Damaged(f"{file} has numbers that are not finite")
        return array


class Checkpointer:
    """Saves, loads and removes the checkpoints of jobs."""

    def __init__(self, checkpoints: Checkpoints, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`seconds` at least from one round of checkpoints to the next."""
        self._checkpoints, self._seconds, self._clock = checkpoints, seconds, clock
        self._begun = self._ended = clock()  # the last round
        self._writes: list[Future[str | None]] = []

    @property
    def due(self) -> bool:
        """Whether it is time for the next: not before the last is written, nor so soon that writing takes too much."""
        if not all(write.done() for write in self._writes):
            return False
        pause = (self._ended - self._begun) * (1 / SHARE - 1)
        return self._clock() - self._ended >= max(self._seconds, pause)

    def save(
        self,
        states: Iterable[tuple[Job, LaneState]],
        seconds: float = SAVE_SECONDS,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Keep trainings where they are, at an epoch boundary; waits for so many seconds at most, or until `stop`."""
        self._begun = self._clock()
        now = [(job.digest, job.checkpoint(state)) for job, state in states if state.epoch]
        writes = self._writes = in_threads([partial(self._save, *checkpoint) for checkpoint in now], THREADS)
        deadline = time.monotonic() + seconds
        while (late := wait(writes, POLL_SECONDS).not_done) and time.monotonic() < deadline and not stop():
            pass
        problems = {problem for write in writes if write not in late and (problem := write.result()) is not None}
        if late:
            problems.add(f"{len(late)} of {len(writes)} take too long")
        for problem in sorted(problems):
            logger.warning("no checkpoint: %s", problem)
        logger.debug("%d checkpoint(s) written", len(writes) - len(late) - len(problems))
        self._ended = self._clock()

    def _save(self, digest: str, checkpoint: Checkpoint) -> str | None:
        try:
            self._checkpoints.save(digest, checkpoint)
        except Exception as error:  # a full disk, a bucket that does not answer: the training goes on
            return str(error)
        finally:
            self._ended = self._clock()
        return None

    def load_all(self, jobs: Sequence[Job]) -> None:
        """`load` for many."""
        for loaded in in_threads([partial(self.load, job) for job in jobs], THREADS):
            loaded.result()

    def load(self, job: Job) -> None:
        """Let the job go on where an earlier attempt got to, if it left a checkpoint."""
        try:
            checkpoint = self._checkpoints.load(job.digest, Expected.of(job))
        except Damaged as error:
            self._warn(job, f"{error}; {self._set_aside(job)}")
        except Exception as error:  # it may be read another time
            self._warn(job, str(error))
        else:
            if checkpoint is not None:
                job.resume(checkpoint)
                logger.info("%s: resumes after epoch %d", job.title, checkpoint.state.epoch)

    def _set_aside(self, job: Job) -> str:
        try:
            return f"it is now called {self._checkpoints.set_aside(job.digest)}"
        except Exception as error:  # not ours to rename
            return f"it stays where it is ({error})"

    def _warn(self, job: Job, problem: str) -> None:
        logger.warning("%s: starts from epoch 0, its checkpoint cannot be used: %s", job.title, problem)

    def remove(self, job: Job) -> None:
        """Its training is over, its result kept."""
        try:
            self._checkpoints.remove(job.digest)
        except Exception as error:
            logger.warning("%s: its checkpoint could not be deleted: %s", job.title, error)
