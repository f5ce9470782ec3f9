"""The full MNIST as IDX files, read from a folder.

An IDX file is a big-endian header (two zero bytes, the type 8 for unsigned bytes, the number of dimensions,
then each dimension as 32 bits) and the bytes themselves (LeCun, Cortes, Burges: "The MNIST database").
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hpo.errors import DataError

MNIST_SIDE = 28  # pixels, the width and height of an image
CLASSES = 10  # digits
_IMAGES_MAGIC, _LABELS_MAGIC = 0x00000803, 0x00000801  # unsigned bytes in 3 dimensions, in 1


def read_pair(folder: Path, part: Literal["train", "t10k"]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read images (N, 28, 28) and labels (N,) of one part, gz or not; DataError for an invalid file."""
    images_file = _find(folder, f"{part}-images", "idx3-ubyte")
    labels_file = _find(folder, f"{part}-labels", "idx1-ubyte")
    images = _read_idx(images_file, _IMAGES_MAGIC)
    labels = _read_idx(labels_file, _LABELS_MAGIC)
    if images.shape[1:] != (MNIST_SIDE, MNIST_SIDE):
        rows, columns = images.shape[1:]
        raise DataError(f"{images_file}: images of {rows}x{columns} pixels; digits have {MNIST_SIDE}x{MNIST_SIDE}")
    if len(images) != len(labels):
        raise DataError(
            f"{images_file}: {len(images)} images, but {labels_file.name} has {len(labels)} labels; "
            "take both from one source"
        )
    if len(labels) and labels.max() >= CLASSES:
        index = int(np.argmax(labels >= CLASSES))
        raise DataError(f"{labels_file}: label {labels[index]} at index {index}; digits are 0 to 9")
    return images, labels


def _find(folder: Path, stem: str, kind: str) -> Path:
    """Return the file, under any of its usual names."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; `hpo data fetch {folder}` creates it and downloads MNIST")
    for name in (f"{stem}-{kind}", f"{stem}.{kind}"):
        for ending in ("", ".gz"):
            if (folder / (name + ending)).is_file():
                return folder / (name + ending)
    raise DataError(f"{folder}: no {stem}-{kind} (or .gz) in it; `hpo data fetch {folder}` downloads MNIST")


def _read_idx(path: Path, magic: int) -> NDArray[np.uint8]:
    content = _content(path)
    dimensions = magic & 0xFF
    header = 4 + 4 * dimensions
    remedy = f"delete it and run `hpo data fetch {path.parent}`"
    if len(content) < header:
        raise DataError(f"{path}: cut short: {len(content)} bytes, the header alone has {header}; {remedy}")
    actual, *shape = struct.unpack_from(f">{1 + dimensions}I", content)
    if actual != magic:
        what = "images" if magic == _IMAGES_MAGIC else "labels"
        raise DataError(f"{path}: not an IDX file of {what}: magic number 0x{actual:08x}, not 0x{magic:08x}; {remedy}")
    expected = math.prod(shape)  # in Python's integers: a damaged header may claim more than 64 bits
    size = len(content) - header
    if size != expected:
        problem = "cut short" if size < expected else "too long"
        raise DataError(f"{path}: {problem}: {size} bytes after the header, which announces {expected}; {remedy}")
    return np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: damaged or cut short gzip file ({error}); delete it and run `hpo data fetch {path.parent}`"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
