"""Stacked twins: the layers of a plain module, each holding the parameters of P lanes.

`stack` copies a plain module and puts a twin in the place of every leaf, under the same parameter names, so
the module's own `forward` runs the whole population. Convolution, pooling and SELU become one hand-written
Function of matrix products: eager convolutions of this size cost several times the arithmetic.

Images reach the first convolution as windows: pooling by s after a kernel of k needs, for each of the Q pooled
positions, a square of k + s - 1 pixels; the products of one square with the kernel at its s * s places are what
is pooled. All windows of all images lie in one table, so a shift is another row of it (`hpo.training.windows`), and
a batch says no more than the row, called corner, at which an image's windows begin.

Where the device has kernels for a layer's shapes (`hpo.training.kernels`), they take the place of these Functions. A
first convolution that is given images, not corners, has the same kernel: their windows are cut then, step by step.

Shapes: P lanes, B images of the batch, C channels in, O channels out, Q pooled positions, W pixels of a window,
N images; R = B * Q rows.
"""

import copy
import functools
import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpo.training.dropout import Dropout
from hpo.training.kernels import selection
from hpo.training.windows import WindowTable, unshifted

_ELEMENTWISE = nn.SELU | nn.ReLU | nn.LeakyReLU | nn.ELU | nn.GELU | nn.SiLU | nn.Tanh | nn.Sigmoid | nn.Softplus
_ALPHA, _SCALE = 1.6732632423543772, 1.0507009873554805  # SELU (Klambauer et al., NeurIPS 2017)


class CannotStack(TypeError):
    """A module that has no stacked twin, for example one with running statistics."""


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Batched a @ b; one lane as a plain product, which is faster on a CPU."""
    return torch.mm(a[0], b[0])[None] if len(a) == 1 else torch.bmm(a, b)


def _selu_backward(grad: Tensor, out: Tensor) -> Tensor:
    """The gradient by x of out = SELU(x)."""
    before: Tensor = torch.ops.aten.elu_backward(grad, _ALPHA, _SCALE, 1.0, True, out)
    return before


# Where places of a pooled square tie, each gets an equal share of the gradient: ties here are equal inputs (blank
# paper), for which the parameters' gradients do not depend on the share.


@functools.cache
def _widening(c: int, k: int, pool: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Between a kernel and the same at its s * s places in a window, as rows to select.

    From the kernel's c * k * k rows and one of zeros to the places' (s * s * c * W); and back, for every place the
    rows that the kernel's come from (s * s * c * k * k).
    """
    size, n = k + pool - 1, c * k * k
    kernel = torch.arange(n).view(c, k, k)
    out = torch.full((pool, pool, c, size, size), n)
    for i, j in itertools.product(range(pool), repeat=2):
        out[i, j, :, i : i + k, j : j + k] = kernel
    out = out.flatten()
    used = (out < n).nonzero()[:, 0]  # in the order of places, and within a place of the kernel
    return out.to(device), used.to(device)


class _WindowConvolution(torch.autograd.Function):
    """SELU(MaxPool2d(s)(Conv2d(k)(images))) from windows (P, B, C, Q, W); images need no gradient.

    One product for each of the s * s places of the kernel in a window: what is pooled lies in s * s contiguous
    planes, over which elementwise operations run twice as fast as over one interleaved tensor.
    """

    @staticmethod
    def forward(ctx: Any, windows: Tensor, weight: Tensor, bias: Tensor, pool: int) -> Tensor:
        p, b, c, q, w = windows.shape
        o, k = weight.shape[1], weight.shape[-1]
        x = windows.transpose(2, 3).reshape(p, b * q, c * w)
        rows, back = _widening(c, k, pool, weight.device)
        kernel = F.pad(weight.view(p, o, -1).mT, (0, 0, 0, 1))  # (P, C * k * k + 1, O)
        wide = kernel.index_select(1, rows).view(p, pool**2, c * w, o)
        places = [_product(x, kernel) for kernel in wide.unbind(1)]
        top = functools.reduce(torch.maximum, places)
        out = F.selu_(top + bias[:, None])
        ctx.save_for_backward(x, top, out, back)
        ctx.places, ctx.shape = places, (p, b, q, o, c, k)
        side = int(q**0.5)
        return out.view(p, b, side, side, o).permute(0, 1, 4, 2, 3)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, top, out, back = ctx.saved_tensors
        p, b, q, o, c, k = ctx.shape
        grad = _selu_backward(grad.permute(0, 1, 3, 4, 2).reshape(p, b * q, o), out)
        routes = [place.eq_(top) for place in ctx.places]  # in place, so that the comparison gives floats
        ctx.places = None
        share = grad / sum(routes[1:], routes[0])
        wide = torch.cat([_product(x.mT, route.mul_(share)) for route in routes], 1)  # (P, s * s * C * W, O)
        weight = wide.index_select(1, back).view(p, len(routes), -1, o).sum(1)
        return None, weight.mT.view(p, o, c, k, k), grad.sum(1), None


