"""How many lanes: measured, and the fewest that are about as fast as any."""

import pytest
import torch

from hpo.training import sizing
from hpo.training.draws import SIDE, ImagePool

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pool() -> ImagePool:
    return ImagePool(name="A", images=torch.rand(100, SIDE, SIDE), labels=torch.arange(100) % 10)


def test_the_fewest_lanes_within_5_percent_of_the_fastest(pool: ImagePool) -> None:
    """The choice follows from the times that it gives as its reason, and the sentence names both."""
    size = sizing.choose_lanes("simple", pool, samples=180, batch=20, device=CPU)
    times = dict(size.milliseconds)
    assert list(times) == list(sizing.CPU_LANES)[: len(times)]
    assert all(ms > 0 for ms in times.values())
    good = [lanes for lanes, ms in times.items() if ms <= sizing.WORTH * min(times.values())]
    assert size.lanes == good[0]
    assert str(size).startswith(f"{size.lanes} lane(s) at a time (ms a step and trial, by lanes: 1: ")


def test_no_more_lanes_than_trials_are_asked_for(pool: ImagePool) -> None:
    """`--max-trials 1` measures nothing else, and 3 is not rounded up to 4."""
    single = sizing.choose_lanes("simple", pool, samples=180, batch=20, device=CPU, most=1)
    assert (single.lanes, list(single.milliseconds)) == (1, [1])
    three = sizing.choose_lanes("simple", pool, samples=180, batch=20, device=CPU, most=3)
    assert set(three.milliseconds) <= {1, 2}


@pytest.mark.parametrize("batch", [1, 7, 180, 900])
def test_any_batch_can_be_measured(pool: ImagePool, batch: int) -> None:
    """Six large batches need more images than the pool has; an epoch never does."""
    size = sizing.choose_lanes("simple", pool, samples=900, batch=batch, device=CPU, candidates=(1,))
    assert size.milliseconds[1] > 0


def test_most_below_every_candidate_is_the_candidate(pool: ImagePool) -> None:
    """Two trials on a device whose smallest population is larger get a population of two."""
    size = sizing.choose_lanes("simple", pool, samples=180, batch=20, device=CPU, candidates=(8, 16), most=2)
    assert (size.lanes, list(size.milliseconds)) == (2, [2])


@pytest.mark.parametrize(("free", "tried"), [(0, [1]), (10**5, [1]), (10**12, [1, 2])])
def test_no_more_lanes_than_memory_allows(pool: ImagePool, free: int, tried: list[int]) -> None:
    """In a container that is nearly full the smallest population is taken, instead of being killed for more."""
    size = sizing.choose_lanes("simple", pool, samples=10**4, batch=20, device=CPU, free=free)
    assert list(size.milliseconds)[:2] == tried
