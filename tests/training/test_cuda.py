"""On a GPU: the population against plain loops on the CPU, and no wait for the device inside an epoch."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from hpo.digits import draws, models
from hpo.training import graph
from hpo.training.augmentation import SAMPLES_PER_PAIR
from hpo.training.kernels import selection
from hpo.training.lockstep import Lockstep
from hpo.training.population import Population, Task
from hpo.training.recipe import SGD, Adam, AdamW, Cosine
from tests.support import networks
from tests.support.networks import CLASSES, EPOCHS, ITEMS, KINDS, recipe_of, task_on
from tests.support.training import digit_population

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("default:Synchronization debug mode"),  # torch's notice that it is on
]

PARAMS = {"learning_rate": 1e-3, "weight_decay": 1e-4, "dropout": 0.3, "aux_weight": 2.0, "main_weight": 0.5}
BATCH, PAIRS = 20, 10


def population(
    model: str, device: str, lanes: int, dtype: torch.dtype = torch.float64, pairs: int = PAIRS, batch: int = BATCH
) -> Population:
    """Lanes with unlike rates on random images, each with its own draw."""
    images = torch.rand(60, draws.SIDE, draws.SIDE, generator=torch.Generator().manual_seed(3))
    pool = draws.ImagePool(name="A", images=images, labels=torch.arange(60) % 10)
    samples = SAMPLES_PER_PAIR * pairs
    made = digit_population(model, lanes, pool, samples=samples, batch=batch, device=device, dtype=dtype)
    for lane in range(lanes):
        training, left = draws.draw_training(pool, lane, pairs)
        task = Task(
            key=lane,
            params={**PARAMS, "learning_rate": 1e-3 * (lane + 1)},
            seed=lane,
            epochs=3,
            training=training,
            validation=draws.draw_validation(pool, left, lane, 30),
        )
        made.start(lane, task)
    return made


@pytest.mark.parametrize("model", list(models.ARCHITECTURES))
def test_the_gpu_trains_what_the_cpu_trains(model: str) -> None:
    """The streams are the same bit for bit, the parameters to rounding, in float64."""
    here, there = population(model, "cpu", 3), population(model, "cuda", 3)
    reports, others = here.train_epoch(), there.train_epoch()
    torch.testing.assert_close(there.parameters.cpu(), here.parameters, rtol=1e-7, atol=1e-10)
    for one, other in zip(reports, others, strict=True):
        assert other.train_loss == pytest.approx(one.train_loss, rel=1e-8)
        assert other.validation["cross_entropy"] == pytest.approx(one.validation["cross_entropy"], rel=1e-8)


OPTIMIZERS = {
    "adam": Adam(),
    "adamw": AdamW(schedule=Cosine(warmup=0.3)),
    "sgd": SGD(momentum=0.9, nesterov=True, clip=0.5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["resnet", "group norm", "points", "layer norm", "branches"])
def test_the_gpu_trains_any_module_as_the_cpu(kind: str, optimizer: str) -> None:
    """Mapped over lanes, BatchNorm's statistics by lane, one at a time where that cannot be; by any optimizer."""
    make, shape = KINDS[kind]
    trained = []
    for device in ("cpu", "cuda"):
        recipe = recipe_of(make, OPTIMIZERS[optimizer])
        lanes = Population(recipe, 3, None, samples=ITEMS, batch=networks.BATCH, device=device, dtype=torch.float64)
        for lane in range(3):
            lanes.start(lane, task_on(shape, lane))
        for _ in range(EPOCHS):
            assert len(lanes.train_epoch()) == 3
        assert lanes.width == (1 if kind == "branches" else 3)
        trained.append([lanes.state(lane) for lane in range(3)])
    for here, there in zip(*trained, strict=True):
        torch.testing.assert_close(there.parameters, here.parameters, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(dict(there.buffers), dict(here.buffers), rtol=1e-6, atol=1e-9)


def test_what_draws_on_the_gpu_trains_one_at_a_time_and_is_the_same_again() -> None:
    """From the device's generator: after a stop too, whatever captured a graph when."""

    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, CLASSES))

    whole = Population(recipe_of(make), 2, None, samples=ITEMS, batch=networks.BATCH, device="cuda")
    whole.start(0, task_on((4,), 0))
    whole.start(1, task_on((4,), 1))
    whole.train_epoch()
    assert whole.width == 1
    resumed = Population(recipe_of(make), 1, None, samples=ITEMS, batch=networks.BATCH, device="cuda")
    resumed.start(0, task_on((4,), 1), whole.state(1))
    torch.rand(1, device="cuda")
    whole.train_epoch()
    resumed.train_epoch()
    assert torch.equal(whole.parameters[1], resumed.parameters[0])