class _Geometry(NamedTuple):
    """Sizes of a convolution between layers: images of height x width, kernel k, then pooling by s."""

    height: int
    width: int
    k: int
    s: int

    @property
    def out(self) -> tuple[int, int]:
        return (self.height - self.k + 1) // self.s, (self.width - self.k + 1) // self.s

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def patches(self) -> int:
        """Patches of an image: the positions that are pooled."""
        return self.out[0] * self.out[1] * self.s**2


_FOLDS: dict[tuple[_Geometry, torch.device], tuple[Tensor, Tensor]] = {}  # for the most images that there were


def _fold(columns: Tensor, g: _Geometry, images: int) -> Tensor:
    """Sum patches (rows * k * k, C) back into the images they were cut from: (images * height * width, C).

    A bag of rows for each pixel: one fast kernel instead of k * k strided additions.
    """
    at, pixels = (g, columns.device), g.pixels
    patches = g.patches * g.k**2  # rows of one image
    if at not in _FOLDS or len(_FOLDS[at][1]) < images * pixels:
        pixel = torch.arange(pixels).view(g.height, g.width)
        place = pixel.unfold(0, g.k, 1).unfold(1, g.k, 1)  # (positions, positions, k, k)
        down, across = g.out
        place = place[: down * g.s, : across * g.s]  # positions that are pooled; a rest is not
        place = place.reshape(down, g.s, across, g.s, g.k, g.k).transpose(1, 2).flatten()
        source = place.argsort(stable=True)
        ends = torch.bincount(place, minlength=pixels).cumsum(0)
        offsets = torch.cat([ends.new_zeros(1), ends[:-1]])
        every = torch.arange(images)[:, None] * patches
        _FOLDS[at] = (
            (every + source).flatten().to(columns.device),
            (every + offsets).flatten().to(columns.device),
        )
    rows, offsets = _FOLDS[at]
    return F.embedding_bag(rows[: images * patches], columns, offsets[: images * pixels], mode="sum")


