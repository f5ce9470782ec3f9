"""Stacked twins against torch's own layers, forward and backward, in float64.

Shapes: P lanes, S pairs, C channels in, O channels out, N images.
"""

import copy
from collections.abc import Iterator
from functools import partial
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from hpo.digits import draws, models
from hpo.digits.draws import SIDE, PairTable
from hpo.training import initialisation
from hpo.training.augmentation import NO_SHIFT
from hpo.training.stacked import CannotStack, StackedConvolution, StackedLinear, first_convolution, read_windows, stack
from hpo.training.windows import WindowTable

assert_exact = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


@pytest.fixture(autouse=True, scope="module")
def _single_thread() -> Iterator[None]:
    """Tensors this small only wait for each other's threads: with two on a busy machine ten times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def plain_layers(lanes: int, c: int, o: int, k: int, s: int) -> list[nn.Sequential]:
    """P times what the table of the architectures says: Conv2d, MaxPool2d, SELU."""
    layers = []
    for lane in range(lanes):
        torch.manual_seed(lane)
        layers.append(nn.Sequential(nn.Conv2d(c, o, k), nn.MaxPool2d(s), nn.SELU()).to(torch.float64))
    return layers


def twin_of(plains: list[nn.Sequential], windows: bool) -> StackedConvolution:
    conv, pool = plains[0][0], plains[0][1]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(pool, nn.MaxPool2d)
    twin = StackedConvolution(conv, pool, windows=windows)
    for name in ("weight", "bias"):
        values = torch.stack([getattr(plain[0], name).detach() for plain in plains])
        setattr(twin, name, nn.Parameter(values))
    return twin


def assert_same(twin: nn.Module, plains: list[nn.Sequential]) -> None:
    """Gradients of weight and bias, lane by lane."""
    for name in ("weight", "bias"):
        expected = torch.stack([getattr(plain[0], name).grad for plain in plains])
        assert_exact(getattr(twin, name).grad, expected)


def every_shift(images: int) -> PairTable:
    """Pairs with every combination of the nine shifts of both images, over images that repeat."""
    shift = torch.tensor(list(product(range(9), range(9))))
    image = torch.stack([torch.arange(81) % images, torch.arange(81) * 5 % images], dim=1)
    return PairTable(image=image, shift=shift, digit=torch.zeros_like(image))


# --- The first convolution, from windows --------------------------------------------------------------------


@pytest.mark.parametrize("shift", range(9))
def test_windows_are_squares_of_the_shifted_image(shift: int) -> None:
    """A window is what a kernel at all places of one pooled pixel sees, row by row of the pooled image."""
    images = random(3, SIDE, SIDE)
    table = PairTable(
        image=torch.tensor([[0, 2], [1, 1]]), shift=torch.full((2, 2), shift), digit=torch.zeros(2, 2, dtype=torch.long)
    )
    windows = WindowTable(images, 5, 2)
    got = windows.gather(windows.corners(table.image, table.shift))
    assert got.shape == (2, 2, 25, 36)
    moved = draws.shifted(images[table.image], table.shift)
    squares = moved.unfold(-2, 6, 2).unfold(-2, 6, 2).reshape(2, 2, 25, 36)
    assert torch.equal(got, squares)


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize(("kernel", "pool"), [(5, 2), (3, 3), (1, 1), (4, 1), (2, 4), (5, 3), (3, 5)])
def test_windows_and_first_convolution_equal_torch_on_shifted_images(
    kernel: int, pool: int, lanes: int, channels: int
) -> None:
    """Under all 81 pairs of shifts: values, and gradients of weight and bias, for each lane's own pairs."""
    images, table, o = random(7, SIDE, SIDE), every_shift(7), 4
    plains = plain_layers(lanes, channels, o, kernel, pool)
    twin = twin_of(plains, windows=True)
    windows = WindowTable(images, kernel, pool)
    order = torch.stack([torch.arange(81).roll(9 * lane) for lane in range(lanes)])  # (P, S)
    twin.table = windows
    x = windows.corners(table.image, table.shift)[order][..., None, None]  # (P, S, 2, 1, 1)
    if channels == 1:
        x = x.flatten(1, 2).unsqueeze(2)
    out = twin(x)
    expected = []
    for lane, plain in enumerate(plains):
        pairs = draws.shifted(images[table.image[order[lane]]], table.shift[order[lane]])
        expected.append(plain(pairs if channels == 2 else pairs.view(-1, 1, SIDE, SIDE)))
    assert_exact(out, torch.stack(expected))
    upstream = random(*out.shape, seed=1)
    out.backward(upstream)
    for one, gradient in zip(expected, upstream, strict=True):
        one.backward(gradient)
    assert_same(twin, plains)


