"""Where a worker keeps what is not in the database: checkpoints of unfinished trainings, and results not yet stored.

A place for files is a folder, or the objects of a bucket under a prefix. Others may write there too: nothing is taken
for what its name says, and nothing is read without a bound.
"""

import errno
import glob
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, suppress
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Engine

from hpo.errors import HpoError
from hpo.files import open_regular, read_bounded, temporaries_of, write_atomically, write_new
from hpo.text import without_credentials
from hpo.worker.signing import Damaged

CHUNK = 1 << 20  # bytes that are read or written at once
DAMAGED = ".damaged"  # the end of the name of what was set aside
_NO_SUCH_FILE = {  # what opening a path tells of what lies there, and not of the disk
    *(errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ENOENT),
    *(errno.ELOOP, errno.ENXIO, errno.EINVAL, errno.EFBIG),
}
_ABANDONED_AFTER = 86_400.0  # seconds until a temporary file is taken for that of a writer that was killed


class NoArtifacts(HpoError):
    """The place for checkpoints cannot be used."""


class Store(Protocol):
    """Where checkpoints lie. A path is a name, or FOLDER/NAME."""

    def create(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        """Write a new file, which may be the first of its folder; it need not be whole where that fails."""

    def replace(self, name: str, body: bytes) -> None:
        """Keep this under a name, all of it or nothing."""

    def read(self, name: str, most: int) -> bytes | None:
        """What is kept under this name, or None; Damaged where it is no file, or larger than so many bytes."""

    def chunks(self, path: str, size: int) -> Iterator[bytes]:
        """A file's content in pieces of at most CHUNK; Damaged where it is no file of this size."""

    def delete(self, name: str) -> None:
        """Delete the file of this name, if it is there, or the folder with all in it."""

    def set_aside(self, name: str) -> str:
        """Rename what is under this name; returns its new name."""

    def names(self, start: str) -> list[str]:
        """The names of files and folders that begin so."""

    def ages(self) -> Mapping[str, float]:
        """For how many seconds each name has not been touched; none in a bucket, which has rules of its own for age."""


class Folder:
    """Files in a folder, and in folders in it."""

    def __init__(self, folder: Path) -> None:
        """Make the folder; NoArtifacts where nothing can be written there."""
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".probe.{uuid.uuid4().hex}"
            write_atomically(probe, b"")
            probe.unlink()
            for name, age in self.ages().items():
                if name.startswith(".") and age > _ABANDONED_AFTER:
                    with suppress(OSError):  # its writer has renamed it, or it is not ours to delete
                        (folder / name).unlink()
        except OSError as error:
            raise NoArtifacts(f"{folder}: {error.strerror}; name a folder to write to with --artifacts") from error

    def create(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        place = self.folder / path
        place.parent.mkdir(exist_ok=True)
        write_new(place, chunks)

    def replace(self, name: str, body: bytes) -> None:
        write_atomically(self.folder / name, body)

    def read(self, name: str, most: int) -> bytes | None:
        try:
            return read_bounded(self.folder / name, most, follow=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _about(name, error) from error

    def chunks(self, path: str, size: int) -> Iterator[bytes]:
        try:
            file, actual = open_regular(self.folder / path, follow=False)
        except OSError as error:
            raise _about(path, error) from error
        with file:
            if actual != size:
                raise Damaged(f"{path} has {actual:,} bytes instead of {size:,}")
            while size and (chunk := file.read(min(size, CHUNK))):
                size -= len(chunk)
                yield chunk

    def delete(self, name: str) -> None:
        """What killed writers left half written of it goes too; a writer still at work gets an error."""
        path = self.folder / name
        for place in (path, *temporaries_of(path)):
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place)  # which follows no link
            else:
                place.unlink(missing_ok=True)

    def set_aside(self, name: str) -> str:
        os.replace(self.folder / name, self.folder / (name + DAMAGED))
        return name + DAMAGED

    def names(self, start: str) -> list[str]:
        return [path.name for path in self.folder.glob(f"{glob.escape(start)}*")]

    def ages(self) -> Mapping[str, float]:
        ages = {}
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):  # gone by now
                ages[path.name] = time.time() - path.lstat().st_mtime
        return ages


def _about(path: str, error: OSError) -> Exception:
    """Damaged where an error is about what lies at a path, else the error: the disk may answer the next time."""
    return Damaged(f"{path} cannot be read: {error.strerror}") if error.errno in _NO_SUCH_FILE else error


class Bucket:
    """Objects in an S3-compatible bucket; needs boto3."""

    def __init__(self, url: str) -> None:
        """`url` is s3://BUCKET or s3://BUCKET/PREFIX; address and credentials are boto3's own settings.

        Raises NoArtifacts where boto3 is missing or an object cannot be written, read, listed and removed there.
        """
        try:
            import boto3  # type: ignore[import-untyped]  # ships no types
            from boto3.s3.transfer import TransferConfig  # type: ignore[import-untyped]
            from botocore.config import Config  # type: ignore[import-untyped]
            from botocore.exceptions import ClientError  # type: ignore[import-untyped]
        except ImportError as error:
            raise NoArtifacts(f"--artifacts {url} needs boto3; `pip install boto3`") from error
        self._refused, self._transfer = ClientError, TransferConfig(use_threads=False)
        self._bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = prefix.strip("/") + "/" if prefix.strip("/") else ""
        try:
            # A bucket that does not answer must not hold up a worker that is told to stop.
            impatient = Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 2})
            self._client = boto3.client("s3", config=impatient)
            probe = f".probe-{uuid.uuid4().hex}"
            self.replace(probe, b"")
            self.read(probe, 0)
            self.delete(probe)
        except Exception as error:  # boto3 has no one class for what can go wrong
            reason = " ".join(without_credentials(str(error)).split())  # AWS_ENDPOINT_URL stands in it
            raise NoArtifacts(
                f"--artifacts {url}: {reason}; check the bucket's name, AWS_ENDPOINT_URL and the credentials"
            ) from error

    def create(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        """In parts where it is large: never more than one of them is in memory."""
        stream = BufferedReader(_Stream(chunks))  # which fills each part: all but the last have 5 MB at least
        self._client.upload_fileobj(stream, self._bucket, self._prefix + path, Config=self._transfer)

    def replace(self, name: str, body: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=body)

    def read(self, name: str, most: int) -> bytes | None:
        answer = self._get(name)
        if answer is None:
            return None
        with closing(answer["Body"]) as body:
            if answer["ContentLength"] > most:
                raise Damaged(f"{name} is larger than {most:,} bytes")
            content: bytes = body.read(most)
        return content

    def chunks(self, path: str, size: int) -> Iterator[bytes]:
        answer = self._get(path)
        if answer is None:
            raise Damaged(f"{path} is missing")
        with closing(answer["Body"]) as body:
            if answer["ContentLength"] != size:
                raise Damaged(f"{path} has {answer['ContentLength']:,} bytes instead of {size:,}")
            yield from body.iter_chunks(CHUNK)

    def delete(self, name: str) -> None:
        key = self._prefix + name
        self._client.delete_object(Bucket=self._bucket, Key=key)
        for page in self._pages(f"{key}/"):
            if keys := [{"Key": item["Key"]} for item in page.get("Contents", ())]:
                self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": keys, "Quiet": True})

    def set_aside(self, name: str) -> str:
        key = self._prefix + name
        source = {"Bucket": self._bucket, "Key": key}
        self._client.copy_object(Bucket=self._bucket, Key=key + DAMAGED, CopySource=source)
        self._client.delete_object(Bucket=self._bucket, Key=key)
        return name + DAMAGED

    def names(self, start: str) -> list[str]:
        names = []
        for page in self._pages(self._prefix + start, Delimiter="/"):
            names += [item["Key"] for item in page.get("Contents", ())]
            names += [item["Prefix"].rstrip("/") for item in page.get("CommonPrefixes", ())]
        return [name.removeprefix(self._prefix) for name in names]

    def ages(self) -> Mapping[str, float]:
        return {}

    def _pages(self, start: str, **options: str) -> Iterable[Any]:
        pages = self._client.get_paginator("list_objects_v2")
        return pages.paginate(Bucket=self._bucket, Prefix=start, **options)  # type: ignore[no-any-return]

    def _get(self, path: str) -> Any:
        try:
            return self._client.get_object(Bucket=self._bucket, Key=self._prefix + path)
        except self._refused as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404 and "Bucket" not in _code_of(error):
                return None
            raise


def _code_of(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code"))


class _Stream(RawIOBase):
    """Pieces as a file to read from; boto3 asks for no more."""

    def __init__(self, chunks: Iterable[bytes | memoryview]) -> None:
        self._chunks, self._rest = iter(chunks), memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


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
