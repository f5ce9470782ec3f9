"""Test items: what their single scores show beyond the rounds' values.

An interval over rounds alone holds for new seeds on these test items. Here the items are resampled too, by the units
that they were sampled from (a patient, an image), which are the same in every round or recur in several.
Shapes: R rounds, n test items of a round, u units of an item, N distinct units, D bootstrap draws.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.analysis.stats import LEVEL, Interval
from hpo.experiment.metric_info import MetricInfo
from hpo.results.records import StudyResult
from hpo.study.labels import TUNED

DRAWS = 2000  # of the bootstrap
UNIT = "unit"  # the column that names the units
_CHUNK = 50  # draws at once: 50 x 20 rounds x 1,000 items are 8 MB
_MOST_CELLS = 10_000_000  # draws x rounds x items at once: 80 MB
_TINY = 1e-300  # in place of a denominator of which nothing was drawn

ItemArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredRound:
    """The single test items of one final round."""

    scores: ItemArray  # (n,) or (n, 2) of the first metric
    units: NDArray[np.int64]  # (n, u)


ScoredRounds = Mapping[int, ScoredRound]  # by number


@dataclass(frozen=True, kw_only=True, eq=False)
class ItemScores:
    """One study's final rounds, item by item."""

    by_label: Mapping[str, ScoredRounds]
    fingerprints: Mapping[str, Mapping[int, str]]  # label -> round -> digest of all that was stored of its items
    units: str = "units"  # what items were sampled from, in words


def item_scores_of(
    result: StudyResult, columns: Mapping[tuple[str, int], Mapping[str, NDArray[Any]]], *, units: str = "units"
) -> ItemScores | None:
    """A study's item scores from its final rounds' columns (`queries.final_columns`); None where none are stored.

    Without a column of units each item is one of its own, the same in every round as far as there are as many.
    """
    by_label: dict[str, dict[int, ScoredRound]] = {}
    fingerprints: dict[str, dict[int, str]] = {}
    for (label, number), stored in columns.items():
        fingerprints.setdefault(label, {})[number] = _fingerprint(stored)
        scores = stored.get(result.metric.name)
        if scores is not None:
            sampled = stored[UNIT] if UNIT in stored else np.arange(len(scores))
            scored = ScoredRound(scores=scores.astype(np.float64), units=sampled.reshape(len(scores), -1))
            by_label.setdefault(label, {})[number] = scored
    tuned = result.final_of(TUNED)
    if tuned is not None and tuned.same_as is not None:
        if tuned.same_as in by_label:
            by_label[TUNED] = by_label[tuned.same_as]
        if tuned.same_as in fingerprints:
            fingerprints[TUNED] = fingerprints[tuned.same_as]
    return ItemScores(by_label=by_label, fingerprints=fingerprints, units=units) if fingerprints else None


