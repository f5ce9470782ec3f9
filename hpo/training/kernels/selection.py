"""Which kernels a device has: what they serve is decided by shapes, never by a model's name."""

import functools
import importlib.util
import os
from typing import Protocol

import torch
from torch import Tensor

from hpo.training.kernels import cpu
from hpo.training.streams import Thresholds
from hpo.training.windows import WindowTable


class Kernels(Protocol):
    """What a device's kernels offer. Shapes: P lanes, B images, C channels in, O channels out, n parameters."""

    @property
    def name(self) -> str:
        """What they are, for the record."""

    @property
    def calls(self) -> int:
        """How often one of them was called, so that it can be seen whether a training used any."""

    def serves_windows(self, side: int, channels: int, out: int, kernel: int, pool: int) -> bool:
        """Whether `window_convolution` has a first convolution of these sizes on square images of `side`."""

    def serves(self, side: int, channels: int, out: int, kernel: int, pool: int) -> bool:
        """Whether `convolution` has one of these sizes on square images of `side`."""

    def window_convolution(self, table: WindowTable, corners: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """SELU of the pooled convolution of the windows at corners (P, B, C): (P, B, O, side, side)."""

    def convolution(self, x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> Tensor:
        """SELU of the pooled convolution of x (P, B, C, side, side): (P, B, O, 1, 1)."""

    def activate(self, y: Tensor, mask: Tensor | None) -> Tensor | None:
        """SELU of y (P, rows, features) in place, and that times a mask where there is one; None: not by these."""

    def before_activation(self, grad: Tensor, y: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """The gradient before `activate`, and its sum over the rows (P, features)."""

    def keep_masks(self, keys: Tensor, words: int, at: Thresholds, dtype: torch.dtype) -> Tensor:
        """`hpo.training.streams.keep_masks` for thresholds (P,): (P, 4 * words)."""

    def adam(
        self,
        parameters: Tensor,
        gradient: Tensor,
        first: Tensor,
        second: Tensor,
        rate: Tensor,
        eps: Tensor,
        decay: Tensor | None,
    ) -> None:
        """`Lockstep`'s step of Adam on (P, n), in place."""


OFF = "switched off"
_switched_off = (
    os.environ.get("HPO_KERNELS") == "off"
)  # by `hpo worker --kernels`, for the processes that it starts too


def switch(on: bool) -> None:
    """Have this process use its device's kernels, or plain torch alone."""
    global _switched_off
    _switched_off = not on


def for_device(device: torch.device, dtype: torch.dtype) -> Kernels | None:
    """The kernels for numbers of this precision on a device; None where there are none."""
    if _switched_off or dtype not in (torch.float32, torch.float64):
        return None
    if device.type == "cuda":
        return _triton() if dtype == torch.float32 else None
    return _cpu() if device.type == "cpu" else None


def state(device: torch.device) -> str:
    """Which kernels a device has, or why none, in words."""
    if _switched_off:
        return OFF
    if device.type == "cpu":
        try:
            return cpu.load().name
        except cpu.NoKernels as why:
            return f"none ({why})"
    fast = for_device(device, torch.float32)
    return "none (triton is missing, or the device is older than an A100)" if fast is None else fast.name


def used(device: torch.device, calls: int) -> str:
    """Which kernels were called so often by a training on a device, in words."""
    there = state(device)
    return there if calls or there == OFF or there.startswith("none") else f"none ({there} has none for its layers)"


@functools.cache
def _cpu() -> Kernels | None:
    try:
        return cpu.load()
    except cpu.NoKernels:
        return None


@functools.cache
def _triton() -> Kernels | None:
    """Triton comes with torch's builds for CUDA."""
    if importlib.util.find_spec("triton") is None or torch.cuda.get_device_capability() < (8, 0):
        return None
    from hpo.training.kernels.gpu import TritonKernels

    return TritonKernels()
