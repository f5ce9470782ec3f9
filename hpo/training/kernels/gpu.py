"""Triton's kernels as torch calls them: shapes, tiles and launches; `triton_kernels` has what they compute.

Loads triton. Shapes: P lanes, B images, C channels in, O channels out, Q pooled positions, n parameters.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from hpo.training.kernels import triton_kernels
from hpo.training.streams import Thresholds
from hpo.training.windows import WindowTable

# Tiles: rows or images of a program, and its warps; those that were fastest on an H100 (bench/gpu_run.sh).
WINDOW_FORWARD = {"BLOCK": 64, "num_warps": 4}
WINDOW_BACKWARD = {"BLOCK": 32, "BLOCKS": 10, "num_warps": 8}
FORWARD = {"BLOCK": 2, "num_warps": 4}
INPUT_GRADIENT = {"BLOCK": 64, "num_warps": 8}
WEIGHT_GRADIENT = {"BLOCK": 32, "num_warps": 4}


def precision() -> str:
    """How products of float32 are taken: as `torch.set_float32_matmul_precision` has it."""
    return "tf32" if torch.backends.cuda.matmul.allow_tf32 else "tf32x3"


def _power(n: int) -> int:
    return int(triton.next_power_of_2(n))


def _side_by_side(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Weights (P, ...) and biases (P, O), lanes of both equally far apart and each in one piece, as Layout has them."""
    if weight.stride(0) == bias.stride(0) and weight[0].is_contiguous() and bias[0].is_contiguous():
        return weight, bias
    both = torch.cat([weight.flatten(1), bias], 1)
    return both[:, : -bias.shape[1]].view(weight.shape), both[:, -bias.shape[1] :]


class _TritonWindowConvolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, corners: Tensor, rows: Tensor, positions: Tensor, size: int, weight: Tensor, bias: Tensor
    ) -> Tensor:
        p, b, c = corners.shape
        o, k = weight.shape[1], weight.shape[-1]
        q = len(positions)
        sizes = {"Q": q, "C": c, "K": k, "S": size - k + 1, "OC": o, "INNER": _power(c * size**2)}
        corners = corners.contiguous()
        weight, bias = _side_by_side(weight, bias)
        out = rows.new_empty(p, b * q, o)
        route = torch.empty(p, b * q, o, dtype=torch.int8, device=rows.device)
        triton_kernels.window_forward[(triton.cdiv(b * q, WINDOW_FORWARD["BLOCK"]), p)](
            rows, corners, positions, weight, bias, out, route, b * q, weight.stride(0),
            **sizes, **WINDOW_FORWARD, PRECISION=precision(),
        )  # fmt: skip
        ctx.save_for_backward(corners, rows, positions, out, route)
        ctx.sizes, ctx.weight = sizes, weight.shape
        side = int(q**0.5)
        return out.view(p, b, side, side, o).permute(0, 1, 4, 2, 3)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        corners, rows, positions, out, route = ctx.saved_tensors
        sizes = ctx.sizes
        p, r, o = out.shape
        places, inner = sizes["S"] ** 2, sizes["INNER"]
        grad = grad.permute(0, 1, 3, 4, 2).reshape(p, r, o).contiguous()
        chunks = triton.cdiv(r, WINDOW_BACKWARD["BLOCK"] * WINDOW_BACKWARD["BLOCKS"])
        part = rows.new_empty(p, chunks, places, inner, o)
        bias_part = rows.new_empty(p, chunks, o)
        triton_kernels.window_backward[(chunks, p)](
            rows, corners, positions, grad, out, route, part, bias_part, r,
            **sizes, **WINDOW_BACKWARD, PRECISION=precision(),
        )  # fmt: skip
        weight, bias = rows.new_empty(ctx.weight), rows.new_empty(p, o)
        triton_kernels.window_fold[(sizes["C"], p)](
            part, bias_part, weight, bias,
            **{name: sizes[name] for name in ("C", "K", "S", "OC", "INNER")},
            CHUNKS=chunks, TAPS=_power(sizes["K"] ** 2),
        )  # fmt: skip
        return None, None, None, None, weight, bias


