"""One place to ask for digits: the bundled ones, or a folder of MNIST's files."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpo.digits.bundled import bundled
from hpo.digits.idx import CLASSES, read_pair
from hpo.digits.pools import Digits, make_digits


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """What `hpo data info` tells."""

    source: str
    digest: str
    pool_a: tuple[int, ...]  # images by digit 0..9
    pool_b: tuple[int, ...]

    @property
    def images(self) -> int:
        """All images of both pools."""
        return sum(self.pool_a) + sum(self.pool_b)


def load(folder: Path | None = None) -> Digits:
    """Load MNIST's IDX files from a folder, or without one the bundled 5,000 digits.

    From a folder, pool A is MNIST's training set, pool B its test set. DataError where a file is not right.
    """
    if folder is None:
        return bundled()
    train_images, train_labels = read_pair(folder, "train")
    test_images, test_labels = read_pair(folder, "t10k")
    images, labels = np.concatenate([train_images, test_images]), np.concatenate([train_labels, test_labels])
    pool_a, pool_b = np.split(np.arange(len(labels), dtype=np.int64), [len(train_labels)])
    counts = f"{len(train_labels):,} training and {len(test_labels):,} test images"
    return make_digits(f"MNIST files in {folder}: {counts}", images, labels, pool_a, pool_b)


def info(folder: Path | None = None) -> DataInfo:
    """Count what load would give."""
    digits = load(folder)
    by_digit = (np.bincount(some, minlength=CLASSES) for some in (digits.pool_a_labels(), digits.pool_b_labels()))
    pool_a, pool_b = (tuple(int(count) for count in counts) for counts in by_digit)
    return DataInfo(source=digits.source, digest=digits.digest, pool_a=pool_a, pool_b=pool_b)
