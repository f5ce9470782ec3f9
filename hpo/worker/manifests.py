"""Folders of named files that are whole or absent: a signed manifest names the folder, its files and a small record.

    NAME.manifest          signed: its name, the folder, the files' sizes and digests, the record; written last
    NAME.RANDOM/FILE ...   the content, written once under a name that is new; removed when another has taken its place

What such a folder holds is its users' affair: any training's files will do.
"""

import hashlib
import logging
import math
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hpo.storage.outcome import first_problem
from hpo.worker.signing import Damaged, Signer
from hpo.worker.stores import DAMAGED, Store

MOST_BYTES = 65_536  # of a manifest
_UNUSED_AFTER, _KEPT_FOR = 86_400.0, 30 * 86_400.0  # seconds until content without a manifest goes, and any other
_FOLDER = r"[0-9a-f]{40}\.[0-9a-f]{16}"
_OLD_FORMAT = r"[0-9a-f]{40}"  # a file that held all of a checkpoint, without this database's signature
_END = ".manifest"
logger = logging.getLogger(__name__)


class StoredFile(BaseModel):
    """A file of a folder, as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    size: Annotated[int, Field(ge=0)]  # bytes
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Manifest(BaseModel):
    """What a folder holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    name: str
    folder: Annotated[str, Field(pattern=rf"^{_FOLDER}$")]
    files: Mapping[Annotated[str, Field(pattern=r"^\w[\w.-]*$")], StoredFile]
    record: Mapping[str, Any]

    @classmethod
    def read(cls, name: str, content: bytes, signer: Signer) -> Self:
        """Read what was stored under a name; Damaged where it is not the signed manifest of that name."""
        try:
            manifest = cls.model_validate_json(signer.verified("manifest", content))
        except ValidationError as error:
            raise Damaged(f"its manifest is invalid: {first_problem(error)}") from error
        if manifest.name != name:
            raise Damaged("it is of another training")
        return manifest


class SignedFolders:
    """Folders with their manifests, by name; the names are 40 hexadecimal digits."""

    def __init__(self, store: Store, signer: Signer) -> None:
        self._store, self._signer = store, signer
        self._last: dict[str, str] = {}  # the folders that this process has last seen, by name
        self._sweep()

    def save(self, name: str, record: Mapping[str, Any], files: Mapping[str, Iterable[bytes | memoryview]]) -> None:
        """Keep files and a record that JSON can hold under a name, in place of an earlier folder."""
        folder = f"{name}.{secrets.token_hex(8)}"
        try:
            stored = {file: self._write(f"{folder}/{file}", chunks) for file, chunks in files.items()}
            manifest = Manifest(name=name, folder=folder, files=stored, record=record)
            content = self._signer.signed("manifest", manifest.model_dump_json().encode())
            if len(content) > MOST_BYTES:
                raise ValueError(f"a manifest of {len(content):,} bytes, {MOST_BYTES:,} are the most")
            self._store.replace(name + _END, content)
        except BaseException:
            self._discard(folder)
            raise
        before, self._last[name] = self._last.get(name), folder
        if before is not None:
            self._discard(before)

    def find(self, name: str) -> Manifest | None:
        """The manifest of what is kept under a name, or None; Damaged where it cannot be trusted."""
        content = self._store.read(name + _END, MOST_BYTES)
        if content is None:
            return None
        manifest = Manifest.read(name, content, self._signer)
        self._last[name] = manifest.folder
        return manifest

    def chunks(self, manifest: Manifest, file: str) -> Iterator[bytes]:
        """A file's content, piece by piece; Damaged where its size, or at the end its digest, is another."""
        expected, digest = manifest.files[file], hashlib.sha256()
        for chunk in self._store.chunks(f"{manifest.folder}/{file}", expected.size):
            digest.update(chunk)
            yield chunk
        if digest.hexdigest() != expected.sha256:
            raise Damaged(f"{file} is damaged: its digest does not fit")

    def remove(self, name: str) -> None:
        """Forget what is kept under a name, and what writers that were killed have left of it."""
        self._last.pop(name, None)
        self._store.delete(name + _END)
        for rest in self._store.names(f"{name}."):
            if not rest.endswith(DAMAGED):
                self._store.delete(rest)

    def set_aside(self, name: str) -> str:
        """Rename a manifest that cannot be used; returns its new name."""
        return self._store.set_aside(name + _END)

    def _write(self, path: str, chunks: Iterable[bytes | memoryview]) -> StoredFile:
        size, digest = 0, hashlib.sha256()

        def counted() -> Iterator[bytes | memoryview]:
            nonlocal size
            for chunk in chunks:
                size += len(chunk)
                digest.update(chunk)
                yield chunk

        self._store.create(path, counted())
        return StoredFile(size=size, sha256=digest.hexdigest())

    def _discard(self, name: str) -> None:
        """Delete what nobody needs; where that fails it goes another time."""
        try:
            self._store.delete(name)
        except Exception as error:  # another user's, or a bucket that does not answer
            logger.debug("%s could not be deleted: %s", name, error)

    def _sweep(self) -> None:
        """Delete what nobody will use: content without a manifest, older formats, trainings given up long ago."""
        for name, age in self._store.ages().items():
            if re.fullmatch(_OLD_FORMAT, name):
                limit = _UNUSED_AFTER
            elif re.fullmatch(_FOLDER, name):
                limit = math.inf if self._is_named(name) else _UNUSED_AFTER
            else:
                limit = _KEPT_FOR if name.endswith((_END, _END + DAMAGED)) else math.inf
            if age > limit:
                self._discard(name)

    def _is_named(self, folder: str) -> bool:
        """Whether the manifest, of whatever database, names this folder."""
        try:
            content = self._store.read(folder.partition(".")[0] + _END, MOST_BYTES)
        except Damaged:
            return False
        return content is not None and folder.encode() in content
