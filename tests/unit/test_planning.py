"""Plans: what they promise is what the report's tests then find, in simulation."""

import numpy as np
import pytest

from hpo.analysis import stats
from hpo.analysis.comparison import compare
from hpo.analysis.crossed import crossed_test
from hpo.analysis.looks import Looks, sequential_test
from hpo.analysis.planning import ERROR, families, need, needs_of, number_needed
from tests.support.results import around, by_image, finals, study


@pytest.mark.parametrize("power", [0.5, 0.8])
def test_as_many_rounds_find_the_difference_as_often_as_was_asked_for(power: float) -> None:
    """Truth: a difference of 0.6, rounds with a spread of one; three comparisons, 500 worlds."""
    number = number_needed(0.6, 1.0, power, ERROR / 3)
    assert number is not None
    worlds = np.random.default_rng(1).normal(0.6, 1.0, (500, number)).tolist()
    detected = np.mean([stats.sign_flip_test(world).p <= ERROR / 3 for world in worlds])
    assert detected == pytest.approx(power, abs=0.06)


def test_looks_find_it_as_often_and_sooner(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same by the group-sequential test: the rounds on average are those that the plan says; 300 worlds."""
    monkeypatch.setattr("hpo.analysis.looks._DRAWS", 10_000)
    planned = need("two models", 0.6, 0.8, 1.0, comparisons=1, looks=2)
    assert planned.number is not None
    assert planned.looks is not None
    assert planned.looks.declared[-1] >= planned.number
    assert planned.looks.expected < planned.number
    ends = planned.looks.declared
    clear_worlds, rounds = [], []
    for world in np.random.default_rng(2).normal(0.6, 1.0, (300, ends[-1])).tolist():
        looks = [Looks(declared=ends, reached=k) for k in range(1, len(ends) + 1)]
        clear = [sequential_test(world[: look.now], range(look.now), look).p <= ERROR for look in looks]
        clear_worlds.append(any(clear))
        rounds.append(ends[clear.index(True)] if any(clear) else ends[-1])
    assert np.mean(clear_worlds) == pytest.approx(0.8, abs=0.08)
    assert np.mean(rounds) == pytest.approx(planned.looks.expected, rel=0.08)


def test_repeats_find_it_as_often_although_they_share_their_rounds() -> None:
    """Truth: a difference of 0.75 in 20 rounds, each of which adds as much to all repeats as chance adds to one."""
    between, rest = 0.6, 1.0
    spread, shared = (between**2 + rest**2 / 20) ** 0.5, rest / 20**0.5
    planned = need("two models", 0.75, 0.8, spread, comparisons=1, unit="repeats", shared=shared)
    alone = need("two models", 0.75, 0.8, spread, comparisons=1, unit="repeats")
    assert planned.number is not None
    assert alone.number is not None
    assert planned.number > alone.number + 3
    rng, worlds = np.random.default_rng(1), 300
    made = (
        0.75
        + rng.normal(0, between, (worlds, planned.number, 1))
        + rng.normal(0, rest, (worlds, 1, 20))
        + rng.normal(0, rest, (worlds, planned.number, 20))
    )
    single = Looks(declared=(20,))
    assert np.mean([crossed_test(t, range(20), single).p <= ERROR for t in made.tolist()]) == pytest.approx(
        0.8, abs=0.1
    )
    hidden = need("two models", 0.5, 0.8, spread, comparisons=1, unit="repeats", shared=shared)
    assert hidden.number is None  # however many there are
    assert hidden.floor == pytest.approx(0.63, abs=0.01)


def test_what_no_study_can_have_is_said() -> None:
    assert number_needed(0.001, 1.0, 0.8, ERROR) is None
    assert families(1) == [("tuned and reference", 1)]
    assert families(3) == [("two models", 3), ("tuned and reference", 3)]


def test_spreads_are_those_of_the_results() -> None:
    results = [
        study("simple", finals("tuned", around(0.84, 0.002)), id=1),
        study("ws", finals("tuned", around(0.9)), id=2),
    ]
    (pair,) = compare(results, by_image(results)).pairs
    (planned,) = needs_of(compare(results, by_image(results)), 0.0005, 0.8)
    assert (planned.what, planned.spread, planned.measured) == ("ws and simple, tuned", pair.difference.std, 20)
    assert planned.number == number_needed(0.0005, pair.difference.std or 0.0, 0.8, ERROR)
