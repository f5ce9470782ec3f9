"""Columns: the scores of a final round's single test items, as the bytes that its slot keeps.

A head (magic, length, checksum, names, types and shapes as JSON), then all columns in zlib. Nothing in it is executed,
and nothing is allocated before its size is checked. Shapes: n test items, u units of an item.
"""

import json
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import HpoError
from hpo.storage.outcome import UnreadableOutcome

MAGIC = b"\xffhpo\x00col"  # no packed answer is 255
MOST_COLUMNS = 64
WIDEST = 64  # entries of an item in a column
LONGEST_NAME = 64  # characters
LARGEST = 1 << 30  # bytes of all columns, unpacked
_FIXED = struct.Struct("<8sII")  # magic, length of the head, its CRC-32
_LONGEST_HEAD = 1 << 16  # bytes
_TYPES = {"float64": "<f8", "float32": "<f4", "int64": "<i8", "bool": "|b1"}


class ColumnsRefused(HpoError):
    """Columns that cannot be stored: which of them, and why."""


def has_columns(packed: bytes) -> bool:
    """Whether these are columns, and not the digits' packed answers."""
    return packed.startswith(MAGIC)


def pack_columns(columns: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays (n,) or (n, u) of one n, by name; whole numbers are stored as int64. Equal columns give equal bytes.

    Raises ColumnsRefused.
    """
    arrays = {name: _storable(name, array) for name, array in columns.items()}
    described = [[name, array.dtype.name, list(array.shape)] for name, array in arrays.items()]
    problem = _problem(described)
    if problem:
        raise ColumnsRefused(f"the test items' scores cannot be stored: {problem}")
    head = json.dumps(described, separators=(",", ":")).encode()
    body = zlib.compress(b"".join(array.tobytes() for array in arrays.values()), 6)
    return _FIXED.pack(MAGIC, len(head), zlib.crc32(head)) + head + body


def unpack_columns(packed: bytes, where: str) -> dict[str, NDArray[Any]]:
    """What `pack_columns` was given; `where` names its place in messages. UnreadableOutcome where it is damaged."""
    try:
        described, body = _split(packed)
        sizes = [_size(kind, shape) for _, kind, shape in described]
        content = _inflated(body, sum(sizes))
    except (ValueError, zlib.error, struct.error) as error:
        raise UnreadableOutcome(f"{where}: the scores of its test items are damaged: {error}") from error
    columns, start = {}, 0
    for (name, kind, shape), size in zip(described, sizes, strict=True):
        column = np.frombuffer(content[start : start + size], dtype=_TYPES[kind])
        columns[name] = column.reshape(shape).astype(kind)
        start += size
    return columns


def _storable(name: str, array: NDArray[Any]) -> NDArray[Any]:
    array = np.asarray(array)
    if array.dtype.kind in "iu":
        array = array.astype(np.int64)
    if array.dtype.name not in _TYPES:
        raise ColumnsRefused(
            f"the test items' scores cannot be stored: column {name} has the type {array.dtype}; "
            f"there are {', '.join(_TYPES)}"
        )
    return np.asarray(array, dtype=_TYPES[array.dtype.name], order="C")


def _split(packed: bytes) -> tuple[list[Any], bytes]:
    """The columns' names, types and shapes, and what follows the head."""
    magic, length, checksum = _FIXED.unpack_from(packed)
    if magic != MAGIC:
        raise ValueError("they do not begin as columns do")
    head = packed[_FIXED.size : _FIXED.size + length]
    if length > _LONGEST_HEAD or len(head) < length or zlib.crc32(head) != checksum:
        raise ValueError("their head is not what was written")
    described = json.loads(head)
    problem = _problem(described)
    if problem:
        raise ValueError(problem)
    return described, packed[_FIXED.size + length :]


def _problem(described: Any) -> str:
    """What is wrong with names, types or shapes; empty where nothing is."""
    if not isinstance(described, list) or len(described) > MOST_COLUMNS:
        return f"there may be {MOST_COLUMNS} columns at most"
    names: set[str] = set()
    for entry in described:
        if not isinstance(entry, list) or len(entry) != 3:
            return "a column is a name, a type and a shape"
        name, kind, shape = entry
        if not isinstance(name, str) or not name.isidentifier() or len(name) > LONGEST_NAME or name in names:
            return f"column {str(name)[:LONGEST_NAME]!r} is named twice, or by no identifier"
        names.add(name)
        if not isinstance(kind, str) or kind not in _TYPES:
            return f"column {name} has the type {kind!r}"
        if not _is_shape(shape) or shape[0] != described[0][2][0]:
            return f"column {name} has the shape {shape!r}; items come first, as many in every column"
    if sum(_size(kind, shape) for _, kind, shape in described) > LARGEST:
        return f"they have more than {LARGEST:,} bytes"
    return ""


def _is_shape(shape: Any) -> bool:
    whole = isinstance(shape, list) and all(type(length) is int and length >= 0 for length in shape)
    return whole and (len(shape) == 1 or (len(shape) == 2 and 1 <= shape[1] <= WIDEST))


def _size(kind: str, shape: list[int]) -> int:
    """Bytes, in Python's numbers, which do not overflow."""
    size = np.dtype(_TYPES[kind]).itemsize
    for length in shape:
        size *= length
    return size


def _inflated(body: bytes, size: int) -> bytes:
    """The body, which has so many bytes when unpacked; a byte more is not unpacked."""
    inflate = zlib.decompressobj()
    content = inflate.decompress(body, size + 1)
    if len(content) != size or not inflate.eof or inflate.unused_data:
        raise ValueError("there are more or fewer of them than their head promises")
    return content
