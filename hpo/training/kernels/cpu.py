"""`cpu.c` as torch calls it: which build fits this processor, shapes, addresses.

Shapes: P lanes, B images, C channels in, O channels out, n parameters.
"""

import ctypes
import functools
import hashlib
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpo.training.streams import Thresholds
from hpo.training.windows import WindowTable

FOLDER = Path(__file__).parent
SOURCES = ("cpu.c", "cpu_real.h")
LEVELS = {"AVX512": "avx512", "AVX2": "avx2"}  # builds, by what torch says that the processor can
_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}


class NoKernels(Exception):
    """Why this machine has none."""


def source_digest() -> str:
    """Of the text that the kernels are compiled from."""
    return hashlib.sha256(b"".join((FOLDER / name).read_bytes() for name in SOURCES)).hexdigest()[:16]


def build_of(level: str) -> Path:
    """Where the build for a level of instructions is."""
    return FOLDER / "compiled" / f"cpu-{level}.so"  # a folder of its own: Python takes such files for modules


@functools.cache
def load() -> "CpuKernels":
    """The build for this processor, within what ATEN_CPU_CAPABILITY allows; NoKernels says why there is none."""
    capability = torch.backends.cpu.get_cpu_capability()
    level = "neon" if platform.machine() in ("aarch64", "arm64") else LEVELS.get(capability)
    if level is None:
        raise NoKernels(f"they need AVX2, torch finds {capability}")
    file = build_of(level)
    if not file.exists():
        raise NoKernels("they were not compiled when hpo was installed: install a C compiler, then hpo again")
    library = ctypes.CDLL(str(file))
    library.hpo_source.restype = ctypes.c_char_p
    if library.hpo_source().decode() != source_digest():
        raise NoKernels(f"{file.name} is of an earlier version: install hpo again")
    return CpuKernels(library, f"C, {level}")


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _by_lane(parameter: Tensor) -> Tensor:
    """A parameter (P, ...) whose lanes may lie apart, each in one piece."""
    return parameter if parameter[0].is_contiguous() else parameter.contiguous()


def _masked(mask: Tensor | None) -> tuple[Tensor | int, int]:
    """A mask and how far its lanes lie apart; each lies in one piece."""
    if mask is None:
        return 0, 0
    mask = _by_lane(mask)
    return mask, mask.stride(0)


class CpuKernels:
    """`hpo.training.kernels.Kernels` for CPUs; one thread whatever torch has."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        """`name` says what they are, for the record."""
        self.name, self._library = name, library

    def call(self, function: str, dtype: torch.dtype, *values: Tensor | int) -> int:
        """Call a function of the library for numbers of this type."""
        act: Callable[..., int] = getattr(self._library, f"{function}_{_SUFFIX[dtype]}")
        return act(*(_address(x) if isinstance(x, Tensor) else ctypes.c_int64(x) for x in values))

    def serves_windows(self, side: int, channels: int, out: int, kernel: int, pool: int) -> bool:
        """5x5 on 14x14, pooled by 2."""
        return channels in (1, 2) and (side, out, kernel, pool) == (14, 32, 5, 2)

    def serves(self, side: int, channels: int, out: int, kernel: int, pool: int) -> bool:
        """3x3 on 5x5, pooled by 3."""
        return (side, channels, out, kernel, pool) == (5, 32, 64, 3, 3)

    def window_convolution(self, table: WindowTable, corners: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """SELU of the pooled convolution of the windows at corners (P, B, C): (P, B, O, side, side)."""
        out: Tensor = _CompiledWindowConvolution.apply(self, corners, table.padded, weight, bias)  # type: ignore[no-untyped-call]  # torch's
        return out

    def convolution(self, x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> Tensor:
        """SELU of the pooled convolution of x (P, B, C, side, side): (P, B, O, 1, 1)."""
        out: Tensor = _CompiledConvolution.apply(self, x, weight, bias)  # type: ignore[no-untyped-call]  # torch's
        return out

    def activate(self, y: Tensor, mask: Tensor | None) -> Tensor:
        """SELU of y (P, rows, features) in place, and that times a mask of the same shape where there is one."""
        out = y if mask is None else torch.empty_like(y)
        lanes, rows, features = y.shape
        self.call("activate", y.dtype, y, *_masked(mask), out, lanes, rows * features)
        return out

    def before_activation(self, grad: Tensor, y: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The gradient before `activate`, and its sum over the rows (P, features)."""
        grad, before, bias = grad.contiguous(), torch.empty_like(y), y.new_empty(len(y), y.shape[-1])
        self.call("before_activation", y.dtype, grad, y, *_masked(mask), before, bias, *y.shape)
        return before, bias

    def keep_masks(self, keys: Tensor, words: int, at: Thresholds, dtype: torch.dtype) -> Tensor:
        """`hpo.training.streams.keep_masks` for thresholds (P,): (P, 4 * words)."""
        masks = torch.empty(len(keys), 4 * words, dtype=dtype)
        self.call("keep_masks", dtype, keys.contiguous(), at.least, at.scale, masks, len(keys), words)
        return masks

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
        decay = torch.zeros_like(rate) if decay is None else decay
        lanes, n = parameters.shape
        self.call("adam", rate.dtype, parameters, gradient, first, second, rate, eps, decay, lanes, n)


