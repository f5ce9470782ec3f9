"""`cpu.c` as torch calls it: which build fits this processor, shapes, addresses.

Shapes: P lanes, B images, C channels in, O channels out, n parameters.
"""

import ctypes
import functools
import hashlib
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hpo.training.streams import Thresholds
from hpo.training.windows import BEYOND, WindowTable

FOLDER = Path(__file__).parent
SOURCES = ("cpu.c", "cpu_real.h")
LEVELS = {"AVX512": ("avx512", "avx2"), "AVX2": ("avx2",)}  # builds, the best first, by what torch finds
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
    """The best build for this processor, within what ATEN_CPU_CAPABILITY allows; NoKernels says why there is none."""
    capability = torch.backends.cpu.get_cpu_capability()
    levels = ("neon",) if platform.machine() in ("aarch64", "arm64") else LEVELS.get(capability, ())
    if not levels:
        raise NoKernels(f"they need AVX2, torch finds {capability}")
    reasons = []
    for level in levels:
        try:
            return CpuKernels(_library(build_of(level)), f"C, {level}")
        except NoKernels as why:
            reasons.append(why)
    raise reasons[0]


def _library(file: Path) -> ctypes.CDLL:
    """A build of this very text."""
    if not file.exists():
        raise NoKernels("they were not compiled when hpo was installed: install a C compiler, then hpo again")
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        raise NoKernels(f"{file.name} cannot be loaded ({error}): install hpo again") from error
    library.hpo_source.restype = ctypes.c_char_p
    if library.hpo_source().decode() != source_digest():
        raise NoKernels(f"{file.name} is of an earlier version: install hpo again")
    return library


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor, where it has this shape and type and lies in one piece in this machine's memory; else ValueError.

    What takes its address would read and write beyond a smaller one. It costs half a microsecond.
    """
    if tensor.shape != shape or tensor.dtype is not dtype or not tensor.is_cpu or not tensor.is_contiguous():
        raise _unlike(name, tensor, shape, dtype)
    return tensor


def _by_lane(name: str, parameter: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A parameter (P, ...) whose lanes may lie apart, each in one piece, or a copy that is so; else as `_expect`."""
    if parameter.shape != shape or parameter.dtype is not dtype or not parameter.is_cpu:
        raise _unlike(name, parameter, shape, dtype)
    contiguous = parameter.stride()[1:] == _strides(shape[1:]) or parameter.is_contiguous()
    return parameter if contiguous else parameter.contiguous()


@functools.cache
def _strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Of a tensor of this shape that is in one piece."""
    return tuple(math.prod(shape[at + 1 :]) for at in range(len(shape)))


def _unlike(name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> ValueError:
    actual = f"{tuple(tensor.shape)}, {tensor.dtype}, strides {tensor.stride()}, on {tensor.device}"
    return ValueError(f"{name} must be {tuple(shape)}, {dtype}, in one piece, on the CPU; it is {actual}")


def _masked(mask: Tensor | None, y: Tensor) -> tuple[Tensor | int, int]:
    """A mask of y's numbers and how far its lanes lie apart; each lies in one piece."""
    if mask is None:
        return 0, 0
    mask = _by_lane("mask", mask, y.shape, y.dtype)
    return mask, mask.stride(0)


