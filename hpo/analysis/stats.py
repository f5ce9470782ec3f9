"""Small statistics for few rounds: summaries, intervals, paired comparisons.

Samples are sequences of plain numbers, one per round, and n is their number. What so few numbers cannot support is
None, never a guess. Intervals and tests are two-sided.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy  # type: ignore[import-untyped]  # has no types; loads its parts where they are first used
from numpy.typing import NDArray

LEVEL = 0.95  # of every interval unless another is given
BCA_LEAST = 10  # rounds: with fewer, a bootstrap interval covers far less than it claims (a mean's 73 % at n = 3)
FAR = 6.0  # robust standard deviations: some of 8 normal values lie so far below in 1.6% of cases, of 20 in 0.2%
_RESAMPLES = 9999
_EXACT_MOST = 40  # rounds up to which all sign flips are counted: two halves of 2^20 sums

Numbers = Sequence[float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float
    level: float  # 0.95 is 95 %
    method: str  # "t", "BCa bootstrap", "percentile bootstrap", "exact binomial"

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


# --- One sample -------------------------------------------------------------------------------------------


def mean(values: Numbers) -> float:
    """Arithmetic mean; ValueError for no values."""
    return math.fsum(_not_empty(values)) / len(values)


def std(values: Numbers) -> float | None:
    """Standard deviation with n - 1; None below two values."""
    if len(_not_empty(values)) < 2:
        return None
    # Equal values give exactly 0: the rounded mean would leave a tiny spread, by which an effect size is divided.
    return float(np.std(values, ddof=1)) if np.ptp(values) > 0 else 0.0


def median(values: Numbers) -> float:
    """Median."""
    return float(np.median(_not_empty(values)))


def iqm(values: Numbers) -> float:
    """Interquartile mean: the mean without the lowest and the highest quarter of the values, rounded down.

    See Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice" (2021).
    """
    return float(scipy.stats.trim_mean(_not_empty(values), 0.25))


def collapsed(values: Numbers, sign: int = 1) -> list[int]:
    """The places of values that are worse than the others by far: `FAR` robust standard deviations below the median.

    Where some rounds collapse, Student's t interval of the mean covers much less than it says. Robust: the median of
    absolute deviations, scaled to a normal's standard deviation. `sign` -1: worse is higher. None among fewer than 8.
    """
    x = sign * np.asarray(values, dtype=np.float64)
    if len(x) < 8:
        return []
    below = np.median(x) - x
    spread = 1.4826 * float(np.median(np.abs(below)))
    return [int(place) for place in np.flatnonzero(below > FAR * spread)] if spread > 0 else []


def t_interval(values: Numbers, level: float = LEVEL) -> Interval | None:
    """Student's interval of the mean; None below two values."""
    spread = std(values)
    if spread is None:
        return None
    half = float(scipy.stats.t.ppf((1 + level) / 2, len(values) - 1)) * spread / math.sqrt(len(values))
    centre = mean(values)
    return Interval(low=centre - half, high=centre + half, level=level, method="t")


@dataclass(frozen=True, kw_only=True, slots=True)
class Variance:
    """An estimate of the variance of a mean, or of a part of it."""

    value: float
    freedom: float  # degrees of freedom of the estimate


def student_interval(centre: float, parts: Sequence[Variance], level: float, method: str) -> Interval:
    """Student's interval where the variance has several parts, with degrees of freedom after Satterthwaite (1946)."""
    total = math.fsum(part.value for part in parts)
    half = 0.0
    if total > 0:
        inverse = math.fsum(part.value**2 / part.freedom for part in parts)
        half = float(scipy.stats.t.ppf((1 + level) / 2, total**2 / inverse)) * math.sqrt(total)
    return Interval(low=centre - half, high=centre + half, level=level, method=method)


def student_p(mean_difference: float, variance: Variance) -> float:
    """The two-sided p of Student's test that the mean is 0."""
    if variance.value <= 0:
        return float(mean_difference == 0)
    return float(2 * scipy.stats.t.sf(abs(mean_difference) / math.sqrt(variance.value), variance.freedom))


