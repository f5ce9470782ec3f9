"""What a worker keeps outside the database: checkpoints of unfinished trainings, and results not yet stored.

Both are files that are written atomically, with a digest in their first line, so that a file is whole or is noticed
not to be. A checkpoint's name is a digest of all that makes a training (spec, data, seeds, parameters), so
any worker of any database may go on from it. A result's folder belongs to one database.
"""

import hashlib
import io
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from sqlalchemy import Engine

from hpo.errors import HpoError
from hpo.files import temporaries_of, write_atomically
from hpo.text import without_credentials

_HEAD = b"hpo 1 "
_ABANDONED_AFTER = 86_400.0  # seconds until a temporary file is taken for that of a writer that was killed


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
            probe = folder / f".probe.{uuid.uuid4().hex}"
            write_atomically(probe, b"")
            probe.unlink()
            for path in folder.glob(".*"):
                with suppress(OSError):  # its writer has renamed it, or it is not ours to delete
                    if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                        path.unlink()
        except OSError as error:
            raise NoArtifacts(f"{folder}: {error.strerror}; name a folder to write to with --artifacts") from error

    def write(self, name: str, body: bytes) -> None:
        write_atomically(self.folder / name, body)

    def read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Remove the file and what killed writers left half written of it; a writer still at work gets an error."""
        path = self.folder / name
        for file in (path, *temporaries_of(path)):
            file.unlink(missing_ok=True)


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
            reason = " ".join(without_credentials(str(error)).split())  # AWS_ENDPOINT_URL stands in it
            raise NoArtifacts(
                f"--artifacts {url}: {reason}; check the bucket's name, AWS_ENDPOINT_URL and the credentials"
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


def places(engine: Engine, artifacts: str | None) -> tuple[Store, Path]:
    """Where checkpoints lie, and this machine's folder for results; `artifacts` is a folder or s3://BUCKET."""
    if artifacts and artifacts.startswith("s3://"):
        return Bucket(artifacts), default_folder(engine)
    folder = Path(artifacts) if artifacts else default_folder(engine)
    return Folder(folder / "checkpoints"), folder


def default_folder(engine: Engine) -> Path:
    """Beside a SQLite file, else in the user's data folder; NoArtifacts for a user without one."""
    if engine.dialect.name == "sqlite":
        return Path(f"{engine.url.database}.artifacts")
    from platformdirs import user_data_path

    try:
        return user_data_path("hpo") / "artifacts"
    except RuntimeError as error:
        raise NoArtifacts(
            "this user has no home folder for checkpoints; name one with --artifacts or HPO_ARTIFACTS"
        ) from error
