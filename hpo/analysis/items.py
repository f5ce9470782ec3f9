"""Test items: what their single scores show beyond the rounds' values.

An interval over rounds alone holds for new seeds on these test items. Here it is asked how new items would change
things, by the units that they were sampled from (a patient, an image), which are the same in every round or recur in
several. Shapes: R rounds, n test items of a round, u units of an item, N distinct units.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.analysis.stats import LEVEL, Interval, Variance, student_interval
from hpo.experiment.jackknife import column_of
from hpo.experiment.metric_info import MetricInfo
from hpo.results.records import StudyResult
from hpo.study.labels import TUNED

UNIT = "unit"  # the column that names the units

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


def item_scores_of(
    result: StudyResult, columns: Mapping[tuple[str, int], Mapping[str, NDArray[Any]]]
) -> ItemScores | None:
    """A study's item scores from its final rounds' columns (`queries.final_columns`); None where none are stored.

    Without a column of units each item is one of its own, the same in every round as far as there are as many. Where
    single items have no scores, blocks of units are the units, and have pseudo-values.
    """
    by_label: dict[str, dict[int, ScoredRound]] = {}
    fingerprints: dict[str, dict[int, str]] = {}
    for (label, number), stored in columns.items():
        fingerprints.setdefault(label, {})[number] = _fingerprint(stored)
        scores = stored.get(result.metric.name)
        if scores is not None:
            blocks = column_of(result.metric.name)  # where single items have no scores
            sampled = next((stored[c] for c in (blocks, UNIT) if c in stored), np.arange(len(scores)))
            scored = ScoredRound(scores=scores.astype(np.float64), units=sampled.reshape(len(scores), -1))
            by_label.setdefault(label, {})[number] = scored
    tuned = result.final_of(TUNED)
    if tuned is not None and tuned.same_as is not None:
        if tuned.same_as in by_label:
            by_label[TUNED] = by_label[tuned.same_as]
        if tuned.same_as in fingerprints:
            fingerprints[TUNED] = fingerprints[tuned.same_as]
    return ItemScores(by_label=by_label, fingerprints=fingerprints) if fingerprints else None


def _fingerprint(columns: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name, column in sorted(columns.items()):
        digest.update(f"{name} {column.dtype} {column.shape} ".encode())
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def same_units(rounds: Sequence[ScoredRound]) -> bool:
    """Whether these rounds were tested on the same items."""
    return all(np.array_equal(rounds[0].units, scored.units) for scored in rounds[1:])


@dataclass(frozen=True, kw_only=True, slots=True)
class ForNewItems:
    """An interval for new seeds and new units, and where its width comes from."""

    interval: Interval
    from_units: float | None  # share of the variance; the rest comes from the rounds. None: there is no variance


def for_new_items(
    sides: Sequence[tuple[ScoredRounds, ScoredRounds]],
    metric: MetricInfo,
    level: float = LEVEL,
    *,
    fewest: int = 2,
) -> list[ForNewItems | None]:
    """Intervals of the mean improvements of a over b for new seeds AND new units; None below `fewest` common rounds.

    The variance has two components, both estimated without bias: that between the rounds, over their number, which is
    what new seeds and draws bring; and that of the units, which all rounds share. A unit's influence on a round is what
    the round's improvement changes by with the unit's weight; products of its influences on two different rounds have
    the units' share alone as their mean, because what seeds and draws add differs from round to round. Student's t with
    degrees of freedom after Satterthwaite (1946).
    """
    return [_for_new_items(a, b, metric, level, fewest=fewest) for a, b in sides]


def _for_new_items(
    a: ScoredRounds, b: ScoredRounds, metric: MetricInfo, level: float, *, fewest: int
) -> ForNewItems | None:
    common = sorted(a.keys() & b.keys())
    if len(common) < fewest:
        return None
    rounds = len(common)
    improvements = np.array(
        [float(metric.improvement(*(metric.combined(s[r].scores) for s in (a, b)))) for r in common]
    )
    spread = 0.0 if rounds == 1 else float(improvements.var(ddof=1)) / rounds  # one: all are equal, new units alone
    by_rounds = Variance(value=spread, freedom=max(1, rounds - 1))
    by_units = variance_from_units([(a, b)], common, metric)
    if by_units is None or not math.isfinite(by_rounds.value + by_units.value):
        return None
    method = "variance components of rounds and units"
    interval = student_interval(float(improvements.mean()), (by_rounds, by_units), level, method)
    return ForNewItems(interval=interval, from_units=share_of(by_units, by_rounds))


def share_of(part: Variance, rest: Variance) -> float | None:
    """A part's share of the variance; None where there is none."""
    total = part.value + rest.value
    return part.value / total if total > 0 else None


def variance_from_units(
    sides: Sequence[tuple[ScoredRounds, ScoredRounds]], common: Sequence[int], metric: MetricInfo
) -> Variance | None:
    """The units' part in the variance of the mean improvement over these rounds, and over several such comparisons.

    None where the two of a comparison were not tested on the same units in the same order.
    """
    if not all(np.array_equal(a[r].units, b[r].units) for a, b in sides for r in common):
        return None
    influences, n = _influences(sides, common, metric)
    rounds = len(common)
    scale = n / max(1, n - 1)  # as a sample's variance has it
    products = influences.sum(axis=0) ** 2 - (influences**2).sum(axis=0)  # of different rounds, (N,)
    value = (influences**2).sum() if rounds == 1 else max(0.0, products.sum()) / (rounds * (rounds - 1))
    return Variance(value=scale * float(value), freedom=max(1, n - 1))


def _influences(
    sides: Sequence[tuple[ScoredRounds, ScoredRounds]], common: Sequence[int], metric: MetricInfo
) -> tuple[ItemArray, int]:
    """By round and unit (R, N) how the mean improvement changes with the unit's weight; and N."""
    distinct = np.unique(np.concatenate([a[r].units.ravel() for a, _ in sides for r in common]))
    by_unit = np.zeros((len(common), len(distinct)))
    for row, r in zip(by_unit, common, strict=True):
        for a, b in sides:
            of_items = metric.sign * (metric.influences(a[r].scores) - metric.influences(b[r].scores)) / len(sides)
            for column in np.searchsorted(distinct, a[r].units).T:  # an item counts with each of its units' weights
                row += np.bincount(column, of_items, len(distinct))
    return by_unit, len(distinct)
