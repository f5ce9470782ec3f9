"""Looks: results that are seen more than once, and what that costs; where the truth is known, by counting."""

import itertools
import math

import numpy as np
import pytest

from hpo.analysis import stats
from hpo.analysis.comparison import compare
from hpo.analysis.looks import Looks, error_unit, looks_of, p_over_looks, sequential_test
from hpo.report.sentences import conclusions_of
from hpo.results.records import StudyResult
from hpo.study.spec import StudySpec, builtin_spec
from tests.support.results import by_image, finals, study

DECLARED = (4, 7, 10)


def p_at_each_look(differences: list[float], declared: tuple[int, ...]) -> list[float]:
    looks = [Looks(declared=declared, reached=k) for k in range(1, len(declared) + 1)]
    return [sequential_test(differences[: look.now], range(look.now), look).p for look in looks]


def test_all_looks_together_err_as_often_as_p_says() -> None:
    """Truth: no difference. Every choice of signs of ten differences, whoever stops at the first p that is small."""
    sizes = np.random.default_rng(5).gamma(2, 1, 10)
    smallest = np.array([min(p_at_each_look(list(sizes * s), DECLARED)) for s in itertools.product((-1, 1), repeat=10)])
    for alpha in (0.01, 0.03, 0.05, 0.1, 0.2, 0.5):
        assert np.mean(smallest <= alpha) <= alpha
    assert np.mean(smallest <= 0.05) > 0.03  # and do not waste it


def test_looks_that_nobody_paid_for_err_more_often() -> None:
    """The attack: rounds are added until p is small. Twenty, forty and sixty rounds of normal noise, 400 worlds."""
    rng, ends = np.random.default_rng(7), (20, 40, 60)
    worlds = rng.normal(0, 1, (400, 60)).tolist()
    looked = np.mean([min(_normal_p(world[:end]) for end in ends) <= 0.05 for world in worlds])
    assert looked == pytest.approx(0.103, abs=0.045)
    paid = error_unit((1 / 3, 2 / 3, 1), 3, 0.05)
    kept = np.mean([any(_normal_p(w[:end]) <= paid * end / 60 for end in ends) for w in worlds])
    assert kept == pytest.approx(0.05, abs=0.033)


def _normal_p(values: list[float]) -> float:
    return math.erfc(abs(sum(values)) / math.sqrt(2 * len(values)))


def test_a_single_look_costs_nothing() -> None:
    d = np.random.default_rng(1).normal(0.3, 1, 10).tolist()
    looks = Looks(declared=(10,))
    assert sequential_test(d, range(10), looks) == stats.sign_flip_test(d)
    assert (looks.level, looks.alpha(0.02)) == (0.95, 0.02)


def test_intervals_of_all_looks_hold_together() -> None:
    """Truth: 0. Ten normal differences, seen at four, seven and ten; 2,000 worlds."""
    worlds = np.random.default_rng(2).normal(0, 1, (2000, 10))
    looks = [Looks(declared=DECLARED, reached=k) for k in (1, 2, 3)]
    held = [
        all(not _excludes_zero(stats.t_interval(world[: look.now].tolist(), look.level)) for look in looks)
        for world in worlds
    ]
    assert 0.95 - 0.015 <= np.mean(held) <= 0.99


def _excludes_zero(interval: stats.Interval | None) -> bool:
    assert interval is not None
    return interval.excludes_zero


def test_looks_that_both_have_declared_count() -> None:
    assert looks_of([(20, 40, 60), (20, 60)], 40) == Looks(declared=(20, 60), reached=1)
    assert looks_of([(20, 40, 60), (20, 40, 60)], 45) == Looks(declared=(20, 40, 60), reached=2)
    assert looks_of([(20,), (40,)], 20) == Looks(declared=(20,))
    assert looks_of([(20,), (20,)], 3).now == 20


def test_what_undeclared_looks_are_worth() -> None:
    """At least what the smallest p says, at most as many times that as there are looks."""
    d = np.random.default_rng(3).normal(0.5, 1, 16).tolist()
    smallest = min(stats.sign_flip_test(d[:8]).p, stats.sign_flip_test(d).p)
    assert smallest < p_over_looks(d, [8, 16]) <= 2 * smallest
    assert p_over_looks(d, [16]) == pytest.approx(stats.sign_flip_test(d).p)


# --- In the report ----------------------------------------------------------------------------------------


def course(level: float, rounds: int) -> list[float]:
    """Accuracies whose differences from another level are small at first and grow."""
    return [level + 0.01 * math.sin(7 * r) + (level - 0.8) * r / rounds for r in range(rounds)]


def two_models(rounds: int, looks: tuple[int, ...] | None) -> list[StudyResult]:
    def spec(model: str) -> StudySpec:
        return builtin_spec(model).with_options(rounds=8, looks=looks)

    return [
        study("simple", finals("tuned", course(0.8, rounds)), spec=spec("simple"), id=1),
        study("ws", finals("tuned", course(0.82, rounds)), spec=spec("ws"), id=2),
    ]


def test_rounds_that_nobody_declared_are_told_and_do_not_count() -> None:
    results = two_models(16, None)
    comparison = compare(results, by_image(results))
    (pair,) = comparison.pairs
    assert pair.rounds == tuple(range(8))
    assert pair.test == stats.sign_flip_test(pair.difference.values)
    assert pair.undeclared is not None
    assert (pair.undeclared.added, pair.undeclared.rounds, pair.undeclared.looks) == (8, 16, (8, 16))
    assert pair.undeclared.p < pair.undeclared.p_over_looks
    (line,) = [line for line in conclusions_of(results, comparison).cautions if "nobody had declared" in line]
    assert line.startswith("8 rounds of ws and simple (both with configurations given as tuned at 40 ")
    assert "at 8 and 16 rounds" in line


def test_the_next_declared_look_counts_and_is_paid_for() -> None:
    results = two_models(16, (8, 16, 24))
    comparison = compare(results, by_image(results))
    (pair,) = comparison.pairs
    assert (len(pair.rounds), pair.looks.reached, pair.undeclared) == (16, 2, None)
    assert pair.test.p > stats.sign_flip_test(pair.difference.values).p
    assert pair.test.method == "group-sequential"
    conclusions = conclusions_of(results, comparison)
    assert "; look 2 of 3)" in conclusions.headlines[0]
    assert not any("nobody had declared" in line for line in conclusions.cautions)