class _TritonConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> Tensor:
        p, b, c, side, _ = x.shape
        o, k = weight.shape[1], weight.shape[-1]
        sizes = {"SIDE": side, "K": k, "S": pool, "C": c, "OC": o}
        x = x.permute(0, 1, 3, 4, 2).contiguous()
        kernel = weight.permute(0, 3, 4, 2, 1).contiguous()
        out = x.new_empty(p, b, o)
        route = torch.empty(p, b, o, dtype=torch.int8, device=x.device)
        triton_kernels.convolution_forward[(triton.cdiv(b, FORWARD["BLOCK"]), p)](
            x, kernel, bias, out, route, b, bias.stride(0),
            **sizes, PLACES=_power(pool**2), **FORWARD, PRECISION=precision(),
        )  # fmt: skip
        ctx.save_for_backward(x, kernel, out, route)
        ctx.sizes = sizes
        return out.view(p, b, o, 1, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, kernel, out, route = ctx.saved_tensors
        sizes = ctx.sizes
        p, b, o = out.shape
        side, k, c = sizes["SIDE"], sizes["K"], sizes["C"]
        grad = grad.reshape(p, b, o).contiguous()
        dx = torch.empty_like(x)
        triton_kernels.convolution_input_gradient[(triton.cdiv(b, INPUT_GRADIENT["BLOCK"]), side, p)](
            grad, out, route, kernel, dx, b, **sizes, **INPUT_GRADIENT, PRECISION=precision()
        )
        dw, db = torch.empty_like(kernel), x.new_empty(p, o)
        triton_kernels.convolution_weight_gradient[(k * k, p)](
            grad, out, route, x, dw, db, b,
            **sizes, **WEIGHT_GRADIENT, BLOCKS=triton.cdiv(b, WEIGHT_GRADIENT["BLOCK"]), PRECISION=precision(),
        )  # fmt: skip
        weight = dw.view(p, k, k, c, o).permute(0, 4, 3, 1, 2)
        return dx.view(p, b, side, side, c).permute(0, 1, 4, 2, 3), weight, db, None


class TritonKernels:
    """`hpo.training.kernels.Kernels` for CUDA."""

    name = f"Triton {triton.__version__}"
    calls = 0  # of a graph that is captured, at its capture

    def serves_windows(self, side: int, channels: int, out: int, kernel: int, pool: int) -> bool:
        """Four places, and tiles that are powers of two and fit into registers."""
        inner = _power(channels * (kernel + 1) ** 2)
        return pool == 2 and out in (16, 32, 64) and 16 <= inner <= 128 and inner * out <= 4096

    def serves(self, side: int, channels: int, out: int, kernel: int, pool: int) -> bool:
        """One pooled position, and powers of two."""
        return side - kernel + 1 == pool <= 4 and channels in (16, 32, 64) and out in (16, 32, 64)

    def window_convolution(self, table: WindowTable, corners: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """SELU of the pooled convolution of the windows at corners (P, B, C): (P, B, O, side, side)."""
        self.calls += 1
        out: Tensor = _TritonWindowConvolution.apply(corners, table.rows, table.positions, table.size, weight, bias)  # type: ignore[no-untyped-call]  # torch's
        return out

    def convolution(self, x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> Tensor:
        """SELU of the pooled convolution of x (P, B, C, side, side): (P, B, O, 1, 1)."""
        self.calls += 1
        out: Tensor = _TritonConvolution.apply(x, weight, bias, pool)  # type: ignore[no-untyped-call]  # torch's
        return out

    def activate(self, y: Tensor, mask: Tensor | None) -> None:
        """Torch's operations do it."""

    def before_activation(self, grad: Tensor, y: Tensor, mask: Tensor | None) -> None:
        """Torch's operations do it."""

    def keep_masks(self, keys: Tensor, words: int, at: Thresholds, dtype: torch.dtype) -> Tensor:
        """`hpo.training.streams.keep_masks` for thresholds (P,): (P, 4 * words)."""
        self.calls += 1
        out = torch.empty(len(keys), 4 * words, device=keys.device, dtype=dtype)
        triton_kernels.dropout_masks[(triton.cdiv(words, 512), len(keys))](
            keys, at.least, at.scale, out, words, BLOCK=512
        )
        return out

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
        self.calls += 1
        p, n = parameters.shape
        decay = torch.zeros_like(rate) if decay is None else decay
        triton_kernels.adam[(triton.cdiv(n, 1024), p)](
            parameters, gradient, first, second, rate, eps, decay, n, BLOCK=1024
        )
