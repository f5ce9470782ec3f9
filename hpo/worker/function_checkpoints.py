"""Checkpoints of trainings by functions: what a child process has written, kept as a signed folder.

The worker copies files and reads none of them; the next child that goes on with the training does.
"""

import hashlib
import json
import logging
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpo.files import open_regular
from hpo.storage.outcome import first_problem
from hpo.worker.folds import TrainedFold
from hpo.worker.job import CheckpointRecord, Job
from hpo.worker.manifests import Manifest, SignedFolders
from hpo.worker.signing import Damaged, Signer
from hpo.worker.stores import CHUNK, Store

KEEP_SECONDS = 10.0  # that a training's next step waits for its last checkpoint to be kept
_CURVES = "curves.json"
_MOST_CURVES = 1 << 28  # bytes
_UNUSED_AFTER = 86_400.0  # seconds until what a worker that was killed has left is deleted
logger = logging.getLogger(__name__)


class Curves(BaseModel):
    """What a training has reported so far."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    train_loss: list[float | None]
    values: list[float]  # of the first metric
    numbers: dict[str, float | None]
    scores: dict[str, float | None]
    epoch: Annotated[int, Field(ge=1)]  # of a trial's folds, how many are trained
    folds: list[TrainedFold] = []


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """Where a training goes on."""

    folder: Path  # of its checkpoint, as the child wrote it
    record: CheckpointRecord
    curves: Curves


class FunctionCheckpoints:
    """Checkpoints by what makes a training, and a folder on this machine for those on their way."""

    def __init__(self, store: Store, signer: Signer, scratch: Path, worker: str, seconds: float) -> None:
        """`seconds` at least from one checkpoint of a training to the next."""
        self.seconds = seconds
        self._folders, self._signer = SignedFolders(store, signer), signer
        self._all, self._scratch = scratch, scratch / worker
        self._sweep()

    def place(self, job: Job) -> Path:
        """The folder for a training's checkpoints on their way, which only this user may enter."""
        place = self._scratch / job.claim.token
        if not place.exists():
            self._scratch.mkdir(parents=True, exist_ok=True)
            place.mkdir(mode=0o700, exist_ok=True)
        return place

    def keep(self, job: Job, code: str, folder: Path | None, curves: Curves, record: CheckpointRecord) -> None:
        """Keep curves and what a child has written, and delete its folder; what goes wrong is logged, no more."""
        try:
            written = () if folder is None else folder.iterdir()
            files: dict[str, Iterator[bytes | memoryview]] = {path.name: _chunks(path) for path in written}
            files[_CURVES] = iter([curves.model_dump_json().encode()])
            self._folders.save(self._name(job, code), record.model_dump(mode="json"), files)
        except Exception as error:  # a full disk, a bucket that does not answer
            logger.warning("%s: no checkpoint: %s", job.title, error)
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                os.utime(self._scratch)  # it is in use

    def load(self, job: Job, code: str) -> Resumed | None:
        """The last one kept, copied to this machine; None where there is none that can be used, which is logged."""
        name = self._name(job, code)
        try:
            manifest = self._folders.find(name)
            return None if manifest is None else self._copied(job, manifest)
        except Damaged as error:
            logger.warning("%s: starts anew, its checkpoint is damaged: %s; %s", job.title, error, self._aside(name))
        except Exception as error:  # it may be read another time
            logger.warning("%s: starts anew, its checkpoint cannot be read: %s", job.title, error)
        return None

    def remove(self, job: Job, code: str) -> None:
        """Its training is over, its result kept; or it is of no use."""
        try:
            self._folders.remove(self._name(job, code))
        except Exception as error:
            logger.warning("%s: its checkpoint could not be deleted: %s", job.title, error)

    def clean(self, job: Job) -> None:
        """Nothing of this training is on its way any more."""
        shutil.rmtree(self._scratch / job.claim.token, ignore_errors=True)

    def close(self) -> None:
        """Delete the folder for what is on its way."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _copied(self, job: Job, manifest: Manifest) -> Resumed:
        folder = self.place(job) / "resume"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        curves = b""
        for file in manifest.files:
            if file == _CURVES:
                if manifest.files[file].size > _MOST_CURVES:
                    raise Damaged(f"{file} is too large")
                curves = b"".join(self._folders.chunks(manifest, file))
                continue
            with (folder / file).open("wb") as copy:
                for chunk in self._folders.chunks(manifest, file):
                    copy.write(chunk)
        try:
            record = CheckpointRecord.model_validate(manifest.record)
            return Resumed(folder=folder, record=record, curves=Curves.model_validate_json(curves))
        except ValidationError as error:
            raise Damaged(f"its record is invalid: {first_problem(error)}") from error

    def _aside(self, name: str) -> str:
        try:
            return f"it is now called {self._folders.set_aside(name)}"
        except Exception as error:  # not ours to rename
            return f"it stays where it is ({error})"

    def _name(self, job: Job, code: str) -> str:
        """Of all that makes this training what it is: equal names are equal trainings."""
        claim = job.claim
        identity = [
            "function",
            code,
            claim.study.spec_digest,
            claim.study.data_digest,
            claim.slot.kind,
            claim.draw_seed,
            claim.slot.seed,
            sorted(job.params.items()),
        ]
        return self._signer.name(hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:40])

    def _sweep(self) -> None:
        if not self._all.is_dir():
            return
        for path in self._all.iterdir():
            if time.time() - path.lstat().st_mtime > _UNUSED_AFTER:
                shutil.rmtree(path, ignore_errors=True)


def _chunks(path: Path) -> Iterator[bytes | memoryview]:
    """A file's content, piece by piece; the child may have put anything there."""
    file, size = open_regular(path, follow=False)
    with file:
        while size and (chunk := file.read(min(size, CHUNK))):
            size -= len(chunk)
            yield chunk


def storable(numbers: Mapping[str, float | None]) -> dict[str, float | None]:
    """Numbers as JSON can hold them."""
    return {name: None if value is None or not math.isfinite(value) else value for name, value in numbers.items()}