@pytest.mark.parametrize("captured", [True, False])
@pytest.mark.parametrize("model", list(models.ARCHITECTURES))
def test_no_step_waits_for_the_device(model: str, captured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch raises at whatever would synchronise between an epoch's first step and its last."""
    graph.switch(captured)
    made = population(model, "cuda", 4, torch.float32)
    made.train_epoch()  # what is made once may wait
    inner: Callable[..., Any] = Lockstep.epoch
    raised: list[Exception] = []  # the population swallows one, and trains each lane alone

    def watched(*words: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return inner(*words)
        except Exception as error:
            raised.append(error)
            raise
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Lockstep, "epoch", watched)
    assert len(made.train_epoch()) == 4
    assert raised == []
    graph.switch(True)


@pytest.mark.parametrize("model", list(models.ARCHITECTURES))
def test_a_graph_is_the_steps_that_it_replays(model: str) -> None:
    """Bit for bit, with lanes that come and go, and with a last batch that is smaller."""
    pairs = {}
    for captured in (False, True):
        graph.switch(captured)
        made = population(model, "cuda", 3, torch.float32, pairs=11)
        made.train_epoch()
        made.stop(1)
        made.train_epoch()
        assert made._lockstep is not None
        assert bool(made._lockstep._graphs) is captured
        pairs[captured] = made.parameters[[0, 2]]
    graph.switch(True)
    assert torch.equal(pairs[False], pairs[True])


@pytest.mark.parametrize("model", list(models.ARCHITECTURES))
def test_kernels_train_what_plain_torch_trains(model: str) -> None:
    """To the rounding of float32 after three steps; of TF32 less is asked."""
    changes = {}
    for fast in (False, True):
        selection.switch(fast)
        made = population(model, "cuda", 3, torch.float32, batch=60)
        begun = made.parameters.clone()
        made.train_epoch()
        changes[fast] = made.parameters - begun
    selection.switch(True)
    assert float((changes[True] - changes[False]).norm() / changes[False].norm()) < 1e-3


def test_out_of_memory_on_the_device_halves_the_width() -> None:
    """With nearly no memory allowed to the process, the epoch is trained in more parts and every lane reports."""
    made = population("ws", "cuda", 64, torch.float32)
    made.train_epoch()  # what is taken once: cuBLAS's workspaces, Triton's binaries
    made._lockstep = None
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 64 * 2**20) / total)
    try:
        reports = made.train_epoch()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert made.width < 64
    assert [report.lane for report in reports] == list(range(64))


_ASSERTS = """
import sys, torch
from dataclasses import replace
from hpo.digits.recipes import METRICS, RECIPES
from hpo.training.memory import DeviceLost
from tests.training.test_cuda import population

made = population("ws", "cuda", 3, torch.float32)
made.train_epoch()
inner = made.recipe.loss

def loss(out, columns, hyper):
    return inner(out, {name: values + 1000 for name, values in columns.items()}, hyper)

made.recipe = replace(made.recipe, loss=loss)
made._lockstep = None
try:
    made.train_epoch()
except DeviceLost as error:
    print("lost:", error)
"""


def test_a_device_that_is_gone_is_not_taken_for_failed_lanes() -> None:
    """A failed assertion on the device makes every later call fail: that is no lane's fault."""
    ran = subprocess.run([sys.executable, "-c", _ASSERTS], capture_output=True, text=True, timeout=120)
    assert "lost: " in ran.stdout, ran.stderr
