"""Kernels against plain torch; and what a GPU needs of a step, as far as a CPU can tell.

There nothing may wait, and every step is the same list of operations (`test_fake_cuda` has the rest). Triton's kernels
are held against plain torch by Triton's interpreter, and compiled for an H100, where triton is installed (`make
test-long` installs it).
"""

import importlib.util
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import hatch_build
from hpo.digits import draws, experiment, models
from hpo.digits.recipes import METRICS, RECIPES
from hpo.training import streams
from hpo.training.kernels import cpu, selection
from hpo.training.lockstep import Lockstep
from hpo.training.population import Population, Task
from hpo.training.recipe import SGD, Recipe, Tensors
from hpo.training.stacked import _Convolution, _Linear, _WindowConvolution, stack
from hpo.training.windows import WindowTable
from tests.support.training import digit_population

BATCH, PAIRS = 20, 10
PARAMS = {"learning_rate": 1e-3, "weight_decay": 1e-4, "dropout": 0.3, "aux_weight": 2.0, "main_weight": 0.5}
WAITS = {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "unique", "masked_select"}

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")


class Operations(TorchDispatchMode):
    """Records each operation: its name, the shapes of its tensors, and its other arguments."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no annotations
        self.seen: list[str] = []
        self.moves: list[str] = []  # to another device than the tensor's

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat, _ = torch.utils._pytree.tree_flatten((args, kwargs or {}))
        words = [str((tuple(x.shape), x.dtype)) if isinstance(x, Tensor) else str(x) for x in flat]
        name = func.overloadpacket.__name__
        self.seen.append(f"{name}({', '.join(words)})")
        device = (kwargs or {}).get("device")
        if device is not None and any(isinstance(x, Tensor) and x.device != torch.device(device) for x in flat):
            self.moves.append(f"{name} to {device}")
        return func(*args, **(kwargs or {}))


def population(model: str, lanes: int = 3, dtype: torch.dtype = torch.float32, *, extended: bool = False) -> Population:
    """Lanes with unlike rates on random images, a draw each.

    `extended`: as an extended experiment trains them, on images without windows.
    """
    images = torch.rand(60, draws.SIDE, draws.SIDE, generator=torch.Generator().manual_seed(3))
    pool = draws.ImagePool(name="A", images=images, labels=torch.arange(60) % 10)
    recipe = experiment.extended({}).models[model].train if extended else RECIPES[model]
    assert isinstance(recipe, Recipe)
    made = Population(recipe, lanes, pool, samples=18 * PAIRS, batch=BATCH, metrics=METRICS, device="cpu", dtype=dtype)
    for lane in range(lanes):
        pairs, _ = draws.draw_training(pool, lane, PAIRS)
        training = experiment.items_of(pool, pairs) if extended else pairs
        params = {**PARAMS, "learning_rate": 1e-3 * (lane + 1)}
        made.start(lane, Task(key=lane, params=params, seed=lane, epochs=3, training=training, validation=None))
    return made


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("model", list(models.ARCHITECTURES))
def test_every_step_is_the_same_list_of_operations(model: str, extended: bool) -> None:
    """So a graph that captured one is all of them: what differs from step to step are the numbers in its tensors."""
    made = population(model, extended=extended)
    made.train_epoch()  # tables that are made once
    steps: list[list[str]] = []
    inner = Lockstep._step

    def recorded(self: Lockstep, *words: Any) -> Tensor:
        with Operations() as mode:
            losses = inner(self, *words)
        steps.append(mode.seen)
        return losses

    with mock.patch.object(Lockstep, "_step", recorded):
        made.train_epoch()
    assert len(steps) == 18 * PAIRS // BATCH
    assert all(step == steps[0] for step in steps)
    assert len(steps[0]) > 50


def operations_of_an_epoch(made: Population) -> Operations:
    """What is done between an epoch's first step and its last."""
    made.train_epoch()  # tables that are made once
    inner, seen = Lockstep.epoch, Operations()

    def recorded(self: Lockstep, *words: Any) -> Any:
        with seen:
            return inner(self, *words)

    with mock.patch.object(Lockstep, "epoch", recorded):
        made.train_epoch()
    return seen


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("model", list(models.ARCHITECTURES))
def test_nothing_in_an_epoch_reads_a_number_back(model: str, extended: bool) -> None:
    """Each would wait for a GPU, as would a copy from one device to another."""
    seen = operations_of_an_epoch(population(model, extended=extended))
    assert not {line.partition("(")[0] for line in seen.seen} & WAITS
    assert seen.moves == []


