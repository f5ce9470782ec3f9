"""What a first convolution with its pooling reads of images, cut out once for all trainings (`hpo.training.stacked`).

Shapes: N images, S pairs of images, Q pooled positions, W pixels of a window; "..." is any number of dimensions.
"""

import functools

import torch
from torch import Tensor

from hpo.training.augmentation import SHIFTS

BEYOND = 16  # numbers after the last image, which kernels may read and do not use


class WindowTable:
    """All windows of all images, at every offset that a shift can ask for: a row of W pixels each."""

    def __init__(self, images: Tensor, kernel: int, pool: int) -> None:
        """Cut images (N, side, side) for a first convolution of `kernel` and pooling by `pool`."""
        self.size, device = kernel + pool - 1, images.device
        n, side, _ = images.shape
        self.side = side
        room = images.new_zeros(n * (side + 2) ** 2 + BEYOND)
        self.padded = room[:-BEYOND].view(n, side + 2, side + 2)
        self.padded[:, 1:-1, 1:-1] = images
        self.across = self.padded.shape[1] - self.size + 1
        inside = torch.arange((images.shape[-1] - kernel + 1) // pool, device=device) * pool
        self.positions = (inside[:, None] * self.across + inside).flatten()  # (Q,)

    @functools.cached_property
    def rows(self) -> Tensor:
        """The windows: (N * across * across, W)."""
        return self.padded.unfold(1, self.size, 1).unfold(2, self.size, 1).reshape(-1, self.size**2)

    def corners(self, image: Tensor, shift: Tensor) -> Tensor:
        """The rows of the first windows of images (S, 2), shifted by (S, 2), indices into SHIFTS: (S, 2), here."""
        step = torch.tensor(SHIFTS)[shift]
        inside = (1 - step[..., 0]) * self.across + (1 - step[..., 1])
        return (image * self.across**2 + inside).to(self.positions.device)

    def gather(self, corners: Tensor) -> Tensor:
        """Windows (..., Q, W) of the images whose corners (...) are given."""
        index = corners[..., None] + self.positions
        return self.rows.index_select(0, index.flatten()).view(*index.shape, -1)


def unshifted(images: Tensor, kernel: int, pool: int) -> tuple[WindowTable, Tensor]:
    """A table of images (..., side, side) that have no shifts, and the corners (...) of theirs in it."""
    table = WindowTable(images.flatten(0, -3), kernel, pool)
    corners = torch.arange(len(table.padded), device=images.device) * table.across**2 + table.across + 1
    return table, corners.view(images.shape[:-2])