def bca_interval(
    values: Numbers, statistic: Callable[..., object], level: float = LEVEL, seed: int = 0
) -> Interval | None:
    """Bias-corrected and accelerated bootstrap interval (Efron 1987); None below BCA_LEAST values.

    `statistic` takes an array and `axis`. Where its jackknife is constant the acceleration is undefined, and the
    result is the percentile interval, named as such.
    """
    if len(values) < BCA_LEAST:
        return None
    sample = np.asarray(values, dtype=np.float64)
    if np.ptp(sample) == 0:
        return Interval(low=float(sample[0]), high=float(sample[0]), level=level, method="BCa bootstrap")
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():  # of a constant jackknife, which the bounds reveal
            warnings.simplefilter("ignore")
            bounds = scipy.stats.bootstrap(
                (sample,),
                statistic,
                n_resamples=_RESAMPLES,
                confidence_level=level,
                method=method,
                rng=np.random.default_rng(seed),
            ).confidence_interval
        if math.isfinite(bounds.low) and math.isfinite(bounds.high):
            break
    return Interval(low=float(bounds.low), high=float(bounds.high), level=level, method=f"{method} bootstrap")


def median_interval(values: Numbers, level: float = LEVEL) -> Interval | None:
    """BCa interval of the median."""
    return bca_interval(values, np.median, level)


def iqm_interval(values: Numbers, level: float = LEVEL) -> Interval | None:
    """BCa interval of the interquartile mean."""
    return bca_interval(values, lambda x, axis=-1: scipy.stats.trim_mean(x, 0.25, axis=axis), level)


# --- Two samples, paired by round --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """a - b, round by round."""

    values: tuple[float, ...]
    mean: float
    std: float | None
    interval: Interval | None  # t, of the mean; None below two rounds
    effect: float | None  # Cohen's d_z: mean / std of the differences; None where it is undefined


