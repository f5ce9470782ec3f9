"""A crossed table of searches by rounds, one value a cell, when both are a sample of what there could have been.

Rounds with the same number share their draw and their seeds in all searches, so what one round adds does not average
out over the searches, and what one search adds does not average out over the rounds. Shapes: K searches, R rounds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # type: ignore[import-untyped]  # has no types; loads its parts where they are first used
from numpy.typing import NDArray

from hpo.analysis.looks import Looks, sequential_test
from hpo.analysis.stats import LEVEL, Interval, Numbers, SignFlip, Variance, sign_flip_test, student_p

SearchesByRounds = Sequence[Numbers]  # (K, R)
METHOD = "variance components of searches and rounds"


@dataclass(frozen=True, kw_only=True, slots=True)
class Components:
    """Variances of a crossed table with one value a cell: searches x rounds, both random."""

    searches: int
    rounds: int
    between: float  # variance between searches; an estimate below 0 is 0
    interval: Interval  # of it
    shared: float  # variance between rounds, which all searches share: the draw; an estimate below 0 is 0
    residual: float  # the rest: chance in one round of one configuration
    p: float  # of the F test of "searches do not differ"


def variance_components(table: SearchesByRounds, level: float = LEVEL) -> Components | None:
    """Two-way random effects by the analysis of variance; rows are searches, columns rounds; None below 2 x 2.

    Not one-way: rounds with the same number share their draw, so a row's spread has a part that cancels between rows.
    Subtracting that part would hide real differences between searches. The interval of the variance between searches is
    Williams' (Biometrika 49, 1962, p. 278): its nominal 95 % are at least 90 %, and about 95 % in simulation.
    """
    squares = _mean_squares(table)
    if squares is None:
        return None
    searches, rounds, ms_between, residual = squares.searches, squares.rounds, squares.by_search, squares.residual
    ss_between, freedom = (searches - 1) * ms_between, (searches - 1) * (rounds - 1)
    ratio = ms_between / residual if residual > 0 else math.inf if ms_between > 0 else 0.0
    ends = []
    for tail in ((1 + level) / 2, (1 - level) / 2):
        f = float(scipy.stats.f.ppf(tail, searches - 1, freedom))
        chi2 = float(scipy.stats.chi2.ppf(tail, searches - 1))
        ends.append(max(0.0, ss_between * (1 - f / ratio) / (rounds * chi2)) if ratio > 0 else 0.0)
    return Components(
        searches=searches,
        rounds=rounds,
        between=max(0.0, (ms_between - residual) / rounds),
        interval=Interval(low=ends[0], high=ends[1], level=level, method="Williams"),
        shared=max(0.0, (squares.by_round - residual) / searches),
        residual=residual,
        p=float(scipy.stats.f.sf(ratio, searches - 1, freedom)),
    )


def variance_of_mean(table: SearchesByRounds) -> Variance | None:
    """Of the mean over all cells, for new searches and new rounds; None below 2 x 2.

    Between searches over K, between rounds over R and the residual over K R: in mean squares (searches + rounds -
    residual) / K R, with degrees of freedom after Satterthwaite (1946). As an estimate it may come out too small by
    chance, even below 0, so it is never taken to be less than what the searches alone, or the rounds alone, show.
    """
    squares = _mean_squares(table)
    if squares is None:
        return None
    by_search, by_round, residual = squares.by_search, squares.by_round, squares.residual
    total = max(by_search + by_round - residual, by_search, by_round)
    few, other = squares.searches - 1, squares.rounds - 1
    spread = by_search**2 / few + by_round**2 / other + residual**2 / (few * other)
    freedom = total**2 / spread if spread > 0 else min(few, other)
    return Variance(value=total / (squares.searches * squares.rounds), freedom=max(freedom, min(few, other)))


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossedTest:
    """The test of "the mean over searches and rounds is 0": each of its parts must find it."""

    p: float  # the largest of the parts'
    smallest: float  # the smallest p that so many searches and rounds can give
    over_searches: SignFlip  # of the searches' means
    over_rounds: SignFlip  # of the rounds' means
    by_components: float  # p of Student's t with the variance for new searches and new rounds

    @property
    def scarce(self) -> tuple[SignFlip, str]:
        """The sign-flip test that has fewer values to go by, and what these are of."""
        if self.over_rounds.smallest > self.over_searches.smallest:
            return self.over_rounds, "rounds"
        return self.over_searches, "repeats"


def crossed_test(table: SearchesByRounds, numbers: Sequence[int], looks: Looks) -> CrossedTest:
    """Two-sided, for differences of K searches in the R rounds of these `numbers`.

    Sign flips of the searches' means alone take what the rounds share for granted, those of the rounds' means what the
    searches do; where both matter, the two together err too often still. Student's t with both components keeps its
    level there, the flips are exact without assuming normal values where one component is all there is. For several
    declared looks each part is paid for: the rounds' as a group-sequential test, the others by their share.
    """
    x = np.asarray(table, dtype=np.float64)
    price = sum(looks.shares) / looks.shares[looks.reached - 1]
    over_searches = sign_flip_test(_rounded(x.mean(axis=1), x))
    over_rounds = sequential_test(_rounded(x.mean(axis=0), x), numbers, looks)
    variance = variance_of_mean(table)
    by_components = 1.0 if variance is None else student_p(float(x.mean()), variance)
    return CrossedTest(
        p=min(1.0, max(price * over_searches.p, over_rounds.p, price * by_components)),
        smallest=min(1.0, max(price * over_searches.smallest, over_rounds.smallest)),
        over_searches=over_searches,
        over_rounds=over_rounds,
        by_components=by_components,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _MeanSquares:
    """Of the analysis of variance."""

    searches: int
    rounds: int
    by_search: float
    by_round: float
    residual: float


def _mean_squares(table: SearchesByRounds) -> _MeanSquares | None:
    """None below 2 x 2."""
    x = np.asarray(table, dtype=np.float64)
    searches, rounds = x.shape
    if searches < 2 or rounds < 2:
        return None
    by_search, by_round, overall = x.mean(axis=1), x.mean(axis=0), x.mean()
    rounding = (1e-12 * float(np.abs(x).max())) ** 2 * x.size  # below: equal searches, which give exactly 0

    def squares(deviations: NDArray[np.float64]) -> float:
        total = float((deviations**2).sum())
        return total if total > rounding else 0.0

    return _MeanSquares(
        searches=searches,
        rounds=rounds,
        by_search=rounds * squares(by_search - overall) / (searches - 1),
        by_round=searches * squares(by_round - overall) / (rounds - 1),
        residual=squares(x - by_search[:, None] - by_round + overall) / ((searches - 1) * (rounds - 1)),
    )


def _rounded(means: NDArray[np.float64], table: NDArray[np.float64]) -> list[float]:
    """Without the rounding of sums: a mean of values that cancel is 0."""
    least = 1e-12 * float(np.abs(table).max())
    return [0.0 if abs(value) < least else float(value) for value in means]
