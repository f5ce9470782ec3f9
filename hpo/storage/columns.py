"""Named columns of numbers in one blob: the scores of a final round's single test items.

A head (a magic, then JSON with each column's name, type and shape, its length before it) and the columns, compressed.
Nothing is unpickled; a blob is checked before anything is allocated for it.
"""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.storage.outcome import UnreadableOutcome

MAGIC = b"hpo\x00columns\x001"  # no packed answers of the digits begin so
LONGEST_HEAD = 1 << 16  # bytes
MOST_BYTES = 1 << 30  # of all columns together
_KINDS = ("f", "i", "u", "b")


def pack_columns(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """Columns as a blob: (n,) or (n, k) each, of numbers or truth values."""
    arrays = {name: np.ascontiguousarray(values) for name, values in columns.items()}
    arrays = {name: values.astype(values.dtype.newbyteorder("<")) for name, values in arrays.items()}
    about = [[name, values.dtype.str, list(values.shape)] for name, values in arrays.items()]
    head = json.dumps(about).encode()
    body = zlib.compress(b"".join(values.tobytes() for values in arrays.values()))
    return MAGIC + len(head).to_bytes(4, "big") + head + body


def unpack_columns(data: bytes, where: str) -> dict[str, NDArray[Any]]:
    """What `pack_columns` packed; UnreadableOutcome, which names `where`, for anything else."""
    start = len(MAGIC) + 4
    size = int.from_bytes(data[len(MAGIC) : start], "big")
    if not data.startswith(MAGIC) or size > LONGEST_HEAD:
        raise UnreadableOutcome(f"{where}: its outputs are no columns of this hpo")
    try:
        about = [(str(name), np.dtype(kind), tuple(shape)) for name, kind, shape in json.loads(data[start:][:size])]
        sizes = [kind.itemsize * math.prod(shape) for _, kind, shape in about]
        if any(kind.kind not in _KINDS for _, kind, _ in about) or not 0 <= sum(sizes) <= MOST_BYTES:
            raise ValueError("they are no columns of numbers, or too large")
        unpacker = zlib.decompressobj()
        body = unpacker.decompress(data[start + size :], sum(sizes) + 1)
        if len(body) != sum(sizes) or not unpacker.eof or unpacker.unused_data:
            raise ValueError("their size is another than their head says")
        columns, place = {}, 0
        for (name, kind, shape), length in zip(about, sizes, strict=True):
            columns[name] = np.frombuffer(body[place : place + length], dtype=kind).reshape(shape)
            place += length
    except (ValueError, TypeError, zlib.error) as error:
        raise UnreadableOutcome(f"{where}: its outputs are damaged: {error}") from error
    return columns