class CpuKernels:
    """`hpo.training.kernels.Kernels` for CPUs; one thread whatever torch has."""

    def __init__(self, library: ctypes.CDLL, name: str) -> None:
        """`name` says what they are, for the record."""
        self.name, self._library, self.calls = name, library, 0

    def call(self, function: str, dtype: torch.dtype, *values: Tensor | int) -> int:
        """Call a function of the library for numbers of this type; what it reads and writes has been looked at."""
        if dtype not in _SUFFIX:
            raise ValueError(f"there are kernels for float32 and float64, not for {dtype}")
        self.calls += 1
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
        kernel = weight.shape[-1]
        if not self.serves_windows(table.side, corners.shape[-1], 32, kernel, table.size - kernel + 1):
            raise ValueError(f"no kernel has windows of {table.size}x{table.size} and weights {tuple(weight.shape)}")
        out: Tensor = _CompiledWindowConvolution.apply(self, corners, table.padded, weight, bias)  # type: ignore[no-untyped-call]  # torch's
        return out

    def convolution(self, x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> Tensor:
        """SELU of the pooled convolution of x (P, B, C, side, side): (P, B, O, 1, 1)."""
        if pool != 3:
            raise ValueError(f"no kernel pools by {pool}")
        out: Tensor = _CompiledConvolution.apply(self, x, weight, bias)  # type: ignore[no-untyped-call]  # torch's
        return out

    def activate(self, y: Tensor, mask: Tensor | None) -> Tensor:
        """SELU of y (P, rows, features) in place, and that times a mask of the same shape where there is one."""
        lanes, rows, features = y.shape
        _expect("y", y, (lanes, rows, features), y.dtype)
        out = y if mask is None else torch.empty_like(y)
        self.call("activate", y.dtype, y, *_masked(mask, y), out, lanes, rows * features)
        return out

    def before_activation(self, grad: Tensor, y: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The gradient before `activate`, and its sum over the rows (P, features)."""
        lanes, rows, features = y.shape
        _expect("y", y, (lanes, rows, features), y.dtype)
        grad = _expect("gradient", grad.contiguous(), (lanes, rows, features), y.dtype)
        before, bias = torch.empty_like(y), y.new_empty(lanes, features)
        self.call("before_activation", y.dtype, grad, y, *_masked(mask, y), before, bias, lanes, rows, features)
        return before, bias

    def keep_masks(self, keys: Tensor, words: int, at: Thresholds, dtype: torch.dtype) -> Tensor:
        """`hpo.training.streams.keep_masks` for thresholds (P,): (P, 4 * words)."""
        lanes = (len(keys),)
        keys = _expect("keys", keys.contiguous(), lanes, torch.int64)
        least = _expect("least", at.least, lanes, torch.int16)
        scale = _expect("scale", at.scale, lanes, torch.float32)
        masks = torch.empty(*lanes, 4 * words, dtype=dtype)
        self.call("keep_masks", dtype, keys, least, scale, masks, *lanes, words)
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
        (lanes, n), dtype = parameters.shape, parameters.dtype
        rows = {"parameters": parameters, "gradient": gradient, "first": first, "second": second}
        numbers = {"rate": rate, "eps": eps, "decay": decay}
        for name, values in rows.items():
            _expect(name, values, (lanes, n), dtype)
        for name, values in numbers.items():
            _expect(name, values, (lanes,), dtype)
        self.call("adam", dtype, *rows.values(), *numbers.values(), lanes, n)


class _CompiledWindowConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, c: CpuKernels, corners: Tensor, padded: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        (p, b, channels), dtype = corners.shape, weight.dtype
        corners = _expect("corners", corners.contiguous(), (p, b, channels), torch.int64)
        weight = _by_lane("weight", weight, (p, 32, channels, 5, 5), dtype)
        bias = _by_lane("bias", bias, (p, 32), dtype)
        _expect("padded images", padded, (len(padded), 16, 16), dtype)
        if padded.untyped_storage().nbytes() < (padded.storage_offset() + padded.numel() + BEYOND) * padded.itemsize:
            raise ValueError("padded images must have room behind them, as WindowTable's have")
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
        grad = _expect("gradient", grad.permute(0, 1, 3, 4, 2).contiguous(), (p, b, 5, 5, 32), out.dtype)
        weight, bias = out.new_empty(ctx.weight), out.new_empty(p, 32)
        ctx.kernels.call(
            "window_backward", out.dtype, padded, corners, grad, out, route, weight, bias, p, b, channels
        )  # fmt: skip
        return None, None, None, weight, bias


class _CompiledConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, c: CpuKernels, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        (p, b), dtype = x.shape[:2], weight.dtype
        x = _expect("x", x.permute(0, 1, 3, 4, 2).contiguous(), (p, b, 5, 5, 32), dtype)
        weight = _by_lane("weight", weight, (p, 64, 32, 3, 3), dtype)
        bias = _by_lane("bias", bias, (p, 64), dtype)
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
        grad = _expect("gradient", grad.reshape(p, b, 64).contiguous(), (p, b, 64), out.dtype)
        dx, weight, bias = torch.empty_like(x), x.new_empty(ctx.weight), x.new_empty(p, 64)
        ctx.kernels.call(
            "convolution_backward", x.dtype, x, packed, grad, out, route, torch.empty_like(out), dx, weight, bias, p, b
        )
        return None, dx.permute(0, 1, 4, 2, 3), weight, bias