def _fingerprint(columns: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name, column in sorted(columns.items()):
        digest.update(f"{name} {column.dtype} {column.shape} ".encode())
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def same_units(rounds: Sequence[ScoredRound]) -> bool:
    """Whether these rounds were tested on the same items."""
    return all(np.array_equal(rounds[0].units, scored.units) for scored in rounds[1:])


def crossed_intervals(
    sides: Sequence[tuple[ScoredRounds, ScoredRounds]],
    metric: MetricInfo,
    seed: int = 0,
    level: float = LEVEL,
    *,
    fewest: int = 2,
    units: str = "units",
) -> list[Interval | None]:
    """Intervals of the mean improvements of a over b for new seeds AND new units; None below `fewest` common rounds.

    Bootstrap over rounds and, crossed, over units (not items: a unit may be part of many). A draw weights each unit by
    how often it was drawn, and an item by the product of its units' weights (Owen, "The pigeonhole bootstrap", 2007;
    never too narrow, and up to twice too wide where units do not matter at all). Comparisons over the same items share
    their draws. `units` is what the method's name calls them.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, (a, b) in enumerate(sides):
        common = tuple(sorted(a.keys() & b.keys()))
        if len(common) >= fewest and all(np.array_equal(a[r].units, b[r].units) for r in common):
            groups.setdefault(common, []).append(index)
    intervals: list[Interval | None] = [None] * len(sides)
    tail = (1 - level) / 2
    for common, members in groups.items():
        rng = np.random.default_rng(seed)
        means = _crossed_means([sides[index] for index in members], common, metric, rng)
        for index, resampled in zip(members, means, strict=True):
            low, high = np.quantile(resampled, [tail, 1 - tail])
            method = f"bootstrap over rounds and {units}"
            intervals[index] = Interval(low=float(low), high=float(high), level=level, method=method)
    return intervals


def _crossed_means(
    sides: Sequence[tuple[ScoredRounds, ScoredRounds]],
    common: Sequence[int],
    metric: MetricInfo,
    rng: np.random.Generator,
) -> list[ItemArray]:
    """The mean improvement in every draw, (D,) for each comparison."""
    first = [sides[0][0][r] for r in common]
    units = first[0].units[None] if same_units(first) else np.stack([scored.units for scored in first])
    distinct, index = np.unique(units, return_inverse=True)
    index = index.reshape(units.shape)  # (R, n, u), or (1, n, u) where all rounds have the same items
    compared = [_Compared(a, b, common, metric) for a, b in sides]
    chunk = max(1, min(_CHUNK, _MOST_CELLS // max(1, units[..., 0].size)))
    means: list[list[ItemArray]] = [[] for _ in sides]
    for start in range(0, DRAWS, chunk):
        draws = min(chunk, DRAWS - start)
        of_unit = _times_drawn(rng, draws, len(distinct))  # (D, N)
        weights = of_unit[:, index[..., 0]]
        for j in range(1, units.shape[-1]):
            weights = weights * of_unit[:, index[..., j]]  # (D, R or 1, n)
        rounds = _times_drawn(rng, draws, len(common))  # (D, R)
        for resampled, comparison in zip(means, compared, strict=True):
            by_round = comparison.improvements(weights)
            resampled.append((rounds * by_round).sum(axis=-1) / len(common))
    return [np.concatenate(parts) for parts in means]


class _Compared:
    """Two configurations' sums over items, in every round and draw."""

    def __init__(self, a: ScoredRounds, b: ScoredRounds, common: Sequence[int], metric: MetricInfo) -> None:
        self._metric = metric
        sums = [[metric.sums(side[r].scores) for r in common] for side in (a, b)]
        (self._a, self._b), (self._below_a, self._below_b) = (
            [np.stack([of_round[part] for of_round in of_side]) for of_side in sums] for part in (0, 1)
        )  # each (R, n)

    def improvements(self, weights: ItemArray) -> ItemArray:
        """By how much a is better, (D, R), under weights (D, R, n) or, the same in all rounds, (D, 1, n)."""
        if self._metric.combine == "mean":  # the mean of the differences is the difference of the means
            total = np.maximum(weights.sum(axis=-1), 1)  # (D, R)
            return np.asarray(self._metric.sign * _added(weights, self._a - self._b) / total)
        a, b = (
            self._metric.of_sums(_added(weights, above), np.maximum(_added(weights, below), _TINY))
            for above, below in ((self._a, self._below_a), (self._b, self._below_b))
        )
        return np.asarray(self._metric.improvement(a, b))


def _added(weights: ItemArray, values: ItemArray) -> ItemArray:
    """Weighted sums over items, (D, R)."""
    if weights.shape[1] == 1:
        return np.asarray(weights[:, 0] @ values.T)
    return np.asarray(np.einsum("drn,rn->dr", weights, values))


def _times_drawn(rng: np.random.Generator, draws: int, n: int) -> ItemArray:
    """How often each of n items is drawn when n are drawn with replacement: (draws, n)."""
    return rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)
