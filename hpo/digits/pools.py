"""Where the digit images come from, their two pools that never meet, and the seal on the test pool.

Shapes: N images of a set or pool, as 28x28 grey bytes (0 is paper, 255 is ink) until to_network_images.
"""

import hashlib
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpo.errors import DataError, TestPoolSealed

Bytes = NDArray[np.uint8]
Indices = NDArray[np.int64]

MOST_SHOWN = 100  # images of the test pool that may be shown to people at once


@dataclass(frozen=True, kw_only=True)
class FinalPermit:
    """Permission to open the test pool, for one attempt at one final slot.

    Only hpo.digits.lanes makes one, for a worker whose storage.slots.record_opening has returned True. It is a
    guard rail against mistakes, not a lock: the record of openings is the one in the database.
    """

    slot_id: int
    attempt: int
    worker: str


@dataclass(frozen=True, kw_only=True)
class ChildPermit:
    """Permission to open the test pool, in a process that hpo tells to test what it has trained.

    Only hpo.digits.experiment makes one, as the `b` of its data: hpo calls that where the opening is on record. A guard
    rail as FinalPermit is; which slot it is, the process is not told.
    """


@dataclass(frozen=True, kw_only=True)
class AlreadyTested:
    """A few images of the test pool that final rounds have been tested on already.

    Only hpo.digits.hard_pairs makes one, from rounds that are done and whose opening of the pool is on record, and
    only when no study in the database is still being tuned on these images. A guard rail as FinalPermit is.
    """

    images: tuple[int, ...]  # rows of pool B
    slots: tuple[int, ...]  # the final slots that were tested on them


class Pool(NamedTuple):
    """Images and their digits."""

    images: Bytes  # (N, 28, 28)
    labels: Bytes  # (N,) 0..9


@dataclass(frozen=True, kw_only=True, eq=False)
class Digits:
    """A set of digit images with its fixed split into pool A (tuning, training) and pool B (final test)."""

    source: str  # where the images come from, for display
    digest: str  # SHA-256 (hex) of images, labels and split
    published: bool  # the full MNIST as published
    pool_a: Indices = field(repr=False)  # (N,) which images of the whole set
    pool_b: Indices = field(repr=False)  # (N,)
    _images: Bytes = field(repr=False)  # (N, 28, 28) all of them: pool B's only through open_pool_b and show_tested
    _labels: Bytes = field(repr=False)  # (N,)

    def pool_a_images(self) -> Bytes:
        """Return pool A's images (N, 28, 28)."""
        return self._images[self.pool_a]

    def pool_a_labels(self) -> Bytes:
        """Return pool A's digits (N,)."""
        return self._labels[self.pool_a]

    def pool_b_labels(self) -> Bytes:
        """Return pool B's digits (N,): not sealed, the report recomputes the test's targets from them."""
        return self._labels[self.pool_b]

    def open_pool_b(self, permit: FinalPermit | ChildPermit) -> Pool:
        """Return the test pool to whoever runs a final slot; TestPoolSealed without a permit."""
        if type(permit) not in (FinalPermit, ChildPermit):
            raise TestPoolSealed(
                "the test pool is sealed: only a worker that runs a final slot opens it, and each opening is "
                f"recorded; got {type(permit).__name__} in place of a permit"
            )
        return Pool(images=self._images[self.pool_b], labels=self.pool_b_labels())

    def show_tested(self, tested: AlreadyTested) -> Bytes:
        """Return a few images of the test pool (n, 28, 28), for the report to show to people after the test.

        The seal exists so that nothing is tuned on the test pool, and this method keeps it: the images have been
        opened and answered by recorded final rounds, and no study on them is still being tuned; there are at most
        MOST_SHOWN, too few for a test set; and they become pictures, never samples of a training, which come from
        pool A alone. TestPoolSealed where these rules are broken.
        """
        if type(tested) is not AlreadyTested or not tested.slots:
            raise TestPoolSealed(
                "the test pool is sealed: its images are shown only after a final round was tested on them; got "
                f"{type(tested).__name__}{' of no final slot' if type(tested) is AlreadyTested else ''}"
            )
        if len(tested.images) > MOST_SHOWN:
            raise TestPoolSealed(
                f"the test pool is sealed: at most {MOST_SHOWN} of its images may be shown at once, "
                f"not {len(tested.images)}"
            )
        return self._images[self.pool_b[list(tested.images)]]


def check_enough(digits: Digits, training_pairs: int, validation_pairs: int, test_pairs: int) -> None:
    """Raise DataError where the pools are too small for a protocol's draws.

    In training and test draws no image is used twice. Validation pairs are made from the images of pool A that
    training leaves over; an image may be in several of them, so two images are enough.
    """
    remedy = "ask for fewer pairs in the study's file ([protocol]) or use full MNIST (`hpo data fetch FOLDER`)"
    size_a, size_b = len(digits.pool_a), len(digits.pool_b)
    training, left_over = 2 * training_pairs, 2 if validation_pairs else 0
    if size_a < training + left_over:
        raise DataError(
            f"{digits.source}: pool A has {size_a} images, but {training_pairs} training pairs need "
            f"{training} and the validation pairs at least {left_over} others; {remedy}"
        )
    if size_b < 2 * test_pairs:
        raise DataError(
            f"{digits.source}: pool B has {size_b} images, but {test_pairs} test pairs need {2 * test_pairs}; {remedy}"
        )


def to_network_images(images: Bytes) -> NDArray[np.float32]:
    """Average 2x2 pixels and scale to 0..1: (N, 28, 28) bytes to (N, 14, 14) float32, rounded once."""
    wide = images.astype(np.uint16)
    total = wide[:, ::2, ::2] + wide[:, ::2, 1::2] + wide[:, 1::2, ::2] + wide[:, 1::2, 1::2]
    return total.astype(np.float32) / np.float32(4 * 255)


def make_digits(
    source: str, images: Bytes, labels: Bytes, pool_a: Indices, pool_b: Indices, *, published: bool = False
) -> Digits:
    """A read-only set of images (N, 28, 28), labels (N,) and the indices of its two pools, with its digest."""
    for array in (images, labels, pool_a, pool_b):
        array.flags.writeable = False
    return Digits(
        source=source,
        digest=_digest(images, labels, pool_a, pool_b),
        published=published,
        pool_a=pool_a,
        pool_b=pool_b,
        _images=images,
        _labels=labels,
    )


def _digest(images: Bytes, labels: Bytes, pool_a: Indices, pool_b: Indices) -> str:
    """Hash images, labels and split; the lengths first, so that no two sets share one stream of bytes."""
    digest = hashlib.sha256(f"hpo digits 1: {len(labels)} {len(pool_a)} {len(pool_b)}\n".encode())
    digest.update(np.ascontiguousarray(images).data)
    digest.update(np.ascontiguousarray(labels).data)
    for pool in (pool_a, pool_b):
        digest.update(pool.astype("<i8").tobytes())
    return digest.hexdigest()
