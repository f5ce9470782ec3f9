"""How many lanes: measured, and the fewest that are about as fast as any."""

import math
from typing import Any

import pytest
import torch

from hpo import machine
from hpo.digits import draws
from hpo.digits.draws import SIDE, ImagePool
from hpo.digits.recipes import RECIPES
from hpo.training import sizing
from hpo.training.augmentation import SAMPLES_PER_PAIR

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pool() -> ImagePool:
    return ImagePool(name="A", images=torch.rand(100, SIDE, SIDE), labels=torch.arange(100) % 10)


def measured(pool: ImagePool, *, samples: int, batch: int, **options: Any) -> sizing.Size:
    """What is chosen for the simplest of the networks."""
    enough = sizing.samples_to_measure(samples, batch)
    table = draws.draw_training(pool, 0, math.ceil(enough / SAMPLES_PER_PAIR))[0]
    table = draws.PairTable(image=table.image[:enough], shift=table.shift[:enough], digit=table.digit[:enough])
    params = {"learning_rate": 1e-3, "weight_decay": 0.0, "dropout": 0.1}
    return sizing.choose_lanes(
        RECIPES["simple"], pool, table, params=params, samples=samples, batch=batch, device=CPU, **options
    )


def test_the_fewest_lanes_within_5_percent_of_the_fastest(pool: ImagePool) -> None:
    """The choice follows from the times that it gives as its reason, and the sentence names both."""
    size = measured(pool, samples=180, batch=20)
    times = dict(size.milliseconds)
    assert list(times) == list(sizing.CPU_LANES)[: len(times)]
    assert all(ms > 0 for ms in times.values())
    good = [lanes for lanes, ms in times.items() if ms <= sizing.WORTH * min(times.values())]
    assert size.lanes == good[0]
    assert str(size).startswith(f"{size.lanes} lane(s) at a time (ms a step and trial, by lanes: 1: ")


def test_no_more_lanes_than_trials_are_asked_for(pool: ImagePool) -> None:
    """`--max-trials 1` measures nothing else, and 3 is not rounded up to 4."""
    single = measured(pool, samples=180, batch=20, most=1)
    assert (single.lanes, list(single.milliseconds)) == (1, [1])
    three = measured(pool, samples=180, batch=20, most=3)
    assert set(three.milliseconds) <= {1, 2}


@pytest.mark.parametrize("batch", [1, 7, 180, 900])
def test_any_batch_can_be_measured(pool: ImagePool, batch: int) -> None:
    """Six large batches need more images than the pool has; an epoch never does."""
    size = measured(pool, samples=900, batch=batch, candidates=(1,))
    assert size.milliseconds[1] > 0


def test_most_below_every_candidate_is_the_candidate(pool: ImagePool) -> None:
    """Two trials on a device whose smallest population is larger get a population of two."""
    size = measured(pool, samples=180, batch=20, candidates=(8, 16), most=2)
    assert (size.lanes, list(size.milliseconds)) == (2, [2])


@pytest.mark.parametrize(("free", "tried"), [(0, [1]), (10**5, [1]), (10**12, [1, 2])])
def test_no_more_lanes_than_memory_allows(pool: ImagePool, free: int, tried: list[int]) -> None:
    """In a container that is nearly full the smallest population is taken, instead of being killed for more."""
    size = measured(pool, samples=10**4, batch=20, free=free, peak=machine.peak_memory)
    assert list(size.milliseconds)[:2] == tried
