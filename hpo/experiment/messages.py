"""Messages between a worker and a child process that runs a user's code: JSON and arrays, nothing that is executed.

A message is a line of JSON, whose "arrays" has the names and sizes of what follows it, each as numpy's own format.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import HpoError

LONGEST_LINE = 4 << 20  # bytes: a traceback, a curve of a hundred thousand epochs
LARGEST_ARRAY = 1 << 30  # bytes


class Garbled(HpoError):
    """What arrived is no message: the process at the other end is not one of hpo's, or broke off."""


@dataclass(frozen=True)
class Message:
    """What happened or is to be done, with plain values and arrays."""

    kind: str
    values: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


def send(stream: IO[bytes], message: Message) -> None:
    """Write a message and flush; OSError where nobody reads any more."""
    bodies = {name: _packed(array) for name, array in message.arrays.items()}
    sizes = {name: len(body) for name, body in bodies.items()}
    head = json.dumps({"kind": message.kind, "values": dict(message.values), "arrays": sizes})
    stream.write(head.encode() + b"\n")
    for body in bodies.values():
        stream.write(body)
    stream.flush()


def receive(stream: IO[bytes]) -> Message | None:
    """The next message, None at the stream's end; Garbled where it is none."""
    line = stream.readline(LONGEST_LINE + 1)
    if not line:
        return None
    if len(line) > LONGEST_LINE or not line.endswith(b"\n"):
        raise Garbled("a message broke off, or its line is too long")
    try:
        head = json.loads(line)
        arrays = {name: _unpacked(_exactly(stream, size)) for name, size in head["arrays"].items()}
        return Message(kind=head["kind"], values=head["values"], arrays=arrays)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Garbled(f"a message cannot be read: {error}") from error


def _packed(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _unpacked(body: bytes) -> NDArray[Any]:
    return np.asarray(np.load(io.BytesIO(body), allow_pickle=False))


def _exactly(stream: IO[bytes], size: int) -> bytes:
    if not isinstance(size, int) or not 0 <= size <= LARGEST_ARRAY:
        raise ValueError(f"an array of {size} bytes")
    body = stream.read(size)
    if len(body) != size:
        raise ValueError("an array broke off")
    return body
