"""Looks: results that are seen after so many rounds, and may end the measuring there; all looks share one error budget.

A study declares its looks before it begins, for example at 20, 40 and 60 rounds. A look may err in proportion to its
share of the rounds: with shares t of 1/3, 2/3 and 1 it rejects where its own p is at most c t. That is a
group-sequential test (Jennison & Turnbull 2000; by signs flipped as in AdaStop, Mathieu et al. 2024), and its p is the
smallest error of all looks together at which it rejects. Shapes: K looks declared, k reached, n rounds.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # type: ignore[import-untyped]  # has no types; loads its parts where they are first used
from numpy.typing import NDArray

from hpo.analysis.stats import LEVEL, Numbers, SignFlip, every_sign, random_signs, sign_flip_test

_DRAWS = 150_000  # choices of signs: at 5% the standard error of p is 0.06 points
_SMALL = 0.002  # below that the sum of the looks' errors is taken, which no sample of choices would tell from p


@dataclass(frozen=True, kw_only=True, slots=True)
class Looks:
    """The looks of a comparison."""

    declared: tuple[int, ...]  # rounds of each, ascending
    reached: int = 1  # how many of them the rounds asked for have come to; the last of these may be under way

    @property
    def now(self) -> int:
        """The rounds of the look that was reached: those beyond do not count."""
        return self.declared[self.reached - 1]

    @property
    def shares(self) -> tuple[float, ...]:
        """Of the last look's rounds, (K,)."""
        return tuple(rounds / self.declared[-1] for rounds in self.declared)

    @property
    def level(self) -> float:
        """The level at which this look's intervals are made, so that those of all looks hold together at 95%."""
        return 1 - self.alpha(1 - LEVEL)

    def alpha(self, error: float) -> float:
        """The error that this look alone may make where all of them together may make that one."""
        if len(self.declared) == 1:
            return error
        return error_unit(self.shares, self.reached, error) * self.shares[self.reached - 1]


def common_looks(declared: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Those that all configurations of a comparison have declared.

    Where they have none in common, the fewest rounds that one of them declares first are the only look.
    """
    common = sorted(set.intersection(*(set(looks) for looks in declared)))
    return tuple(common or [min(looks[0] for looks in declared)])


def sequential_test(differences: Numbers, rounds: Sequence[int], looks: Looks) -> SignFlip:
    """The two-sided sign-flip test of "the mean difference is 0", when it is looked at more than once.

    `differences` are those of the `rounds` (n,), numbered from 0 and ascending. Under a choice of signs c* is the
    smallest p / t of the looks that were reached; p is the share of choices with c* <= c, to which looks that are still
    to come add c t each, the most that they can. So p holds wherever the measuring stops, and that of a single look is
    `sign_flip_test`'s.
    """
    if len(looks.declared) == 1:
        return sign_flip_test(differences)
    reached = zip(looks.shares, looks.declared[: looks.reached], strict=False)
    seen = [(share, end) for share, last in reached if (end := sum(number < last for number in rounds))]
    unit = min(sign_flip_test(differences[:end]).p / share for share, end in seen)
    so_far = union(differences, [end for _, end in seen], [share for share, _ in seen], unit)
    later = unit * sum(looks.shares[looks.reached :])
    smallest = 2.0 ** (1 - len(differences)) / looks.shares[looks.reached - 1] * sum(looks.shares)
    return SignFlip(
        p=min(1.0, so_far + later), smallest=min(1.0, smallest), n=len(differences), method="group-sequential"
    )


def union(differences: Numbers, ends: Sequence[int], weights: Sequence[float], unit: float) -> float:
    """The share of all choices of signs under which the p of any look is at most `unit` times its weight.

    Exact up to 17 rounds, and where it is very small; else from a sample of choices.
    """
    most = unit * sum(weights)
    if most < _SMALL:
        return most
    d = np.asarray(differences[: ends[-1]], dtype=np.float64)
    signs = every_sign(len(d)) if 2 ** len(d) <= _DRAWS else random_signs(np.random.default_rng(0), _DRAWS, len(d))
    slack = 1e-9 * float(np.abs(d).sum())  # sums of the same numbers in another order are equal
    as_far = np.zeros(len(signs), dtype=bool)
    for end, weight in zip(ends, weights, strict=True):
        far = np.abs(signs[:, :end] @ d[:end])
        p = 1 - np.searchsorted(np.sort(far), far - slack) / len(far)
        as_far |= p <= unit * weight * (1 + 1e-9)
    return min(most, float(as_far.mean()))


def p_over_looks(differences: Numbers, ends: Sequence[int]) -> float:
    """The share of all choices of signs under which any of these looks has a p as small as the smallest one here.

    For looks that nobody declared: what the smallest p is worth to whoever would have stopped at any of them.
    """
    unit = min(sign_flip_test(differences[:end]).p for end in ends)
    return union(differences, ends, [1.0] * len(ends), unit)


def error_unit(shares: Sequence[float], reached: int, error: float) -> float:
    """c where looks of which each errs with probability c t err together with this one, rounds being about normal.

    As in the test, looks to come are taken to err apart from those that were reached.
    """
    units, later = _smallest_units(tuple(shares[:reached])), sum(shares[reached:])

    def excess(c: float) -> float:
        return float(np.searchsorted(units, c, side="right")) / len(units) + c * later - error

    return float(scipy.optimize.brentq(excess, 0.0, error / shares[0], xtol=1e-9))


@functools.cache
def _smallest_units(shares: tuple[float, ...]) -> NDArray[np.float64]:
    """Of normal rounds without a difference: the smallest p / t over these looks, sorted, (draws,)."""
    p = 2 * scipy.stats.norm.sf(np.abs(brownian(shares, draws=2 * _DRAWS)))
    smallest: NDArray[np.float64] = np.sort((p / np.array(shares)).min(axis=1))
    return smallest


def brownian(shares: Sequence[float], *, draws: int, seed: int = 0) -> NDArray[np.float64]:
    """Standardized mean differences of normal rounds at each look where the truth is none, (draws, K)."""
    t = np.array(shares)
    steps = np.random.default_rng(seed).standard_normal((draws, len(t))) * np.sqrt(np.diff(t, prepend=0.0))
    standardized: NDArray[np.float64] = steps.cumsum(axis=1) / np.sqrt(t)
    return standardized
