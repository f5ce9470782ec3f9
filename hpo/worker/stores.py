"""What a worker keeps outside the database: checkpoints of unfinished trainings, and results not yet stored.

Both are files that are written beside and renamed, with a digest in their first line, so that a file is whole or is
noticed not to be. A checkpoint's name is a digest of all that makes a training (spec, data, seeds, parameters), so
any worker of any database may go on from it. A result's folder belongs to one database.
"""

import base64
import hashlib
import io
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from sqlalchemy import Engine

from hpo.errors import HpoError
from hpo.storage import slots
from hpo.training.population import LaneState

_HEAD = b"hpo 1 "
_ARRAYS = ("parameters", "first_moment", "second_moment")
_LEFT_ALONE = 86_400.0  # seconds until a half-written file is taken for that of a writer that was killed


class Damaged(HpoError):
    """A file whose digest does not fit its content."""


class NoArtifacts(HpoError):
    """The place for checkpoints cannot be used."""


class Store(Protocol):
    """Where checkpoints lie: a folder, or objects in a bucket."""

    def write(self, name: str, body: bytes) -> None:
        """Keep it under this name, all of it or nothing."""

    def read(self, name: str) -> bytes | None:
        """What is kept under this name, or None."""

    def remove(self, name: str) -> None:
        """Forget it, if it is there."""


class Folder:
    """Files in a folder."""

    def __init__(self, folder: Path) -> None:
        """Make the folder; NoArtifacts where nothing can be written there."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
            for half in folder.glob(".*"):
                with suppress(FileNotFoundError):  # its writer has renamed it
                    if time.time() - half.stat().st_mtime > _LEFT_ALONE:
                        half.unlink()
        except OSError as error:
            raise NoArtifacts(f"{folder}: {error.strerror}; name a folder to write to with --artifacts") from error

    def write(self, name: str, body: bytes) -> None:
        beside = self.folder / f".{name}.{os.getpid()}.{threading.get_ident()}"
        try:
            with beside.open("wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.folder / name)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    def read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """With it what a writer that was killed has left half written; one that still writes is late, and told so."""
        for path in (self.folder / name, *self.folder.glob(f".{name}.*")):
            path.unlink(missing_ok=True)


class Bucket:
    """Objects in an S3-compatible bucket, through Optuna's artifact store; needs boto3."""

    def __init__(self, url: str) -> None:
        """`url` is s3://BUCKET or s3://BUCKET/PREFIX; address and credentials are boto3's own settings.

        Raises NoArtifacts where boto3 is missing or an object cannot be written, read and removed there.
        """
        try:
            import boto3  # type: ignore[import-untyped]  # ships no types
            from botocore.config import Config  # type: ignore[import-untyped]
            from optuna.artifacts import Boto3ArtifactStore
            from optuna.artifacts.exceptions import ArtifactNotFound
        except ImportError as error:
            raise NoArtifacts(f"--artifacts {url} needs boto3; `pip install boto3`") from error
        self._missing = ArtifactNotFound
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        try:
            # A bucket that does not answer must not hold up a worker that is told to stop.
            impatient = Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 2})
            self._store = Boto3ArtifactStore(bucket, client=boto3.client("s3", config=impatient))
            probe = f".probe-{uuid.uuid4().hex}"
            self.write(probe, b"")
            self.read(probe)
            self.remove(probe)
        except Exception as error:  # boto3 has no one class for what can go wrong
            raise NoArtifacts(
                f"--artifacts {url}: {' '.join(str(error).split())}; check the bucket's name, AWS_ENDPOINT_URL and "
                "the credentials"
            ) from error

    def write(self, name: str, body: bytes) -> None:
        self._store.write(self._prefix + name, io.BytesIO(body))

    def read(self, name: str) -> bytes | None:
        try:
            with self._store.open_reader(self._prefix + name) as reader:
                return reader.read()
        except self._missing:
            return None

    def remove(self, name: str) -> None:
        self._store.remove(self._prefix + name)


def sealed(body: bytes) -> bytes:
    """A body behind a line with its digest."""
    return _HEAD + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def opened(name: str, content: bytes) -> bytes:
    """The body of a sealed content; Damaged where it is not what was sealed."""
    head, _, body = content.partition(b"\n")
    if head != _HEAD + hashlib.sha256(body).hexdigest().encode():
        raise Damaged(f"{name}: the file is damaged (its digest does not fit) and is not used")
    return body


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training at an epoch boundary."""

    state: LaneState
    record: Mapping[str, Any]  # what the job had noted by then


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


class Spool:
    """Results of finished trainings that the database has not confirmed yet."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        """The folder serves several databases; each has a part of its own."""
        url = engine.url.set(password=None)
        if engine.dialect.name == "sqlite":
            url = url.set(database=str(Path(str(url.database)).resolve()))
        self._folder = Folder(folder / hashlib.sha256(str(url).encode()).hexdigest()[:16])
        self._engine = engine

    @property
    def folder(self) -> Path:
        """Where the results lie."""
        return self._folder.folder

    def put(self, slot_id: int, token: str, outcome: Mapping[str, Any], outputs: bytes | None) -> str:
        """Keep a result; returns its name."""
        name = f"{slot_id}-{token}.json"
        packed = None if outputs is None else base64.b85encode(outputs).decode()
        entry = {"slot": slot_id, "token": token, "outcome": outcome, "outputs": packed}
        self._folder.write(name, sealed(json.dumps(entry).encode()))
        return name

    def remove(self, name: str) -> None:
        """The database has it, or somebody else's."""
        self._folder.remove(name)

    def deliver(self, say: Callable[[str], None]) -> None:
        """Store what workers that are gone have left, where nobody has taken their slots since."""
        for name in self._names():
            content = self._folder.read(name)
            if content is None:  # its worker has stored it just now
                continue
            try:
                entry = json.loads(opened(f"result {name}", content))
            except Damaged as error:
                say(str(error))
                (self.folder / name).rename(self.folder / f"{name}.damaged")
                continue
            packed = entry["outputs"]
            outputs = None if packed is None else base64.b85decode(packed)
            if slots.finish(self._engine, entry["slot"], entry["token"], entry["outcome"], outputs):
                say(f"slot {entry['slot']}: its result, kept by a worker that is gone, is stored")
            else:
                say(f"slot {entry['slot']}: another worker has it, the result that one kept is dropped")
            self._folder.remove(name)

    def _names(self) -> Iterator[str]:
        return (path.name for path in sorted(self.folder.glob("*.json")))


def places(engine: Engine, artifacts: str | None) -> tuple[Store, Path]:
    """Where checkpoints lie, and this machine's folder for results; `artifacts` is a folder or s3://BUCKET."""
    if artifacts and artifacts.startswith("s3://"):
        return Bucket(artifacts), default_folder(engine)
    folder = Path(artifacts) if artifacts else default_folder(engine)
    return Folder(folder / "checkpoints"), folder


def default_folder(engine: Engine) -> Path:
    """Beside a SQLite file, else in the user's data folder."""
    if engine.dialect.name == "sqlite":
        return Path(f"{engine.url.database}.artifacts")
    from platformdirs import user_data_path

    return user_data_path("hpo") / "artifacts"
