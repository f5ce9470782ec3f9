"""The signature of what workers keep in files. Its key lies in the database: who can write the files, but not read the
database, can forge none, nor pass off a thing of one kind as one of another."""

import hashlib
import hmac

from hpo.errors import HpoError

_HEAD = b"hpo 2 "  # format 1 had a plain digest


class Damaged(HpoError):
    """What lies on disk is not what a worker of this database has left, or does not fit: what is wrong with it."""


class Signer:
    """Signs and verifies with one database's key."""

    def __init__(self, key: bytes) -> None:
        """`key` is `hpo.storage.identity.key_of` the database."""
        self._key = key

    def signed(self, kind: str, body: bytes) -> bytes:
        """A body behind a line with its signature."""
        return _HEAD + self._code(kind, body).encode() + b"\n" + body

    def verified(self, kind: str, content: bytes) -> bytes:
        """The body of a content that was signed as this kind of thing; Damaged where it was not."""
        head, _, body = content.partition(b"\n")
        if not hmac.compare_digest(head, _HEAD + self._code(kind, body).encode()):
            raise Damaged("it is damaged, or was not signed by a worker of this database")
        return body

    def name(self, digest: str) -> str:
        """A name for what has this digest, 40 hexadecimal digits: each database has names of its own."""
        return self._code("name", digest.encode())[:40]

    def _code(self, kind: str, body: bytes) -> str:
        return hmac.new(self._key, kind.encode() + b"\0" + body, hashlib.sha256).hexdigest()