class _Convolution(torch.autograd.Function):
    """SELU(MaxPool2d(s)(Conv2d(k)(x))) for x (P, B, C, height, width)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, pool: int) -> Tensor:
        p, b, c, height, width = x.shape
        o, k = weight.shape[1], weight.shape[-1]
        g = _Geometry(height, width, k, pool)
        x = x.permute(0, 1, 3, 4, 2).contiguous()
        row = width * c
        patches = x.as_strided(
            (p * b, *g.out, pool, pool, k, k * c),
            (height * row, pool * row, pool * c, row, c, row, 1),
        ).reshape(p, b * g.patches, k * k * c)
        kernel = weight.permute(0, 3, 4, 2, 1).reshape(p, k * k * c, o)
        y = _product(patches, kernel).view(p, -1, pool**2, o)
        top = y.amax(2)
        out = F.selu_(top + bias[:, None])
        ctx.save_for_backward(patches, kernel, top, out)
        ctx.y, ctx.g, ctx.shape = y, g, (p, b, c, o)
        return out.view(p, b, *g.out, o).permute(0, 1, 4, 2, 3)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        patches, kernel, top, out = ctx.saved_tensors
        (p, b, c, o), g = ctx.shape, ctx.g
        grad = _selu_backward(grad.permute(0, 1, 3, 4, 2).reshape(p, -1, o), out)
        routes, ctx.y = ctx.y.eq_(top[:, :, None]), None
        routes.mul_((grad / routes.sum(2))[:, :, None])
        routes = routes.view(p, -1, o)
        weight = _product(routes.mT, patches).view(p, o, g.k, g.k, c).permute(0, 1, 4, 2, 3)
        columns = _product(routes, kernel.mT).view(-1, c)
        x = _fold(columns, g, p * b).view(p, b, g.height, g.width, c).permute(0, 1, 4, 2, 3)
        return x, weight, grad.sum(1), None


class StackedConvolution(nn.Module):
    """Conv2d, MaxPool2d, SELU of P lanes.

    With `windows` it is the first convolution: in place of images (P, B, C, side, side) it takes the corners of their
    windows (P, B, C, 1, 1), which lie in `table` (`read_windows`).
    """

    table: WindowTable | None = None

    def __init__(self, conv: nn.Conv2d, pool: nn.MaxPool2d, windows: bool) -> None:
        super().__init__()
        plain = conv.stride == (1, 1) and conv.padding == (0, 0) and conv.dilation == (1, 1)
        square = conv.kernel_size[0] == conv.kernel_size[1]
        simple = conv.groups == 1 and pool.stride == pool.kernel_size and not pool.ceil_mode
        simple = simple and pool.padding == 0 and pool.dilation == 1
        size = pool.kernel_size
        if conv.bias is None or not isinstance(size, int) or not (plain and square and simple):
            raise CannotStack(f"{conv} then {pool} has no stacked twin; train it with a population of 1")
        self.kernel, self.pool, self.windows = conv.kernel_size[0], size, windows
        self.weight, self.bias = nn.Parameter(conv.weight[None]), nn.Parameter(conv.bias[None])

    def forward(self, x: Tensor) -> Tensor:
        fast = selection.for_device(self.weight.device, self.weight.dtype)
        out_channels, channels = self.weight.shape[1:3]
        sizes = channels, out_channels, self.kernel, self.pool
        out: Tensor
        if not self.windows:
            height, width = x.shape[-2:]
            if fast and height == width and fast.serves(width, *sizes):
                return fast.convolution(x, self.weight, self.bias, self.pool)
            if fast and height == width and fast.serves_windows(width, *sizes) and not x.requires_grad:
                return fast.window_convolution(*unshifted(x, self.kernel, self.pool), self.weight, self.bias)
            out = _Convolution.apply(x, self.weight, self.bias, self.pool)  # type: ignore[no-untyped-call]
            return out
        if self.table is None:
            raise RuntimeError("the first convolution has no windows: set them with hpo.training.stacked.read_windows")
        corners = x[..., 0, 0]
        if fast and fast.serves_windows(self.table.side, *sizes):
            return fast.window_convolution(self.table, corners, self.weight, self.bias)
        out = _WindowConvolution.apply(self.table.gather(corners), self.weight, self.bias, self.pool)  # type: ignore[no-untyped-call]
        return out


class _Linear(torch.autograd.Function):
    """Linear, SELU where asked for, and the mask of a dropout layer after it, of x (P, B, in)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, selu: bool, mask: Tensor | None) -> Tensor:
        alone = len(x) == 1
        y = torch.addmm(bias[0], x[0], weight[0].T)[None] if alone else torch.baddbmm(bias[:, None], x, weight.mT)
        out = None
        if selu and (fast := selection.for_device(y.device, y.dtype)):
            out = fast.activate(y, mask)
        if out is None:
            y = F.selu_(y) if selu else y
            out = y if mask is None else y * mask
        ctx.save_for_backward(x, weight, y, mask)
        ctx.selu = selu
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, weight, y, mask = ctx.saved_tensors
        before = None
        if ctx.selu and (fast := selection.for_device(y.device, y.dtype)):
            before = fast.before_activation(grad, y, mask)
        if before is None:
            grad = grad if mask is None else grad * mask
            grad = _selu_backward(grad, y) if ctx.selu else grad
            before = grad, grad.sum(1)
        grad, bias = before
        inputs = _product(grad, weight) if ctx.needs_input_grad[0] else None
        return inputs, _product(grad.mT, x), bias, None, None


