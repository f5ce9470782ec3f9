"""Loading digits: the bundled ones, or MNIST's files from a folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hpo.digits.bundled import bundled
from hpo.digits.idx import CLASSES, mnist_folder, read_part
from hpo.digits.pools import Bytes, Digits, make_digits
from hpo.errors import DataError


@dataclass(frozen=True, kw_only=True)
class DataInfo:
    """What `hpo data info` shows."""

    source: str
    digest: str
    published: bool  # the full MNIST as published, by the digests of its files
    pool_a: tuple[int, ...]  # images by digit 0..9
    pool_b: tuple[int, ...]

    @property
    def images(self) -> int:
        """The number of images in both pools."""
        return sum(self.pool_a) + sum(self.pool_b)


def load(folder: Path | None = None) -> Digits:
    """Load MNIST's IDX files from a folder, or without one the bundled 5,000 digits.

    From a folder, pool A is MNIST's training set, pool B its test set. DataError for an invalid file, and where an
    image is in both; the published set is taken as it is.
    """
    if folder is None:
        return bundled()
    place = mnist_folder(folder)
    train, test = read_part(place, "train"), read_part(place, "t10k")
    published = train.published and test.published
    if not published:
        _check_unseen(place, train.images, test.images)
    images, labels = np.concatenate([train.images, test.images]), np.concatenate([train.labels, test.labels])
    pool_a, pool_b = np.split(np.arange(len(labels), dtype=np.int64), [len(train.labels)])
    name = f"the published MNIST in {place}" if published else f"the files in {place} (not the published MNIST)"
    counts = f"{len(train.labels):,} training and {len(test.labels):,} test images"
    return make_digits(f"{name}: {counts}", images, labels, pool_a, pool_b, published=published)


def _check_unseen(folder: Path, train_images: Bytes, test_images: Bytes) -> None:
    """Raise DataError where an image to test on is one to train on: the test would not be on unseen images."""
    seen = {image.tobytes() for image in train_images}
    repeated = [index for index, image in enumerate(test_images) if image.tobytes() in seen]
    if repeated:
        raise DataError(
            f"{folder}: {len(repeated):,} of the {len(test_images):,} test images are training images too (the first "
            f"is number {repeated[0]}), so no test on unseen images is possible; take both sets from one source, or "
            "fetch the published one (`hpo data fetch FOLDER`)"
        )


def info(folder: Path | None = None) -> DataInfo:
    """Count the images that `load` would return."""
    digits = load(folder)
    by_digit = (np.bincount(labels, minlength=CLASSES) for labels in (digits.pool_a_labels(), digits.pool_b_labels()))
    pool_a, pool_b = (tuple(int(count) for count in counts) for counts in by_digit)
    return DataInfo(
        source=digits.source, digest=digits.digest, published=digits.published, pool_a=pool_a, pool_b=pool_b
    )
