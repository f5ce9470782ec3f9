"""Draws: which images make the pairs of one training and its evaluation, as index tables.

A draw is a function of the seed alone. Training images are all different; one training set holds 18 samples
a pair: nine one-pixel shifts (eight directions and none, permuted independently for the two images), then the
same with the images swapped and the target recomputed.

Shapes: N images, S samples, E evaluation pairs.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hpo.training import streams
from hpo.training.augmentation import NO_SHIFT, SHIFTS

if TYPE_CHECKING:
    import numpy as np

SIDE = 14  # pixels, the width and height of an image


@dataclass(frozen=True, kw_only=True)
class PairTable:
    """Pairs of images as indices into one image tensor; all tensors int64 on the CPU."""

    image: Tensor  # (S, 2) row of the image tensor
    shift: Tensor  # (S, 2) index into SHIFTS
    digit: Tensor  # (S, 2) the true digits

    @classmethod
    def blank(cls, samples: int) -> "PairTable":
        """So many pairs of no meaning: they have the shapes and types of any others."""
        zeros = torch.zeros(samples, 2, dtype=torch.int64)
        return cls(image=zeros, shift=zeros, digit=zeros)

    @property
    def target(self) -> Tensor:
        """(S,) 1 where digit 1 <= digit 2, else 0."""
        return (self.digit[:, 0] <= self.digit[:, 1]).to(torch.int64)

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, kw_only=True)
class ImagePool:
    """The images a draw may use."""

    name: str  # "A" for tuning and training, "B" for the final test
    images: Tensor  # (N, 14, 14) float32, 0..1
    labels: Tensor  # (N,) int64

    @classmethod
    def from_numpy(cls, name: str, images: "np.ndarray", labels: "np.ndarray") -> "ImagePool":
        """Make a pool of images (N, 14, 14) float32 and labels (N,)."""
        return cls(name=name, images=torch.from_numpy(images), labels=torch.from_numpy(labels.astype("int64")))


def _pairs(pool: ImagePool, image: Tensor) -> PairTable:
    return PairTable(image=image, shift=torch.full_like(image, NO_SHIFT), digit=pool.labels[image])


def draw_training(pool: ImagePool, seed: int, pairs: int) -> tuple[PairTable, Tensor]:
    """Draw training pairs: the 18 * pairs augmented samples, and the remaining images of the pool."""
    order = streams.permutation(streams.key(seed, "training images"), len(pool.labels))
    return augment(_pairs(pool, order[: 2 * pairs].view(pairs, 2)), seed), order[2 * pairs :]


def augment(base: PairTable, seed: int) -> PairTable:
    """Nine shifts of each pair, then the same swapped: S pairs become 18 S samples.

    Sample k * S + i (k < 9) is pair i under its k-th shifts; the second half repeats the first, swapped.
    """
    n = len(base)
    keys = streams.step_keys(torch.tensor(streams.key(seed, "shifts")).expand(2 * n), torch.arange(2 * n))
    shift = streams.permutations(keys, streams.counters(len(SHIFTS))).view(n, 2, -1)
    shift = shift.permute(2, 0, 1).reshape(-1, 2)  # (9 S, 2)
    image, digit = (t.repeat(len(SHIFTS), 1) for t in (base.image, base.digit))
    image, shift, digit = (torch.cat([t, t.flip(1)]) for t in (image, shift, digit))
    return PairTable(image=image, shift=shift, digit=digit)


def draw_validation(pool: ImagePool, left_over: Tensor, seed: int, pairs: int) -> PairTable:
    """Draw validation pairs from the images that training left over.

    Where they are too few for disjoint pairs, the images are used again in a new order, so that all are used
    equally often and none is paired with itself.
    """
    half = len(left_over) // 2
    rounds = []
    for turn in range(-(-pairs // half)):
        order = streams.permutation(streams.key(seed, f"validation images {turn}"), len(left_over))
        rounds.append(left_over[order[: 2 * half]].view(half, 2))
    return _pairs(pool, torch.cat(rounds)[:pairs])


def draw_test(pool: ImagePool, seed: int, pairs: int) -> PairTable:
    """Draw test pairs, no image twice."""
    order = streams.permutation(streams.key(seed, "test images"), len(pool.labels))
    return _pairs(pool, order[: 2 * pairs].view(pairs, 2))


def shifted(images: Tensor, shift: Tensor) -> Tensor:
    """Images (..., 14, 14) moved by shift (...), an index into SHIFTS; vacated pixels are 0."""
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1)).flatten(-2)
    step = torch.tensor(SHIFTS, device=images.device)
    corner = (1 - step[shift, 0]) * (SIDE + 2) + (1 - step[shift, 1])
    inside = torch.arange(SIDE, device=images.device)
    offset = (inside[:, None] * (SIDE + 2) + inside).flatten()
    moved = padded.gather(-1, corner[..., None] + offset)
    return moved.view(images.shape)