def test_a_number_that_is_read_and_a_copy_to_a_device_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = Lockstep._shares

    def slipped(*words: Any) -> Tensor:
        out = shares(*words)
        out.to("meta")
        return out * float(out[0])

    monkeypatch.setattr(Lockstep, "_shares", slipped)
    seen = operations_of_an_epoch(population("ws"))
    assert [line.partition("(")[0] for line in seen.seen if line.partition("(")[0] in WAITS] == ["_local_scalar_dense"]
    assert seen.moves == ["_to_copy to meta"]


# --- Kernels for CPUs ---------------------------------------------------------------------------------------


@pytest.fixture
def compiled() -> cpu.CpuKernels:
    """Those of this processor; a compiler that is there has made them, where torch is not held to less than AVX2."""
    try:
        return cpu.load()
    except cpu.NoKernels as why:
        if shutil.which("cc") and torch.backends.cpu.get_cpu_capability() in cpu.LEVELS:
            pytest.fail(f"there is a compiler, but no kernels: {why}")
        pytest.skip(str(why))


def relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-14), (torch.float32, 3e-6)])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("lanes", "pairs"), [(1, 1), (3, 7), (2, 50)])
def test_convolutions_are_plain_torchs(
    compiled: cpu.CpuKernels, lanes: int, pairs: int, channels: int, dtype: torch.dtype, near: float
) -> None:
    """Outputs and gradients, with blank images among them, of parameters that lie in a flat buffer and alone."""
    generator = torch.Generator().manual_seed(channels)
    images = torch.rand(20, 14, 14, generator=generator, dtype=dtype)
    images[:3] = 0
    table = WindowTable(images, 5, 2)
    image = torch.randint(20, (lanes, pairs, 2), generator=generator)
    corners = table.corners(image, torch.randint(9, (lanes, pairs, 2), generator=generator))
    corners = corners if channels == 2 else corners.flatten(1, 2)[..., None]
    flat = (torch.randn(lanes, 30_001, generator=generator, dtype=dtype) * 0.1).requires_grad_()
    w1, b1 = flat[:, : 800 * channels].view(lanes, 32, channels, 5, 5), flat[:, 5000:5032]
    w2, b2 = flat[:, 6000 : 6000 + 18_432].view(lanes, 64, 32, 3, 3), flat[:, 25_000:25_064]
    assert compiled.serves_windows(table.side, channels, 32, 5, 2)
    assert compiled.serves(5, 32, 64, 3, 3)
    hidden = _WindowConvolution.apply(table.gather(corners), w1, b1, 2)  # type: ignore[no-untyped-call]
    expected = _Convolution.apply(hidden, w2, b2, 3)  # type: ignore[no-untyped-call]
    given_hidden = compiled.window_convolution(table, corners, w1, b1.contiguous())
    actual = compiled.convolution(given_hidden, w2, b2, 3)
    upstream = torch.randn(expected.shape, generator=generator, dtype=dtype)
    wanted = torch.autograd.grad((expected * upstream).sum(), [w1, b1, w2, b2])
    given = torch.autograd.grad((actual * upstream).sum(), [w1, b1, w2, b2])
    pairs_of = [(given_hidden, hidden), (actual, expected), *zip(given, wanted, strict=True)]
    assert [relative(a, b) < near for a, b in pairs_of] == [True] * 6