def test_one_image_at_every_corner_of_the_window_table() -> None:
    """Each image's own rows are used: a table of 50 images finds the last one as well as the first."""
    images = random(50, SIDE, SIDE)
    windows = WindowTable(images, 5, 2)
    image = torch.stack([torch.arange(50), torch.arange(50).flip(0)], dim=1)
    table = PairTable(image=image, shift=torch.full_like(image, NO_SHIFT), digit=torch.zeros_like(image))
    got = windows.gather(windows.corners(table.image, table.shift))
    assert torch.equal(got[:, :, 0], images[image][..., :6, :6].flatten(-2))
    assert torch.equal(got[:, :, -1], images[image][..., 8:, 8:].flatten(-2))


# --- A convolution between layers ---------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize(
    ("size", "kernel", "pool"),
    [
        ((side, side), k, s)
        for side, k, s in [(5, 3, 3), (5, 3, 1), (5, 3, 2), (6, 1, 2), (6, 3, 2), (7, 2, 3), (4, 4, 1)]
    ]
    + [((8, 8), 5, 4), ((8, 11), 3, 3), ((7, 5), 3, 3), ((5, 6), 3, 3), ((9, 4), 2, 2)],
)
def test_second_convolution_equals_torchs(size: tuple[int, int], kernel: int, pool: int, lanes: int) -> None:
    """Values, and gradients of weight, bias and input; of images that are no squares too."""
    c, o, b = 3, 4, 6
    plains = plain_layers(lanes, c, o, kernel, pool)
    twin = twin_of(plains, windows=False)
    x = random(lanes, b, c, *size).requires_grad_()
    out = twin(x)
    leaf = x.detach().clone().requires_grad_()
    expected = torch.stack([plain(leaf[lane]) for lane, plain in enumerate(plains)])
    assert_exact(out, expected)
    upstream = random(*out.shape, seed=2)
    out.backward(upstream)
    expected.backward(upstream)
    assert_exact(x.grad, leaf.grad)
    assert_same(twin, plains)


def test_gradients_add_up_over_two_sizes_of_batch() -> None:
    """The table that folds patches back is kept for each number of images, and neither is taken for the other."""
    plains = plain_layers(1, 2, 3, 3, 3)
    twin = twin_of(plains, windows=False)
    for b in (4, 9, 4):
        x = random(1, b, 2, 5, 5, seed=b).requires_grad_()
        leaf = x.detach()[0].clone().requires_grad_()
        twin(x).sum().backward()
        plains[0](leaf).sum().backward()
        assert x.grad is not None
        assert leaf.grad is not None
        assert_exact(x.grad[0], leaf.grad)
    assert_same(twin, plains)


# --- Whole networks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("name", ["simple", "ws"])
def test_ties_on_blank_paper_change_no_gradient(name: str, lanes: int) -> None:
    """Torch gives a tie's gradient to its first place, the twin to all: on white margins no parameter tells."""
    images = random(6, SIDE, SIDE).abs()
    images[:, :, :5] = 0
    images[:, 9:] = 0
    images[5] = 0  # nothing but paper
    table = every_shift(6)
    plains = []
    for lane in range(lanes):
        plain = models.ARCHITECTURES[name]().to(torch.float64).eval()
        plain.load_state_dict(initialisation.initial_parameters(plain, lane))
        plains.append(plain)
    twin = stack(plains[0], windows=True).eval()
    for key, parameter in twin.named_parameters():
        parameter.data = torch.stack([dict(plain.named_parameters())[key].detach() for plain in plains])
    windows = WindowTable(images, first_convolution(twin).kernel, first_convolution(twin).pool)
    read_windows(twin, windows)
    logits, digits = twin(windows.corners(table.image, table.shift).expand(lanes, -1, -1)[..., None, None])
    upstream, wanted = random(*logits.shape, seed=4), None if digits is None else random(*digits.shape, seed=5)
    total = (logits * upstream).sum() + (0 if wanted is None else (digits * wanted).sum())
    total.backward()
    pairs = draws.shifted(images[table.image], table.shift)
    for lane, plain in enumerate(plains):
        leaf, said = plain(pairs)
        assert_exact(logits[lane], leaf)
        ((leaf * upstream[lane]).sum() + (0 if wanted is None else (said * wanted[lane]).sum())).backward()
        for key, parameter in twin.named_parameters():
            expected = plain.get_parameter(key).grad
            assert parameter.grad is not None
            assert_exact(parameter.grad[lane], expected, msg=f"{key}: {{}}".format)