class _CompiledWindowConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, c: CpuKernels, corners: Tensor, padded: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight, bias, corners = _by_lane(weight), _by_lane(bias), corners.contiguous()
        p, b, channels = corners.shape
        out = weight.new_empty(p, b, 25, 32)
        route = torch.empty(p, b, 25, 32, dtype=torch.uint8)
        if c.call(
            "window_forward", out.dtype, padded, corners, len(padded) * 121,
            weight, weight.stride(0), bias, bias.stride(0), out, route, p, b, channels,
        ):  # fmt: skip
            raise IndexError("a corner of windows lies beyond the images")
        ctx.save_for_backward(corners, padded, out, route)
        ctx.kernels, ctx.weight = c, weight.shape
        return out.view(p, b, 5, 5, 32).permute(0, 1, 4, 2, 3)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        corners, padded, out, route = ctx.saved_tensors
        p, b, channels = corners.shape
        grad = grad.permute(0, 1, 3, 4, 2).contiguous()
        weight, bias = out.new_empty(ctx.weight), out.new_empty(p, 32)
        ctx.kernels.call(
            "window_backward", out.dtype, padded, corners, grad, out, route, weight, bias, p, b, channels
        )  # fmt: skip
        return None, None, None, weight, bias


class _CompiledConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, c: CpuKernels, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight, bias = _by_lane(weight), _by_lane(bias)
        p, b = x.shape[:2]
        x = x.permute(0, 1, 3, 4, 2).contiguous()
        packed, out = x.new_empty(p, 64, 288), x.new_empty(p, b, 64)
        route = torch.empty(p, b, 64, dtype=torch.uint8)
        c.call(
            "convolution_forward", x.dtype, x, weight, weight.stride(0), bias, bias.stride(0), packed, out, route, p, b
        )
        ctx.save_for_backward(x, packed, out, route)
        ctx.kernels, ctx.weight = c, weight.shape
        return out.view(p, b, 64, 1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, packed, out, route = ctx.saved_tensors
        p, b = out.shape[:2]
        grad = grad.reshape(p, b, 64).contiguous()
        dx, weight, bias = torch.empty_like(x), x.new_empty(ctx.weight), x.new_empty(p, 64)
        ctx.kernels.call(
            "convolution_backward", x.dtype, x, packed, grad, out, route, torch.empty_like(out), dx, weight, bias, p, b
        )
        return None, dx.permute(0, 1, 4, 2, 3), weight, bias
