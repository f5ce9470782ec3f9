"""Run by `test_fake_cuda` in a process of its own: epochs on a GPU that is not there, on tensors without numbers.

Every branch for CUDA runs but Triton's kernels. torch raises where the CPU's and the GPU's tensors meet and where a
number is asked for; what it lets pass, the CPU's indices and copies between the two, `Watch` sees.

Shapes: P lanes.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode

from hpo.digits import draws, models
from hpo.training import graph, stacked
from hpo.training import population as population_module
from hpo.training.kernels import selection
from hpo.training.lockstep import Lockstep
from hpo.training.memory import DeviceLost
from hpo.training.population import EpochReport, Population, Task
from tests.support.training import digit_population

PARAMS = {"learning_rate": 1e-3, "weight_decay": 1e-4, "dropout": 0.3, "aux_weight": 2.0, "main_weight": 0.5}
BATCH, PAIRS = 80, 11  # 2 steps an epoch, and one of the samples left over


class Watch(TorchDispatchMode):
    """Notes each operation on tensors of both devices: such a one waits, for a copy from the host does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no annotations
        self.operations = 0
        self.crossings: list[str] = []  # by name, with what came out

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations += 1
        flat, _ = torch.utils._pytree.tree_flatten((args, kwargs or {}, out))
        if len({x.device.type for x in flat if isinstance(x, Tensor)}) > 1:
            self.crossings.append(f"{func.overloadpacket.__name__} to {getattr(out, 'device', None)}")
        return out


class _Graph:
    """torch.cuda.CUDAGraph, as far as it is called."""

    def __init__(self) -> None:
        self.replays = 0

    def replay(self) -> None:
        self.replays += 1


class _Nothing:
    """torch.cuda.Stream and Event: there is nothing to wait for."""

    def __init__(self, *words: Any) -> None: ...

    def wait_stream(self, other: Any) -> None: ...

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


def _moved(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """`Module.to`, which torch has not for fake tensors."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(parameter.detach().to(device, dtype))
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(device, dtype if buffer.is_floating_point() else None)
    return module


def _tabled(make: Callable[..., Any]) -> Callable[..., Any]:
    """A table that is made once, on the CPU with its numbers, and then carried to the device."""

    @functools.cache
    def made(*words: Any) -> Any:
        with unset_fake_temporarily():
            tables = make(*words[:-1], torch.device("cpu"))
        return tuple(table.to(words[-1]) for table in tables)

    return made


def _folded(fold: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`_fold`, whose table is made as `_tabled` says."""

    def folded(columns: Tensor, geometry: Any, images: int) -> Tensor:
        at, pixels = (geometry, columns.device), geometry.pixels
        if at not in stacked._FOLDS or len(stacked._FOLDS[at][1]) < images * pixels:
            with unset_fake_temporarily():
                many = images * geometry.patches * geometry.k**2
                fold(torch.zeros(many, columns.shape[1]), geometry, images)
                rows, offsets = stacked._FOLDS[geometry, torch.device("cpu")]
            stacked._FOLDS[at] = rows.to(columns.device), offsets.to(columns.device)
        return fold(columns, geometry, images)

    return folded


class Seen(NamedTuple):
    """What an epoch did."""

    reports: list[EpochReport]
    whole: list[str]  # crossings in it
    steps: list[str]  # of them between the first step and the last
    operations: int  # in the steps


@pytest.fixture
def _gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is asked of torch about a GPU, answered; on it nothing but torch's own operations."""
    for name, answer in {
        "graph_pool_handle": lambda: None,
        "Stream": _Nothing,
        "Event": _Nothing,
        "CUDAGraph": _Graph,
        "current_stream": lambda device: _Nothing(),
        "stream": lambda stream: nullcontext(),
        "graph": lambda graph, **options: nullcontext(),
        "synchronize": lambda device: None,
        "empty_cache": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, answer)
    monkeypatch.setattr(population_module, "seeded", lambda seed, device: nullcontext(lambda: False))
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: nullcontext())
    monkeypatch.setattr(nn.Module, "to", _moved)
    monkeypatch.setattr(stacked, "_widening", _tabled(stacked._widening))
    monkeypatch.setattr(stacked, "_fold", _folded(stacked._fold))
    selection.switch(False)
    yield
    selection.switch(True)
    graph.switch(True)


def population(model: str, lanes: int) -> Population:
    """Lanes on random images, each with its own draw."""
    with unset_fake_temporarily():
        images = torch.rand(60, draws.SIDE, draws.SIDE, generator=torch.Generator().manual_seed(3))
        pool = draws.ImagePool(name="A", images=images, labels=torch.arange(60) % 10)
        drawn = [draws.draw_training(pool, lane, PAIRS)[0] for lane in range(lanes)]
    made = digit_population(model, lanes, pool, samples=18 * PAIRS, batch=BATCH, device="cuda")
    for lane, training in enumerate(drawn):
        made.start(lane, Task(key=lane, params=PARAMS, seed=lane, epochs=3, training=training, validation=training))
    return made


