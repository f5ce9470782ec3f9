"""Loading digits: the bundled ones, or MNIST's files from a folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpo.digits.bundled import bundled
from hpo.digits.idx import CLASSES, read_pair
from hpo.digits.pools import Digits, make_digits


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """What `hpo data info` shows."""

    source: str
    digest: str
    pool_a: tuple[int, ...]  # images by digit 0..9
    pool_b: tuple[int, ...]

    @property
    def images(self) -> int:
        """The number of images in both pools."""
        return sum(self.pool_a) + sum(self.pool_b)


def load(folder: Path | None = None) -> Digits:
    """Load MNIST's IDX files from a folder, or without one the bundled 5,000 digits.

    From a folder, pool A is MNIST's training set, pool B its test set. DataError for an invalid file.
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
    """Count the images that `load` would return."""
    digits = load(folder)
    by_digit = (np.bincount(labels, minlength=CLASSES) for labels in (digits.pool_a_labels(), digits.pool_b_labels()))
    pool_a, pool_b = (tuple(int(count) for count in counts) for counts in by_digit)
    return DataInfo(source=digits.source, digest=digits.digest, pool_a=pool_a, pool_b=pool_b)
