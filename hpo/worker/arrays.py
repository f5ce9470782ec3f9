"""Arrays as `.npy` files, written and read piece by piece.

Nothing is unpickled or unpacked, and no header is believed: whoever reads knows what the array must be.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hpo.worker.signing import Damaged
from hpo.worker.stores import CHUNK


def size_of(shape: Sequence[int], dtype: DTypeLike) -> int:
    """The bytes of an array's file."""
    return len(_header(shape, dtype)) + int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def array_chunks(rows: Sequence[NDArray[Any]]) -> Iterator[bytes | memoryview]:
    """The file of an array with these rows, which are alike; they are not copied."""
    yield _header((len(rows), *rows[0].shape), rows[0].dtype)
    for row in rows:
        content = np.ascontiguousarray(row).data.cast("B")
        for at in range(0, len(content), CHUNK):
            yield content[at : at + CHUNK]


def read_array(chunks: Iterable[bytes], shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """The array of a file of `size_of` bytes; Damaged where it is one of another shape or type."""
    array, expected = np.empty(shape, dtype), _header(shape, dtype)
    header = bytearray(len(expected))
    targets = [memoryview(header), array.data.cast("B")]
    for chunk in chunks:
        rest = memoryview(chunk)
        while rest:
            count = min(len(rest), len(targets[0]))
            targets[0][:count] = rest[:count]
            rest, targets[0] = rest[count:], targets[0][count:]
            if not targets[0]:
                del targets[0]
    if header != expected:
        raise Damaged(f"an array is not {np.dtype(dtype)} of shape {tuple(shape)}")
    return array


def is_finite(array: NDArray[Any]) -> bool:
    """Whether all its numbers are, looked at piece by piece."""
    flat = array.reshape(-1)
    return all(bool(np.isfinite(flat[at : at + CHUNK]).all()) for at in range(0, flat.size, CHUNK))


def _header(shape: Sequence[int], dtype: DTypeLike) -> bytes:
    """What precedes the numbers in version 1.0 of the format (numpy.lib.format)."""
    header = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": tuple(shape)}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()