def epoch(made: Population, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """One epoch of all lanes; what its steps raise is raised, and not taken for a lane's failure."""
    inner, raised = Lockstep.epoch, list[Exception]()
    begun: list[int] = []
    ended: list[int] = []
    operations: list[int] = []

    def watched(*words: Any) -> Any:
        begun.append(len(watch.crossings))
        before = watch.operations
        try:
            return inner(*words)
        except Exception as error:
            raised.append(error)
            raise
        finally:
            ended.append(len(watch.crossings))
            operations.append(watch.operations - before)

    def numbers(values: Tensor) -> Any:
        """Of a tensor that has none: after the copy to the CPU, which is the wait."""
        assert values.device.type == "cpu"
        return values.shape[0] * [0.0] if values.ndim == 1 else [numbers(row) for row in values]

    with monkeypatch.context() as patch, Watch() as watch:
        patch.setattr(Lockstep, "epoch", watched)
        patch.setattr(FakeTensor, "tolist", numbers)
        try:
            reports = made.train_epoch()
        except Exception:
            if raised:
                raise raised[0] from None
            raise
    assert raised == []
    return Seen(reports, watch.crossings, watch.crossings[begun[0] : ended[0]], operations[0])


@contextmanager
def fake() -> Iterator[None]:
    """Whatever is made is fake, and what has been made before is taken for it."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize("captured", [True, False])
@pytest.mark.parametrize("lanes", [1, 4])
@pytest.mark.parametrize("model", list(models.ARCHITECTURES))
def test_an_epoch_stays_on_the_gpu_and_waits_once(
    model: str, lanes: int, captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One copy there, of the lanes' numbers, and one back, of the results."""
    graph.switch(captured)
    with fake():
        made = population(model, lanes)
        epoch(made, monkeypatch)  # tables that are made once, the graph
        seen = epoch(made, monkeypatch)
        assert [report.lane for report in seen.reports] == list(range(lanes))
        assert seen.steps == []
        assert seen.whole == ["_to_copy to cuda:0", "_to_copy to cpu"]
        assert seen.operations > 100
        assert isinstance(made.parameters, FakeTensor)
        assert made.parameters.device.type == "cuda"
        assert made._lockstep is not None
        assert made._lockstep.width == 8
        assert [getattr(of._graph, "replays", None) for of in made._lockstep._graphs.values()] == [
            4
        ] * captured  # of whole batches


def _on_the_cpu(losses: Tensor) -> Tensor:
    return losses * torch.ones(losses.shape)


def _reads(losses: Tensor) -> Tensor:
    return losses * float(losses.sum())


def _chooses(losses: Tensor) -> Tensor:
    return losses[losses > 0]


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize(
    ("slip", "error"),
    [
        (_on_the_cpu, RuntimeError),
        (_reads, DataDependentOutputException),
        (_chooses, DynamicOutputShapeException),
    ],
)
def test_what_slips_into_a_step_raises(
    slip: Callable[[Tensor], Tensor], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tensor of the wrong device; a number that is read; a shape that numbers decide."""
    graph.switch(False)
    step = Lockstep._step
    monkeypatch.setattr(Lockstep, "_step", lambda *words: slip(step(*words)))
    with fake(), pytest.raises(error):
        epoch(population("ws", 4), monkeypatch)


@pytest.mark.usefixtures("_gpu")
@pytest.mark.parametrize(
    "slip",
    [
        lambda losses: losses[:, [0, 1, 2, 3]],  # a list as an index is a tensor of the CPU
        lambda losses: losses + torch.tensor([1.0]).to(losses.device),
    ],
)
def test_copies_that_slip_into_a_step_are_seen(
    slip: Callable[[Tensor], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch lets them pass, and each waits."""
    graph.switch(False)
    step = Lockstep._step
    monkeypatch.setattr(Lockstep, "_step", lambda *words: slip(step(*words)))
    with fake():
        made = population("ws", 4)
        epoch(made, monkeypatch)
        assert epoch(made, monkeypatch).steps == ["_to_copy to cuda:0"] * 3


@pytest.mark.usefixtures("_gpu")
def test_a_device_that_is_gone_is_no_lanes_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error that stays every lane would raise, even alone."""

    def gone(*words: Any) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered\nand much more")

    monkeypatch.setattr(Lockstep, "epoch", gone)
    monkeypatch.setattr(torch.cuda, "synchronize", gone)
    with fake():
        made = population("ws", 4)
        with pytest.raises(DeviceLost, match=r"^CUDA error: device-side assert triggered$"):
            made.train_epoch()
