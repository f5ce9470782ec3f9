"""Triton's kernels against plain torch, by Triton's interpreter on a CPU.

`test_kernels` runs this file in a process of its own: the interpreter is asked for before anything imports triton.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from hpo.training import streams
from hpo.training.kernels.gpu import TritonKernels
from hpo.training.stacked import _Convolution, _WindowConvolution
from hpo.training.windows import WindowTable, unshifted


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("channels", [1, 2])
def test_tritons_convolutions_are_plain_torchs(channels: int) -> None:
    """Outputs and gradients, with blank images among them and a last tile that is not full."""
    lanes, pairs, fast = 3, 7, TritonKernels()
    generator = torch.Generator().manual_seed(channels)
    images = torch.rand(20, 14, 14, generator=generator)
    images[:3] = 0
    table = WindowTable(images, 5, 2)
    image = torch.randint(20, (lanes, pairs, 2), generator=generator)
    shift = torch.randint(9, (lanes, pairs, 2), generator=generator)
    corners = table.corners(image, shift)
    corners = corners if channels == 2 else corners.flatten(1, 2)[..., None]
    flat = (torch.randn(lanes, 30_001, generator=generator) * 0.1).requires_grad_()
    w1, b1 = flat[:, : 800 * channels].view(lanes, 32, channels, 5, 5), flat[:, 5000:5032]
    w2, b2 = flat[:, 6000 : 6000 + 18_432].view(lanes, 64, 32, 3, 3), flat[:, 25_000:25_064]
    assert fast.serves_windows(table.side, channels, 32, 5, 2)
    assert fast.serves(5, 32, 64, 3, 3)
    hidden = _WindowConvolution.apply(table.gather(corners), w1, b1, 2)  # type: ignore[no-untyped-call]
    expected = _Convolution.apply(hidden, w2, b2, 3)  # type: ignore[no-untyped-call]
    given_hidden = fast.window_convolution(table, corners, w1, b1)
    actual = fast.convolution(given_hidden, w2, b2, 3)
    assert relative(given_hidden, hidden) < 1e-6
    assert relative(actual, expected) < 1e-6
    upstream = torch.randn(expected.shape, generator=generator)
    wanted = torch.autograd.grad((expected * upstream).sum(), [w1, b1, w2, b2])
    given = torch.autograd.grad((actual * upstream).sum(), [w1, b1, w2, b2])
    assert [relative(a, b) < 1e-6 for a, b in zip(given, wanted, strict=True)] == [True] * 4


def test_tritons_convolutions_take_parameters_and_gradients_however_they_lie() -> None:
    """Weights and biases of lanes by themselves, and a gradient that is one number, expanded, as that of a sum is."""
    fast, generator = TritonKernels(), torch.Generator().manual_seed(0)
    table = WindowTable(torch.rand(4, 14, 14, generator=generator), 5, 2)
    corners = table.corners(torch.arange(4).view(2, 2, 1), torch.arange(4).view(2, 2, 1))
    sizes = ((2, 32, 1, 5, 5), (2, 32), (2, 64, 32, 3, 3), (2, 64))
    leaves = [(torch.randn(*size, generator=generator) * 0.1).requires_grad_() for size in sizes]

    def followed(first: Callable[..., Tensor], second: Callable[..., Tensor]) -> list[Tensor]:
        both = second(first(leaves[0], leaves[1]), leaves[2], leaves[3])
        alone = first(leaves[0], leaves[1])
        return [*torch.autograd.grad(both.sum(), leaves), *torch.autograd.grad(alone.sum(), leaves[:2])]

    expected = followed(
        lambda w, b: _WindowConvolution.apply(table.gather(corners), w, b, 2),  # type: ignore[no-untyped-call]
        lambda x, w, b: _Convolution.apply(x, w, b, 3),  # type: ignore[no-untyped-call]
    )
    actual = followed(
        lambda w, b: fast.window_convolution(table, corners, w, b), lambda x, w, b: fast.convolution(x, w, b, 3)
    )
    assert [relative(a, b) < 1e-6 for a, b in zip(actual, expected, strict=True)] == [True] * 6


@pytest.mark.parametrize("channels", [1, 2])
def test_tritons_first_convolution_of_images_is_plain_torchs(channels: int) -> None:
    """Of images that come without windows, as an extended experiment's do."""
    images = torch.rand(2, 5, channels, 14, 14, generator=torch.Generator().manual_seed(channels))
    layer = nn.Sequential(nn.Conv2d(channels, 32, 5), nn.MaxPool2d(2), nn.SELU())
    weight, bias = (p.detach().expand(2, *p.shape) for p in layer.parameters())
    actual = TritonKernels().window_convolution(*unshifted(images, 5, 2), weight, bias)
    assert relative(actual, torch.stack([layer(of_lane) for of_lane in images])) < 1e-6


def test_tritons_masks_are_the_streams_bit_for_bit() -> None:
    keys, counters = torch.tensor([1, -(2**62), 12345]), streams.counters(700)
    at = streams.thresholds(torch.tensor([0.0, 0.3, 0.99999], dtype=torch.float64))
    assert torch.equal(TritonKernels().keep_masks(keys, 700, at, torch.float32), streams.keep_masks(keys, counters, at))


@pytest.mark.parametrize("decays", [True, False])
def test_tritons_adam_is_the_lockstep_one(decays: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    p, g, m, v = (torch.randn(2, 5000, generator=generator) for _ in range(4))
    v = v.abs()
    rate, eps, decay = (torch.rand(2, generator=generator) * scale for scale in (0.01, 1e-6, 0.1))
    exact = [x.double() for x in (p, g, m, v)]
    gradient = exact[1] + (exact[0] * decay.double()[:, None] if decays else 0)
    first = exact[2].lerp(gradient, 0.1)
    second = exact[3] * 0.999 + gradient**2 * 0.001
    moved = exact[0] - rate.double()[:, None] * first / (second.sqrt() + eps.double()[:, None])
    TritonKernels().adam(p, g, m, v, rate, eps, decay if decays else None)
    assert max(relative(a.double(), b) for a, b in ((p, moved), (m, first), (v, second))) < 1e-6
