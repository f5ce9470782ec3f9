"""Planning: how many rounds, and how many repeats of the searches, it takes to find a difference of a given size.

Differences and spreads are in the unit of the metric, as improvements (of logarithms where ratios are compared). A
spread is the standard deviation of the paired difference from one round, or from one repeat, to the next.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, sqrt

import numpy as np
import scipy  # type: ignore[import-untyped]  # has no types; loads its parts where they are first used
from numpy.typing import NDArray

from hpo.analysis import stats
from hpo.analysis.comparison import Comparison
from hpo.analysis.looks import brownian, error_unit
from hpo.analysis.pairwise import BETWEEN_TUNED, Pair
from hpo.analysis.repeats import RepeatPair
from hpo.experiment.metric_info import MetricInfo
from hpo.study import limits

ERROR = 1 - stats.LEVEL
_DRAWS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Looked:
    """What it takes where results are looked at after equal parts of the rounds, and a clear one ends it."""

    declared: tuple[int, ...]  # rounds of each look
    expected: float  # rounds on average where the difference is as large as was asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """What it takes to find the difference in one comparison, with the power asked for."""

    what: str  # is compared
    metric: MetricInfo | None  # None: not known, for the spread was given
    unit: str  # what is counted: "rounds" or "repeats"
    spread: float
    measured: int | None  # on how many of them the spread was measured; None: it was given
    comparisons: int  # for which the test is corrected
    number: int | None  # of rounds or repeats; None: more than there can be
    looks: Looked | None = None  # of rounds, where several looks were asked for
    floor: float | None = None  # a smaller difference stays hidden, for new test items or behind what repeats share


def needs_of(comparison: Comparison, difference: float, power: float, looks: int = 1) -> list[Need]:
    """What every comparison of these results would take; those over repeats behind those over rounds."""
    pairs = comparison.pairs
    sizes = {(p.setting, p.family): sum((q.setting, q.family) == (p.setting, p.family) for q in pairs) for p in pairs}
    over_rounds = [
        need(
            _name(pair),
            difference,
            power,
            pair.difference.std,
            comparisons=sizes[pair.setting, pair.family],
            measured=len(pair.rounds),
            metric=pair.metric,
            looks=looks,
            floor=_hidden_by_items(pair, power),
        )
        for pair in pairs
        if pair.difference.std
    ]
    return [*over_rounds, *_over_repeats(comparison, difference, power)]


def _over_repeats(comparison: Comparison, difference: float, power: float) -> Iterable[Need]:
    repeats = comparison.repeats
    for family in (repeats.models, repeats.tuning):
        for pair in family:
            if pair.difference.std:
                yield need(
                    _repeated_name(pair),
                    difference,
                    power,
                    pair.difference.std,
                    comparisons=sum(other.setting == pair.setting for other in family),
                    measured=len(pair.numbers),
                    metric=pair.metric,
                    unit="repeats",
                    shared=_shared_by_repeats(pair),
                )


def need(
    what: str,
    difference: float,
    power: float,
    spread: float,
    *,
    comparisons: int,
    measured: int | None = None,
    metric: MetricInfo | None = None,
    unit: str = "rounds",
    looks: int = 1,
    floor: float | None = None,
    shared: float = 0.0,
) -> Need:
    """What it takes for one comparison: the test that it must pass is that of Holm's first step.

    `shared` is the standard error that all repeats share, however many there are, for their rounds are the same.
    """
    error = ERROR / comparisons
    hidden = _reach(error, power) * shared
    left = difference**2 - hidden**2  # what repeats may add to the standard error, as the difference that shows it
    number = number_needed(sqrt(left), spread, power, error) if left > 0 else None
    looked = None if number is None or looks == 1 else _looked(number, looks, power, error)
    return Need(
        what=what,
        metric=metric,
        unit=unit,
        spread=spread,
        measured=measured,
        comparisons=comparisons,
        number=number,
        looks=looked,
        floor=hidden if shared else floor,
    )


def number_needed(difference: float, spread: float, power: float, error: float) -> int | None:
    """The fewest rounds with which a sign-flip test finds the difference; None above what a study can have."""
    fewest = (_reach(error, power) * spread / difference) ** 2  # were the spread known, and the rounds not a sample
    for n in range(max(2, floor(min(fewest, limits.ROUNDS))), limits.ROUNDS + 1):
        detectable = stats.detectable_difference(spread, n, power, stats.attainable_level(n, error))
        if detectable is not None and detectable <= difference:
            return n
    return None


def _shared_by_repeats(pair: RepeatPair) -> float:
    """The standard error that rounds bring to the difference of all repeats alike."""
    return 0.0 if pair.components is None else sqrt(pair.components.shared / pair.components.rounds)


def _looked(number: int, looks: int, power: float, error: float) -> Looked:
    """The same by a group-sequential test, with as many rounds more at most as it needs for the same power."""
    shares = [look / looks for look in range(1, looks + 1)]
    noise = brownian(shares, draws=_DRAWS)
    levels = np.array([error_unit(shares, k, error) * share for k, share in enumerate(shares, start=1)])

    def rejected(drift: float) -> NDArray[np.bool_]:
        """By look, where the last one's standardized mean is that large."""
        p = 2 * scipy.stats.norm.sf(np.abs(noise + drift * np.sqrt(shares)))
        small: NDArray[np.bool_] = p <= levels
        return small

    single = _reach(error, power)
    drift = float(scipy.optimize.brentq(lambda x: rejected(x).any(axis=1).mean() - power, single / 2, 2 * single))
    most = ceil(number * (drift / single) ** 2)
    declared = tuple(ceil(most * share) for share in shares)
    ended = rejected(drift)
    ends = np.where(ended.any(axis=1), ended.argmax(axis=1), looks - 1)
    return Looked(declared=declared, expected=float(np.array(declared)[ends].mean()))


def _hidden_by_items(pair: Pair, power: float) -> float | None:
    """What the test items alone would hide, were there no end of rounds."""
    if pair.items is None or pair.from_items is None:
        return None
    half = (pair.items.high - pair.items.low) / 2
    by_items = half / float(scipy.stats.norm.isf((1 - pair.items.level) / 2)) * sqrt(pair.from_items)
    return _reach(ERROR, power) * by_items


def _reach(error: float, power: float) -> float:
    """The difference, in standard errors, that a normal test finds with that power."""
    return float(scipy.stats.norm.isf(error / 2) + scipy.stats.norm.isf(1 - power))


def _name(pair: Pair) -> str:
    if pair.kind == BETWEEN_TUNED:
        return f"{pair.a.model} and {pair.b.model}, tuned"
    if pair.a.model == pair.b.model:
        return f"{pair.a.model}, {pair.a.label} and {pair.b.label}"
    return f"{pair.a.model} and {pair.b.model}, {pair.b.label}"


def _repeated_name(pair: RepeatPair) -> str:
    return f"{pair.a} and {pair.b}, over repeats"


def families(models: int) -> Sequence[tuple[str, int]]:
    """The families of tests of so many models, each with its number of comparisons."""
    between = models * (models - 1) // 2
    return [*([("two models", between)] if between else []), ("tuned and reference", models)]
