"""The full MNIST as IDX files, read from a folder.

An IDX file is a big-endian header (two zero bytes, the type 8 for unsigned bytes, the number of dimensions,
then each dimension as 32 bits) and the bytes themselves (LeCun, Cortes, Burges: "The MNIST database").
"""

import gzip
import hashlib
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hpo.errors import DataError

MNIST_SIDE = 28  # pixels, the width and height of an image
CLASSES = 10  # digits
_IMAGES_MAGIC, _LABELS_MAGIC = 0x00000803, 0x00000801  # unsigned bytes in 3 dimensions, in 1
_PLACES = ("", "raw", "MNIST/raw")  # the folder itself, and where torchvision keeps MNIST below its root
_PUBLISHED: Mapping[
    str, str
] = {  # SHA-256 of the published files, unpacked; CHECKSUMS of download.py are of the packed
    "train-images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class MnistPart:
    """MNIST's training or test set."""

    images: NDArray[np.uint8]  # (N, 28, 28)
    labels: NDArray[np.uint8]  # (N,) 0..9
    published: bool  # by the digests of both files


def read_part(folder: Path, part: Literal["train", "t10k"]) -> MnistPart:
    """Read images and labels of one part, gz or not, from `mnist_folder`; DataError for an invalid file."""
    images_file, image_bytes = _read_version(folder, f"{part}-images", "idx3-ubyte")
    labels_file, label_bytes = _read_version(folder, f"{part}-labels", "idx1-ubyte")
    images = _parsed(images_file, image_bytes, _IMAGES_MAGIC)
    labels = _parsed(labels_file, label_bytes, _LABELS_MAGIC)
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
    published = _is_published(f"{part}-images", image_bytes) and _is_published(f"{part}-labels", label_bytes)
    return MnistPart(images=images, labels=labels, published=published)


def mnist_folder(folder: Path) -> Path:
    """The folder that holds MNIST's files: this one, or the one below it where torchvision puts them."""
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; name the folder that holds MNIST's files")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; `hpo data fetch {folder}` creates it and downloads MNIST")
    kinds = (("images", "idx3-ubyte"), ("labels", "idx1-ubyte"))
    stems = [(f"{part}-{what}", kind) for part in ("train", "t10k") for what, kind in kinds]
    places = [place for place in (folder / name for name in _PLACES) if any(_versions(place, *stem) for stem in stems)]
    if len(places) > 1:
        raise DataError(f"{folder}: MNIST's files are in {places[0]} and in {places[1]}; name one of these folders")
    return places[0] if places else folder


def _versions(folder: Path, stem: str, kind: str) -> list[Path]:
    """The files of this stem under any of their usual names, whatever the case."""
    names = {f"{stem}{mark}{kind}{ending}" for mark in "-." for ending in ("", ".gz")}
    if not folder.is_dir():
        return []
    try:
        return sorted(path for path in folder.iterdir() if path.name.lower() in names and path.is_file())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror or error}") from error


def _read_version(folder: Path, stem: str, kind: str) -> tuple[Path, bytes]:
    """The file and what it holds, unpacked; of several files (packed beside unpacked) all must hold the same."""
    versions = _versions(folder, stem, kind)
    if not versions:
        raise DataError(f"{folder}: no {stem}-{kind} (or .gz) in it; `hpo data fetch {folder}` downloads MNIST")
    first, *others = versions
    content = _content(first)
    for other in others:
        if _content(other) != content:
            raise DataError(
                f"{folder}: {first.name} and {other.name} differ, and only one of them can be meant; "
                "move the other away"
            )
    return first, content


def _is_published(name: str, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == _PUBLISHED[name]


def _parsed(path: Path, content: bytes, magic: int) -> NDArray[np.uint8]:
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
        if path.suffix.lower() != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: damaged or cut short gzip file ({error}); delete it and run `hpo data fetch {path.parent}`"
        ) from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