@pytest.mark.parametrize("model", list(models.ARCHITECTURES))
def test_images_have_the_first_convolutions_kernel_too(
    model: str, compiled: cpu.CpuKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A twin that is given images, not corners, against autograd of the plain network lane by lane, in float64."""
    called: list[str] = []
    inner = cpu.CpuKernels.call

    def noted(self: cpu.CpuKernels, function: str, *words: Any) -> int:
        called.append(function)
        return inner(self, function, *words)

    monkeypatch.setattr(cpu.CpuKernels, "call", noted)
    generator = torch.Generator().manual_seed(0)
    plains = [models.ARCHITECTURES[model]().to(torch.float64).eval() for _ in range(3)]
    twin = stack(plains[0]).eval()
    for name, parameter in twin.named_parameters():
        parameter.data = torch.stack([plain.get_parameter(name).detach() for plain in plains])
    x = torch.rand(3, 7, 2, draws.SIDE, draws.SIDE, generator=generator, dtype=torch.float64)
    x[0, :2] = 0

    def followed(network: nn.Module, images: Tensor) -> list[Tensor]:
        out = [values for values in network(images) if values is not None]
        total = sum((values * torch.linspace(1, 2, values.shape[-1])).sum() for values in out)
        return [*out, *torch.autograd.grad(total, list(network.parameters()))]

    together = followed(twin, x)
    for lane, plain in enumerate(plains):
        alone = followed(plain, x[lane])
        assert [relative(a[lane], b) < 1e-13 for a, b in zip(together, alone, strict=True)] == [True] * len(alone)
    assert sorted({name for name in called if "window" in name}) == ["window_backward", "window_forward"]
    called.clear()
    with torch.no_grad():
        twin(x)
    assert "window_forward" in called  # when it is measured


@pytest.mark.parametrize(
    ("channels", "out", "kernel", "pool", "size"),
    [(1, 32, 5, 2, (14, 10)), (2, 32, 5, 2, (10, 14)), (32, 64, 3, 3, (7, 5)), (32, 64, 3, 3, (5, 7))],
)
def test_images_that_are_no_squares_have_no_kernel(
    channels: int, out: int, kernel: int, pool: int, size: tuple[int, int]
) -> None:
    """Though one of their sides is that of images that have."""
    plain = nn.Sequential(nn.Conv2d(channels, out, kernel), nn.MaxPool2d(pool), nn.SELU())
    x = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(stack(plain)(x[None])[0], plain(x))


def test_a_lane_has_the_same_bits_whatever_its_neighbours(compiled: cpu.CpuKernels) -> None:
    generator = torch.Generator().manual_seed(0)
    table = WindowTable(torch.rand(9, 14, 14, generator=generator), 5, 2)
    image, shift = (torch.randint(9, (4, 10, 1), generator=generator) for _ in range(2))
    corners = table.corners(image, shift)
    weight, bias = torch.randn(4, 32, 1, 5, 5, generator=generator), torch.randn(4, 32, generator=generator)
    kernel, more = torch.randn(4, 64, 32, 3, 3, generator=generator), torch.randn(4, 64, generator=generator)

    def gradients(lanes: slice) -> list[Tensor]:
        leaves = [x[lanes].clone().requires_grad_() for x in (weight, bias, kernel, more)]
        hidden = compiled.window_convolution(table, corners[lanes], leaves[0], leaves[1])
        return list(torch.autograd.grad(compiled.convolution(hidden, leaves[2], leaves[3], 3).sum(), leaves))

    together = gradients(slice(0, 4))
    for lane in range(4):
        for one, all_ in zip(gradients(slice(lane, lane + 1)), together, strict=True):
            assert torch.equal(one[0], all_[lane])


def trained_together(model: str, keys: Sequence[int], dtype: torch.dtype) -> dict[int, list[Tensor]]:
    """By key what two epochs of steps on 100 pairs leave of each training: parameters, moments, losses, outputs."""
    images = torch.rand(60, draws.SIDE, draws.SIDE, generator=torch.Generator().manual_seed(3))
    pool = draws.ImagePool(name="A", images=images, labels=torch.arange(60) % 10)
    made = digit_population(model, len(keys), pool, samples=18 * PAIRS, batch=100, dtype=dtype)
    tables = {key: draws.draw_training(pool, key, PAIRS)[0] for key in keys}
    for lane, (key, training) in enumerate(tables.items()):
        params = {**PARAMS, "learning_rate": 1e-3 * (key + 1), "dropout": 0.1 * key}
        made.start(lane, Task(key=key, params=params, seed=key, epochs=2, training=training, validation=training))
    reports = {report.key: report for _ in range(2) for report in made.train_epoch()}
    return {
        key: [
            *(values[lane] for values in (made.parameters, made.first, made.second)),
            torch.tensor([reports[key].train_loss, *reports[key].validation.values()], dtype=torch.float64),
            made.predict(made.parameters[lane], tables[key]).outputs["logits"],
        ]
        for lane, key in enumerate(keys)
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("model", list(models.ARCHITECTURES))
def test_a_training_has_the_same_bits_whatever_its_neighbours(
    model: str, dtype: torch.dtype, compiled: cpu.CpuKernels
) -> None:
    """Whole epochs, with the dense layers' products and Adam, of one lane and of up to four, wherever it stands."""
    alone = {key: trained_together(model, [key], dtype)[key] for key in range(4)}
    for keys in ([1, 0], [3, 2, 0], [0, 3, 1, 2]):
        for key, actual in trained_together(model, keys, dtype).items():
            assert [torch.equal(a, b) for a, b in zip(actual, alone[key], strict=True)] == [True] * 5, (keys, key)
    assert not torch.equal(alone[0][0], alone[1][0])


def test_a_population_says_which_kernels_its_steps_used(
    compiled: cpu.CpuKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each record: these, none because they were switched off, or none because its layers have none."""
    pool = draws.ImagePool(name="A", images=torch.rand(60, draws.SIDE, draws.SIDE), labels=torch.arange(60) % 10)
    pairs, _ = draws.draw_training(pool, 0, PAIRS)
    plain = Recipe(
        lambda: nn.Sequential(nn.Flatten(-3), nn.Linear(2 * draws.SIDE**2, 2)),
        Tensors,
        experiment.columns,
        lambda out, columns, hyper: (out.square().mean((-1, -2)),) * 2,
        lambda out: out,
        optimizer=SGD(),
    )
    without = Population(plain, 1, pool, samples=len(pairs), batch=BATCH)
    items = experiment.items_of(pool, pairs)
    without.start(0, Task(key=0, params=PARAMS, seed=0, epochs=1, training=items, validation=None))
    made = population("ws", extended=True)
    for each in (made, without):
        each.train_epoch()
    assert made.kernels == compiled.name
    assert without.kernels == f"none ({compiled.name} has none for its layers)"
    monkeypatch.setattr(selection, "_switched_off", True)
    off = population("ws")
    off.train_epoch()
    assert off.kernels == "switched off"


@pytest.mark.parametrize("corner", [-1, 3, 33, 8 * 121 + 11 * 2 + 3, 9 * 121])
def test_a_corner_beyond_the_images_is_refused(compiled: cpu.CpuKernels, corner: int) -> None:
    """Before anything is read there."""
    table = WindowTable(torch.rand(9, 14, 14), 5, 2)
    corners = torch.tensor([0, 8 * 121 + 11 * 2 + 2, corner]).view(1, 3, 1)
    with pytest.raises(IndexError, match="beyond the images"):
        compiled.window_convolution(table, corners, torch.randn(1, 32, 1, 5, 5), torch.randn(1, 32))


Arguments = dict[str, Tensor]


def some(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def windows_at(images: Tensor) -> WindowTable:
    """A table whose padded images are these."""
    table = WindowTable(torch.zeros(1, 14, 14), 5, 2)
    table.padded = images
    return table


@dataclass(frozen=True)
class Wrapper:
    """What passes addresses: right arguments, and those that may lie in several pieces."""

    call: Callable[[cpu.CpuKernels, Arguments], object]
    arguments: Callable[[], Arguments]
    copied: tuple[str, ...] = ()


WRAPPERS = {
    "window_convolution": Wrapper(
        lambda k, a: k.window_convolution(windows_at(a["padded"]), a["corners"], a["weight"], a["bias"]),
        lambda: {
            "padded": WindowTable(some(5, 14, 14), 5, 2).padded,
            "corners": torch.arange(12).view(2, 3, 2) % 3,
            "weight": some(2, 32, 2, 5, 5),
            "bias": some(2, 32),
        },
        copied=("corners", "weight", "bias"),
    ),
    "convolution": Wrapper(
        lambda k, a: k.convolution(a["x"], a["weight"], a["bias"], 3),
        lambda: {"x": some(2, 3, 32, 5, 5), "weight": some(2, 64, 32, 3, 3), "bias": some(2, 64)},
        copied=("x", "weight", "bias"),
    ),
    "activate": Wrapper(
        lambda k, a: k.activate(a["y"], a["mask"]),
        lambda: {"y": some(2, 3, 9), "mask": some(2, 3, 9)},
        copied=("mask",),
    ),
    "before_activation": Wrapper(
        lambda k, a: k.before_activation(a["grad"], a["y"], a["mask"]),
        lambda: {"grad": some(2, 3, 9), "y": some(2, 3, 9), "mask": some(2, 3, 9)},
        copied=("grad", "mask"),
    ),
    "keep_masks": Wrapper(
        lambda k, a: k.keep_masks(a["keys"], 7, streams.Thresholds(a["least"], a["scale"]), torch.float32),
        lambda: {"keys": torch.arange(2), "least": torch.arange(2, dtype=torch.int16), "scale": some(2)},
        copied=("keys",),
    ),
    "adam": Wrapper(
        lambda k, a: k.adam(**a),
        lambda: {
            **{name: some(2, 9) for name in ("parameters", "gradient", "first", "second")},
            **{name: some(2) for name in ("rate", "eps", "decay")},
        },
    ),
}
WRONG: dict[str, Callable[[Tensor], Tensor]] = {
    "fewer lanes": lambda x: x[:1],
    "smaller": lambda x: x[..., :-1].contiguous(),
    "larger": lambda x: torch.cat([x, x], -1),
    "a dimension more": lambda x: x[..., None],
    "of another type": lambda x: x.to(torch.float64 if x.is_floating_point() else torch.int32),
    "elsewhere": lambda x: x.to("meta"),
}
REFUSED = r"must be|no kernel|to unpack|number of dimensions|beyond the images"
EVERY = [(name, argument) for name, wrapper in WRAPPERS.items() for argument in wrapper.arguments()]


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("name", "argument"), EVERY)
def test_a_tensor_that_does_not_fit_is_refused(name: str, argument: str, wrong: str, compiled: cpu.CpuKernels) -> None:
    """Before its address is passed: what is behind it would be read, or written over."""
    wrapper = WRAPPERS[name]
    arguments = wrapper.arguments()
    wrapper.call(compiled, arguments)  # the right ones are taken
    arguments = wrapper.arguments()
    arguments[argument] = WRONG[wrong](arguments[argument])
    if (argument, wrong) == ("padded", "fewer lanes"):  # images: a table may have any number of them
        arguments["corners"][0, 0, 0] = 121
    with (
        mock.patch.object(compiled, "call", wraps=compiled.call) as call,
        pytest.raises((ValueError, IndexError, RuntimeError), match=REFUSED),
    ):
        wrapper.call(compiled, arguments)
    assert not call.called or argument == "padded"


@pytest.mark.parametrize(("name", "argument"), EVERY)
def test_a_tensor_in_pieces_is_copied_or_refused(name: str, argument: str, compiled: cpu.CpuKernels) -> None:
    """Refused where it is written to, or is one of hpo's own that lies in one piece."""
    wrapper = WRAPPERS[name]
    whole, pieces = wrapper.arguments(), wrapper.arguments()
    whole_values = pieces[argument]
    room = torch.zeros(*whole_values.shape, 2, dtype=whole_values.dtype)
    pieces[argument] = room[..., 0].copy_(whole_values)
    if argument not in wrapper.copied:
        with pytest.raises(ValueError, match=r"must be .* in one piece"):
            wrapper.call(compiled, pieces)
        return
    expected, actual = wrapper.call(compiled, whole), wrapper.call(compiled, pieces)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_images_without_room_behind_them_are_refused(compiled: cpu.CpuKernels) -> None:
    """Kernels read some numbers more than an image has."""
    wrapper = WRAPPERS["window_convolution"]
    arguments = wrapper.arguments()
    arguments["padded"] = arguments["padded"].clone()
    with pytest.raises(ValueError, match="room behind"):
        wrapper.call(compiled, arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_other_numbers_are_refused(compiled: cpu.CpuKernels, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match="float32 and float64, not for"):
        compiled.activate(torch.zeros(1, 2, 3, dtype=dtype), None)


def test_other_pools_are_refused(compiled: cpu.CpuKernels) -> None:
    convolution, windows = WRAPPERS["convolution"].arguments(), WRAPPERS["window_convolution"].arguments()
    with pytest.raises(ValueError, match="no kernel pools by 2"):
        compiled.convolution(convolution["x"], convolution["weight"], convolution["bias"], 2)
    table = WindowTable(some(5, 14, 14), 5, 1)
    with pytest.raises(ValueError, match="no kernel has windows of 5x5"):
        compiled.window_convolution(table, windows["corners"], windows["weight"], windows["bias"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_seen(compiled: cpu.CpuKernels, value: float) -> None:
    """A training that diverges says so in its loss: no maximum or SELU hides it."""
    x = torch.zeros(1, 2, 32, 5, 5)
    x[0, 1, 3, 2, 2] = value
    out = compiled.convolution(x, torch.ones(1, 64, 32, 3, 3), torch.zeros(1, 64), 3)
    assert torch.isfinite(out[0, 0]).all()
    assert not torch.isfinite(out[0, 1]).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_masks_are_the_streams_bit_for_bit(compiled: cpu.CpuKernels, dtype: torch.dtype) -> None:
    keys, counters = torch.tensor([1, -(2**62), 12345]), streams.counters(700)
    at = streams.thresholds(torch.tensor([0.0, 0.3, 0.99999], dtype=torch.float64))
    assert torch.equal(compiled.keep_masks(keys, 700, at, dtype), streams.keep_masks(keys, counters, at).to(dtype))


@pytest.mark.parametrize("decays", [True, False])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-14), (torch.float32, 1e-6)])
def test_adam_is_adam(compiled: cpu.CpuKernels, dtype: torch.dtype, near: float, decays: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    p, g, m, v = (torch.randn(2, 5001, generator=generator, dtype=dtype) for _ in range(4))
    v = v.abs()
    rate, eps, decay = (torch.rand(2, generator=generator, dtype=dtype) * scale for scale in (0.01, 1e-6, 0.1))
    exact = [x.double() for x in (p, g, m, v)]
    gradient = exact[1] + (exact[0] * decay.double()[:, None] if decays else 0)
    first = exact[2].lerp(gradient, 1 - 0.9)
    second = exact[3] * 0.999 + gradient**2 * (1 - 0.999)
    moved = exact[0] - rate.double()[:, None] * first / (second.sqrt() + eps.double()[:, None])
    compiled.adam(p, g, m, v, rate, eps, decay if decays else None)
    assert max(relative(a.double(), b) for a, b in ((p, moved), (m, first), (v, second))) < near


@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("model", list(models.ARCHITECTURES))
def test_an_epoch_with_kernels_is_one_without(model: str, extended: bool, compiled: cpu.CpuKernels) -> None:
    """In float64 to rounding; chosen by shapes alone, so all three networks have them."""
    trained = {}
    for on in (True, False):
        selection.switch(on)
        made = population(model, dtype=torch.float64, extended=extended)
        made.train_epoch()
        trained[on] = made.parameters
    selection.switch(True)
    torch.testing.assert_close(trained[True], trained[False], rtol=1e-8, atol=1e-11)
    assert not torch.equal(trained[True], trained[False])


def test_a_library_of_another_text_is_not_used(
    compiled: cpu.CpuKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an upgrade of the sources alone; nor one that is missing, and both are said."""
    for name in cpu.SOURCES:
        (tmp_path / name).write_text((cpu.FOLDER / name).read_text() + "\n")
    monkeypatch.setattr(cpu, "FOLDER", tmp_path)
    with pytest.raises(cpu.NoKernels, match="install a C compiler"):
        cpu.load.__wrapped__()
    shutil.copytree(Path(cpu.__file__).parent / "compiled", tmp_path / "compiled")
    with pytest.raises(cpu.NoKernels, match="earlier version"):
        cpu.load.__wrapped__()


@pytest.mark.usefixtures("compiled")
def test_what_is_no_library_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was compiled for another machine, and a file that something else has written."""
    (tmp_path / "other.so").write_text("no library")
    monkeypatch.setattr(cpu, "build_of", lambda level: tmp_path / "other.so")
    with pytest.raises(cpu.NoKernels, match=r"other\.so cannot be loaded .*: install hpo again"):
        cpu.load.__wrapped__()


def test_where_the_best_build_is_missing_the_next_serves(
    compiled: cpu.CpuKernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A compiler may know AVX2 and not AVX-512; such a processor has both."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("needs AVX-512")
    for level in ("avx512", "avx2"):
        shutil.copy(cpu.build_of(level), tmp_path)
    monkeypatch.setattr(cpu, "build_of", lambda level: tmp_path / f"cpu-{level}.so")
    assert cpu.load.__wrapped__().name == "C, avx512"
    (tmp_path / "cpu-avx512.so").unlink()
    assert cpu.load.__wrapped__().name == "C, avx2"


@pytest.mark.parametrize("drops", [True, False])
@pytest.mark.parametrize("selu", [True, False])
@pytest.mark.parametrize("features", [1, 7, 8, 230])
@pytest.mark.parametrize(("dtype", "near"), [(torch.float64, 1e-14), (torch.float32, 3e-6)])
def test_a_dense_layer_is_linear_selu_and_mask(
    dtype: torch.dtype, near: float, features: int, selu: bool, drops: bool
) -> None:
    """Against torch's functions, with kernels and without; the mask's lanes lie apart."""
    generator = torch.Generator().manual_seed(features)
    x, weight, bias = (
        torch.randn(2, *size, generator=generator, dtype=dtype).requires_grad_()
        for size in ((9, 5), (features, 5), (features,))
    )
    many = (torch.rand(2, 9 * features + 3, generator=generator) > 0.3).to(dtype) * 1.5
    mask = many[:, : 9 * features].reshape(2, 9, features) if drops else None
    plain = torch.einsum("pbi,poi->pbo", x, weight) + bias[:, None]
    expected = torch.nn.functional.selu(plain) if selu else plain
    expected = expected if mask is None else expected * mask
    upstream = torch.randn(expected.shape, generator=generator, dtype=dtype)
    wanted = torch.autograd.grad((expected * upstream).sum(), [x, weight, bias])
    for on in (True, False):
        selection.switch(on)
        actual = _Linear.apply(x, weight, bias, selu, mask)  # type: ignore[no-untyped-call]
        given = torch.autograd.grad((actual * upstream).sum(), [x, weight, bias])
        selection.switch(True)
        pairs_of = [(actual, expected), *zip(given, wanted, strict=True)]
        assert [relative(a, b) < near for a, b in pairs_of] == [True] * 4


_WITH_A_LIBRARY = """
import sys
from pathlib import Path
import pytest
from hpo.training.kernels import cpu
kernels = cpu.CpuKernels(cpu._library(Path(sys.argv[1])), "C, of a test")
cpu.load = lambda: kernels
others = "not another_text and not no_library and not best_build and not neighbours"
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", sys.argv[2], "-m", "not long", "-k", others]))
"""


@pytest.mark.long
@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("level", ["this processor's", "16 bytes"])
def test_the_kernels_touch_no_memory_but_their_own(level: str, compiled: cpu.CpuKernels, tmp_path: Path) -> None:
    """This file's tests with a library that AddressSanitizer and UndefinedBehaviorSanitizer watch.

    With vectors of 16 bytes it is what an ARM processor runs, compiled for this one.
    """
    sanitisers = [
        subprocess.run(["cc", f"-print-file-name={name}.so"], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("libasan", "libubsan")
    ]
    flags = {name: values for levels in hatch_build.LEVELS.values() for name, values in levels.items()}
    wide = () if level == "16 bytes" else flags[compiled.name.removeprefix("C, ")]
    watching = ["-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    library = tmp_path / "cpu.so"
    source = [f"-DSOURCE={cpu.source_digest()}", "-o", str(library), str(cpu.FOLDER / "cpu.c"), "-lm"]
    subprocess.run(["cc", *hatch_build.FLAGS, *wide, *watching, *source], check=True)
    watched = {**os.environ, "LD_PRELOAD": " ".join(sanitisers), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-c", _WITH_A_LIBRARY, str(library), __file__]
    ran = subprocess.run(command, env=watched, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    counted = re.search(r"^(\d+) passed, \d+ deselected in ", ran.stdout, re.MULTILINE)
    assert counted, ran.stdout[-4000:]  # nothing was skipped
    assert int(counted[1]) > 200


# --- Triton's kernels ---------------------------------------------------------------------------------------


@needs_triton
@pytest.mark.long
def test_tritons_kernels_are_plain_torch_by_its_interpreter() -> None:
    file = Path(__file__).with_name("interpreted.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    ran = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "8 passed" in ran.stdout


_COMPILE = """
import re, subprocess, sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from hpo.training.kernels import gpu, triton_kernels

def types(name):
    if name in ("corners", "positions", "keys"):
        return "*i64"
    if name in ("route", "thresholds"):
        return {"route": "*i8", "thresholds": "*i16"}[name]
    return "i32" if name in ("R", "B", "n", "words", "lane_stride", "bias_stride") else "*fp32"

def compile(name, constants, tile):
    constants = constants | {size: value for size, value in tile.items() if size != "num_warps"}
    function = getattr(triton_kernels, name)
    signature = {a: "constexpr" if a in constants else types(a) for a in function.arg_names}
    places = {(function.arg_names.index(a),): value for a, value in constants.items()}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, a in enumerate(function.arg_names)
        if signature[a].startswith("*") and a not in ("weight", "bias")  # which lie in the midst of the parameters
    }
    source = ASTSource(fn=function, signature=signature, constexprs=places, attrs=aligned)
    options = {"num_warps": tile.get("num_warps", 4)}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    Path("kernel.cubin").write_bytes(made.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run([tool, "-res-usage", "kernel.cubin"], capture_output=True, text=True, check=True).stdout
    print(name, constants.get("C"), constants.get("PRECISION"), re.search(r"STACK:(\\d+)", usage)[1])

compile("dropout_masks", {}, {"BLOCK": 512})
compile("adam", {}, {"BLOCK": 1024})
for precision in ("tf32", "tf32x3"):
    for c in (1, 2):
        sizes = {"Q": 25, "C": c, "K": 5, "S": 2, "OC": 32, "INNER": 64 * c, "PRECISION": precision}
        compile("window_forward", sizes, gpu.WINDOW_FORWARD)
        compile("window_backward", sizes, gpu.WINDOW_BACKWARD)
    sizes = {"SIDE": 5, "K": 3, "S": 3, "C": 32, "OC": 64, "PRECISION": precision}
    compile("convolution_forward", sizes | {"PLACES": 16}, gpu.FORWARD)
    compile("convolution_input_gradient", sizes, gpu.INPUT_GRADIENT)
    blocks = -(-200 // gpu.WEIGHT_GRADIENT["BLOCK"])
    compile("convolution_weight_gradient", sizes | {"BLOCKS": blocks}, gpu.WEIGHT_GRADIENT)
compile("window_fold", {"C": 1, "K": 5, "S": 2, "OC": 32, "INNER": 64, "CHUNKS": 16, "TAPS": 32}, {})
"""


@needs_triton
@pytest.mark.long
def test_tritons_kernels_compile_for_an_h100_and_spill_no_register(tmp_path: Path) -> None:
    """With the tiles that are launched, in both precisions."""
    ran = subprocess.run([sys.executable, "-c", _COMPILE], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == 17
    assert [line for line in lines if int(line.split()[-1]) > 32] == []