@pytest.mark.parametrize("lanes", [1, 3])
def test_stacked_linear_equals_torchs(lanes: int) -> None:
    """Values and gradients of weight, bias and input."""
    plains = [nn.Linear(5, 3).to(torch.float64) for _ in range(lanes)]
    twin = StackedLinear(plains[0])
    twin.weight, twin.bias = (
        nn.Parameter(torch.stack([getattr(p, n).detach() for p in plains])) for n in ("weight", "bias")
    )
    x = random(lanes, 7, 5).requires_grad_()
    leaf = x.detach().clone().requires_grad_()
    out = twin(x)
    expected = torch.stack([plain(one) for plain, one in zip(plains, leaf, strict=True)])
    assert_exact(out, expected)
    upstream = random(lanes, 7, 3, seed=3)
    out.backward(upstream)
    expected.backward(upstream)
    assert_exact(x.grad, leaf.grad)
    for name in ("weight", "bias"):
        grads = torch.stack([getattr(plain, name).grad for plain in plains])
        assert_exact(getattr(twin, name).grad, grads)


@pytest.mark.parametrize("name", list(models.ARCHITECTURES))
def test_the_twin_keeps_the_names_and_the_plain_module(name: str) -> None:
    """Parameters have the plain module's names with P in front, and the plain module still works."""
    plain = models.ARCHITECTURES[name]().eval()
    before = copy.deepcopy(plain)
    twin = stack(plain, windows=True)
    assert [(n, (1, *p.shape)) for n, p in plain.named_parameters()] == [
        (n, p.shape) for n, p in twin.named_parameters()
    ]
    pairs = torch.rand(2, 2, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(plain(pairs)[0], before(pairs)[0])
    assert first_convolution(twin).kernel == 5
    assert first_convolution(twin).pool == 2
    assert [m.windows for m in twin.modules() if isinstance(m, StackedConvolution)] == [True, False]


# --- Refusals -----------------------------------------------------------------------------------------------


class _Custom(nn.Module):
    """A module with a parameter of its own beside its children."""

    def __init__(self, **more: Tensor) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        for name, value in more.items():
            self.register_buffer(name, value)
        if not more:
            self.scale = nn.Parameter(torch.ones(1))


def after_conv(conv: nn.Conv2d, *after: nn.Module) -> nn.Sequential:
    return nn.Sequential(conv, *after)


REFUSED = {
    "stride": after_conv(nn.Conv2d(1, 2, 3, stride=2), nn.MaxPool2d(2), nn.SELU()),
    "padding": after_conv(nn.Conv2d(1, 2, 3, padding=1), nn.MaxPool2d(2), nn.SELU()),
    "padding same": after_conv(nn.Conv2d(1, 2, 3, padding="same"), nn.MaxPool2d(2), nn.SELU()),
    "dilation": after_conv(nn.Conv2d(1, 2, 3, dilation=2), nn.MaxPool2d(2), nn.SELU()),
    "groups": after_conv(nn.Conv2d(2, 2, 3, groups=2), nn.MaxPool2d(2), nn.SELU()),
    "linear without bias": nn.Sequential(nn.Linear(2, 2, bias=False)),
    "dilated pool": after_conv(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, dilation=2), nn.SELU()),
    "no bias": after_conv(nn.Conv2d(1, 2, 3, bias=False), nn.MaxPool2d(2), nn.SELU()),
    "oblong kernel": after_conv(nn.Conv2d(1, 2, (3, 5)), nn.MaxPool2d(2), nn.SELU()),
    "oblong pool": after_conv(nn.Conv2d(1, 2, 3), nn.MaxPool2d((2, 3)), nn.SELU()),
    "overlapping pool": after_conv(nn.Conv2d(1, 2, 3), nn.MaxPool2d(3, stride=2), nn.SELU()),
    "padded pool": after_conv(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, padding=1), nn.SELU()),
    "ceiling": after_conv(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2, ceil_mode=True), nn.SELU()),
    "no pool": after_conv(nn.Conv2d(1, 2, 3), nn.SELU(), nn.MaxPool2d(2)),
    "another activation": after_conv(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.ReLU()),
    "nothing after it": after_conv(nn.Conv2d(1, 2, 3)),
    "no sequence": nn.ModuleDict({"conv": nn.Conv2d(1, 2, 3)}),
    "torch's dropout": nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)),
    "flatten from the left": nn.Sequential(nn.Flatten(1), nn.Linear(2, 2)),
    "a parameter of its own": _Custom(),
    "a buffer of its own": _Custom(table=torch.ones(2)),
    "a buffer that is zero": _Custom(table=torch.zeros(1)),
    "an unknown leaf": nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1)),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_twin_is_refused(what: str) -> None:
    """A layer that the twins would compute wrongly is refused by name, never approximated."""
    with pytest.raises(CannotStack, match=r"stacked"):
        stack(REFUSED[what])