def paired_difference(a: Numbers, b: Numbers, level: float = LEVEL) -> PairedDifference:
    """Differences a - b of rounds in the same order; ValueError unless equally many."""
    values = _differences(a, b)
    spread = std(values)
    return PairedDifference(
        values=values,
        mean=mean(values),
        std=spread,
        interval=t_interval(values, level),
        effect=mean(values) / spread if spread else None,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Outperforming:
    """How often a beats b in the same round."""

    probability: float  # P(a > b), ties count half
    wins: int
    ties: int
    losses: int
    interval: Interval  # exact binomial (Clopper and Pearson), at wins + ties / 2


def probability_of_outperforming(a: Numbers, b: Numbers, level: float = LEVEL) -> Outperforming:
    """P(a > b) over rounds paired by order, ties counting half; ValueError unless equally many."""
    values = _differences(a, b)
    n, wins, ties = len(values), sum(d > 0 for d in values), sum(d == 0 for d in values)
    k = wins + ties / 2  # may end in .5, which the beta quantiles below accept
    tail = (1 - level) / 2
    low = float(scipy.stats.beta.ppf(tail, k, n - k + 1)) if k > 0 else 0.0
    high = float(scipy.stats.beta.ppf(1 - tail, k + 1, n - k)) if k < n else 1.0
    return Outperforming(
        probability=k / n,
        wins=wins,
        ties=ties,
        losses=n - wins - ties,
        interval=Interval(low=low, high=high, level=level, method="exact binomial"),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class SignFlip:
    """The sign-flip permutation test of "the mean difference is 0"."""

    p: float
    smallest: float  # the smallest p that n rounds can give, whatever the differences: 2 / 2^n for a single look
    n: int
    method: Literal["exact", "Monte Carlo", "group-sequential"]


def sign_flip_test(differences: Numbers) -> SignFlip:
    """Two-sided p: the share of all 2^n choices of signs whose mean is at least as far from 0 as the observed one.

    Exact up to 40 rounds: the sums of two halves are listed and joined by sorting, so 2^20 choices take a
    millisecond. Above that, a million random choices, the observed one among them.
    """
    d = np.asarray(_not_empty(differences), dtype=np.float64)
    n, observed = len(d), abs(float(d.sum()))
    slack = 1e-9 * float(np.abs(d).sum())  # sums of the same numbers in another order are equal
    if n > _EXACT_MOST:
        rng = np.random.default_rng(0)
        draws, as_far = 1_000_000, 0
        for _ in range(100):
            as_far += int((np.abs(random_signs(rng, draws // 100, n) @ d) >= observed - slack).sum())
        return SignFlip(p=(as_far + 1) / (draws + 1), smallest=2.0 ** (1 - n), n=n, method="Monte Carlo")
    left, right = _signed_sums(d[: n // 2]), np.sort(_signed_sums(d[n // 2 :]))
    at_most = np.searchsorted(right, -(observed - slack) - left, side="right").sum()
    at_least = len(right) * len(left) - np.searchsorted(right, (observed - slack) - left, side="left").sum()
    p = min(1.0, float(at_most + at_least) / 2.0**n)
    return SignFlip(p=p, smallest=2.0 ** (1 - n), n=n, method="exact")


def random_signs(rng: np.random.Generator, draws: int, n: int) -> NDArray[np.float64]:
    """Choices of n signs each, (draws, n)."""
    bits = np.unpackbits(np.frombuffer(rng.bytes(-(-draws * n // 8)), dtype=np.uint8))
    return bits[: draws * n].reshape(draws, n).astype(np.float64) * 2 - 1


def every_sign(n: int) -> NDArray[np.float64]:
    """All 2^n choices of n signs, (2^n, n)."""
    return ((np.arange(2**n)[:, None] >> np.arange(n)) & 1).astype(np.float64) * 2 - 1


def attainable_level(n: int, alpha: float) -> float:
    """The largest possible p of a sign-flip test of n rounds that is below alpha; 0 where none is.

    Such a p is a multiple of the smallest possible one, so few rounds test at a level below alpha, or not at all.
    """
    smallest = 2.0 ** (1 - n)
    return math.floor(alpha / smallest) * smallest


def _signed_sums(d: NDArray[np.float64]) -> NDArray[np.float64]:
    """The 2^n sums of d under every choice of signs."""
    sums = np.zeros(1)
    for x in d:
        sums = np.concatenate([sums + x, sums - x])
    return sums


def holm(p_values: Numbers) -> list[float]:
    """Holm's (1979) adjusted p-values of one family of tests, in the order given."""
    m = len(p_values)
    adjusted, highest = [0.0] * m, 0.0
    for rank, index in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (m - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


@dataclass(frozen=True, kw_only=True, slots=True)
class Pairing:
    """Whether sharing the seeds made the comparison sharper."""

    correlation: float | None  # of a and b over rounds; None where one does not vary
    variance_ratio: float | None  # Var(a - b) / (Var a + Var b): below 1 pairing helped, 1 is no gain


def pairing(a: Numbers, b: Numbers) -> Pairing:
    """What pairing gained; None below three rounds, where a correlation means nothing."""
    differences = _differences(a, b)
    if len(differences) < 3:
        return Pairing(correlation=None, variance_ratio=None)
    var_a, var_b, var_d = (float(np.var(x, ddof=1)) for x in (a, b, differences))
    varies = var_a > 0 and var_b > 0
    return Pairing(
        correlation=float(np.corrcoef(a, b)[0, 1]) if varies else None,
        variance_ratio=var_d / (var_a + var_b) if var_a + var_b > 0 else None,
    )


def detectable_difference(spread: float, n: int, power: float = 0.8, alpha: float = 0.05) -> float | None:
    """The true mean difference that a paired t-test of n rounds detects with that power.

    `spread` is the standard deviation of the differences. None below two rounds or at alpha 0.
    """
    if n < 2 or alpha <= 0:
        return None
    critical = float(scipy.stats.t.ppf(1 - alpha / 2, n - 1))

    def excess(shift: float) -> float:
        """The power at that noncentrality, minus the power asked for."""
        # The lower tail as an upper one of the mirrored distribution: scipy's nct.cdf is often NaN that far out.
        tails = scipy.stats.nct.sf(critical, n - 1, shift) + scipy.stats.nct.sf(critical, n - 1, -shift)
        return float(tails) - power

    high = 1.0
    while excess(high) < 0:
        high *= 2
    return float(scipy.optimize.brentq(excess, 0.0, high)) * spread / math.sqrt(n)


def _differences(a: Numbers, b: Numbers) -> tuple[float, ...]:
    if len(a) != len(b):
        raise ValueError(f"paired samples are equally long, not {len(a)} and {len(b)}")
    # Accuracies are multiples of 1 / pairs: rounding to twelve figures makes equal rounds exactly equal.
    largest = max((abs(float(x)) for x in (*_not_empty(a), *_not_empty(b))), default=0.0)
    digits = 11 - math.floor(math.log10(largest)) if largest else 0
    return tuple(round(float(x) - float(y), digits) for x, y in zip(a, b, strict=True))


def _not_empty(values: Numbers) -> Numbers:
    if not len(values):
        raise ValueError("no values to summarize")
    return values