class StackedLinear(nn.Module):
    """Linear, and the SELU and the Dropout that follow it, of P lanes: (P, B, in) -> (P, B, out)."""

    def __init__(self, plain: nn.Linear, selu: bool = False, dropout: Dropout | None = None) -> None:
        super().__init__()
        if plain.bias is None:
            raise CannotStack(f"{plain} without a bias has no stacked twin")
        self.selu, self.dropout = selu, dropout
        self.weight, self.bias = nn.Parameter(plain.weight[None]), nn.Parameter(plain.bias[None])

    def forward(self, x: Tensor) -> Tensor:
        mask = None if self.dropout is None else self.dropout.mask_in_force()
        out: Tensor = _Linear.apply(x, self.weight, self.bias, self.selu, mask)  # type: ignore[no-untyped-call]
        return out


def _stack_sequence(plain: nn.Sequential, first: list[bool]) -> nn.Sequential:
    twin, layers = nn.Sequential(), list(plain.named_children())
    while layers:
        name, layer = layers.pop(0)
        if isinstance(layer, nn.Conv2d):
            after = [module for _, module in layers[:2]]
            if len(after) < 2 or not (isinstance(after[0], nn.MaxPool2d) and isinstance(after[1], nn.SELU)):
                raise CannotStack(f"{layer} is stacked only where MaxPool2d and SELU follow it")
            del layers[:2]
            twin.add_module(name, StackedConvolution(layer, after[0], windows=first.pop() if first else False))
        elif isinstance(layer, nn.Linear) and layers and isinstance(layers[0][1], nn.SELU):
            layers.pop(0)
            following = layers[0][1] if layers else None
            dropped = copy.deepcopy(following) if isinstance(following, Dropout) else None
            del layers[: dropped is not None]
            twin.add_module(name, StackedLinear(layer, selu=True, dropout=dropped))
        else:
            twin.add_module(name, _stack(layer, first))
    return twin


def _stack(plain: nn.Module, first: list[bool]) -> nn.Module:
    if isinstance(plain, nn.Sequential):
        return _stack_sequence(plain, first)
    if isinstance(plain, nn.Linear):
        return StackedLinear(plain)
    if isinstance(plain, _ELEMENTWISE | Dropout) or (isinstance(plain, nn.Flatten) and plain.start_dim < 0):
        layer = copy.deepcopy(plain)
        if getattr(layer, "inplace", False):
            layer.inplace = False  # the twin of what comes before it keeps its output for the gradient
        return layer
    children = list(plain.named_children())
    direct = [*plain.parameters(recurse=False), *plain.buffers(recurse=False)]
    if direct or not children:
        raise CannotStack(
            f"{type(plain).__name__} has no stacked twin (hpo.training.stacked lists the layers that have one)"
        )
    twin = copy.copy(plain)
    twin._modules = {name: _stack(child, first) for name, child in children}
    return twin


def stack(plain: nn.Module, *, windows: bool = False) -> nn.Module:
    """The population's twin of a plain module, with one lane; `Layout.bind` gives it the parameters of P lanes.

    With `windows` its first convolution takes corners of windows (P, B, C, 1, 1), which `read_windows` says where to
    find, where the plain one takes images (B, C, side, side). Raises CannotStack for a module without a twin.
    """
    return _stack(plain, [True] if windows else [])


def read_windows(twin: nn.Module, table: WindowTable | None) -> None:
    """Have a twin's first convolution find its windows in a table; None: it reads none."""
    for layer in twin.modules():
        if isinstance(layer, StackedConvolution) and layer.windows:
            layer.table = table


def first_convolution(twin: nn.Module) -> StackedConvolution:
    """The layer that reads the windows."""
    return next(m for m in twin.modules() if isinstance(m, StackedConvolution))
