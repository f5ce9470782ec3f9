"""On a GPU: the population against plain loops on the CPU, and no wait for the device inside an epoch."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hpo.digits import draws, models
from hpo.training.augmentation import SAMPLES_PER_PAIR
from hpo.training.lockstep import Lockstep
from hpo.training.population import Population, Task
from tests.support.training import digit_population

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

PARAMS = {"learning_rate": 1e-3, "weight_decay": 1e-4, "dropout": 0.3, "aux_weight": 2.0, "main_weight": 0.5}
BATCH, PAIRS = 20, 10


def population(model: str, device: str, lanes: int, dtype: torch.dtype = torch.float64) -> Population:
    """Lanes with unlike rates on random images, each with its own draw."""
    images = torch.rand(60, draws.SIDE, draws.SIDE, generator=torch.Generator().manual_seed(3))
    pool = draws.ImagePool(name="A", images=images, labels=torch.arange(60) % 10)
    samples = SAMPLES_PER_PAIR * PAIRS
    made = digit_population(model, lanes, pool, samples=samples, batch=BATCH, device=device, dtype=dtype)
    for lane in range(lanes):
        training, left = draws.draw_training(pool, lane, PAIRS)
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


@pytest.mark.parametrize("model", list(models.ARCHITECTURES))
def test_no_step_waits_for_the_device(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch raises at whatever would synchronise between an epoch's first step and its last."""
    made = population(model, "cuda", 4, torch.float32)
    made.train_epoch()  # what is made once may wait
    inner: Callable[..., Any] = Lockstep.epoch

    def watched(*words: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return inner(*words)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(Lockstep, "epoch", watched)
    assert len(made.train_epoch()) == 4


def test_out_of_memory_on_the_device_halves_the_width() -> None:
    """With nearly no memory allowed to the process, the epoch is trained in more parts and every lane reports."""
    made = population("ws", "cuda", 64, torch.float32)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 64 * 2**20) / total)
    try:
        reports = made.train_epoch()
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert made.width < 64
    assert [report.lane for report in reports] == list(range(64))
