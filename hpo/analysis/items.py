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
import scipy  # type: ignore[import-untyped]  # has no types; loads its parts where they are first used
from numpy.typing import NDArray

from hpo.analysis.stats import LEVEL, Interval
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
    if len(common) < fewest or not all(np.array_equal(a[r].units, b[r].units) for r in common):
        return None
    rounds = len(common)
    improvements = np.array(
        [float(metric.improvement(*(metric.combined(s[r].scores) for s in (a, b)))) for r in common]
    )
    influences, n = _influences(a, b, common, metric)
    scale = n / max(1, n - 1)  # as a sample's variance has it
    if rounds == 1:  # all rounds are equal: new units alone
        by_rounds, by_units = 0.0, scale * float((influences**2).sum())
    else:
        by_rounds = float(improvements.var(ddof=1)) / rounds
        products = influences.sum(axis=0) ** 2 - (influences**2).sum(axis=0)  # of different rounds, (N,)
        by_units = scale * max(0.0, float(products.sum()) / (rounds * (rounds - 1)))
    total = by_rounds + by_units
    if not math.isfinite(total):
        return None
    mean = float(improvements.mean())
    half = 0.0
    if total > 0:
        inverse = by_rounds**2 / max(1, rounds - 1) + by_units**2 / max(1, n - 1)
        half = float(scipy.stats.t.ppf((1 + level) / 2, total**2 / inverse)) * math.sqrt(total)
    method = "variance components of rounds and units"
    interval = Interval(low=mean - half, high=mean + half, level=level, method=method)
    return ForNewItems(interval=interval, from_units=by_units / total if total > 0 else None)


def _influences(a: ScoredRounds, b: ScoredRounds, common: Sequence[int], metric: MetricInfo) -> tuple[ItemArray, int]:
    """By round and unit (R, N) how the improvement changes with the unit's weight; and N."""
    distinct = np.unique(np.concatenate([a[r].units.ravel() for r in common]))
    by_unit = np.zeros((len(common), len(distinct)))
    for row, r in zip(by_unit, common, strict=True):
        of_items = metric.sign * (metric.influences(a[r].scores) - metric.influences(b[r].scores))
        for column in np.searchsorted(distinct, a[r].units).T:  # an item counts with each of its units' weights
            row += np.bincount(column, of_items, len(distinct))
    return by_unit, len(distinct)
