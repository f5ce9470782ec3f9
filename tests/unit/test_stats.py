"""Statistics against scipy, against plain recounts, and by simulation under a known truth."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats  # type: ignore[import-untyped]  # ships no types

from hpo.analysis import stats

RNG = np.random.default_rng(7)
A = RNG.normal(0.88, 0.011, 20).round(3).tolist()
B = RNG.normal(0.87, 0.012, 20).round(3).tolist()

accuracies = st.lists(st.integers(-1000, 1000).map(lambda k: k / 1000), min_size=1, max_size=9)


def test_t_interval_is_scipys() -> None:
    interval = stats.t_interval(A)
    assert interval is not None
    expected = scipy_stats.ttest_1samp(A, 0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert stats.mean(A) == pytest.approx(np.mean(A))
    assert stats.std(A) == pytest.approx(np.std(A, ddof=1))


def test_one_value_has_no_spread() -> None:
    """From one round there is neither a standard deviation nor an interval; from none not even a mean."""
    assert stats.std([0.9]) is None
    assert stats.t_interval([0.9]) is None
    assert stats.paired_difference([0.9], [0.8]).interval is None
    with pytest.raises(ValueError, match="no values"):
        stats.mean([])


def test_rounds_that_collapse_are_told_from_those_that_vary() -> None:
    """Against simulation: rarely among normal values, nearly always where a round falls to chance; either direction."""
    rng = np.random.default_rng(0)
    for n, most in ((8, 0.025), (20, 0.005)):
        drawn = rng.normal(0.9, 0.01, (2000, n))
        assert np.mean([bool(stats.collapsed(list(values))) for values in drawn]) < most
        drawn[:, 3] = 0.5
        assert np.mean([stats.collapsed(list(values)) == [3] for values in drawn]) > 0.97
    values = [*np.linspace(1, 2, 10), 90.0]
    assert (stats.collapsed(values, -1), stats.collapsed(values)) == ([10], [])
    assert stats.collapsed([0.9] * 9 + [0.1]) == [], "no spread to compare with"
    assert stats.collapsed([0.9, 0.91, 0.92, 0.1]) == [], "too few"


def test_the_interval_of_a_mean_covers_less_where_rounds_collapse() -> None:
    """Why it is said: one in twenty rounds falls to chance."""
    rng, truth = np.random.default_rng(1), 0.95 * 0.9 + 0.05 * 0.5
    drawn = np.where(rng.random((2000, 20)) < 0.05, 0.5, rng.normal(0.9, 0.01, (2000, 20)))
    intervals = [stats.t_interval(list(values)) for values in drawn]
    covered = np.mean([i is not None and i.low <= truth <= i.high for i in intervals])
    assert 0.55 < covered < 0.7


def test_iqm_leaves_out_a_quarter_on_either_side() -> None:
    assert stats.iqm([100, 2, 3, 4, 5, -100, 6, 7]) == pytest.approx((3 + 4 + 5 + 6) / 4)
    assert stats.iqm([1, 2, 9]) == pytest.approx(4)  # fewer than four: nothing to cut


def test_bca_interval_is_that_of_a_plain_implementation() -> None:
    """Efron's formulas written out, on other resamples: the bounds agree to the resampling's noise."""
    interval = stats.bca_interval(A, np.mean)
    assert interval is not None
    assert interval.method == "BCa bootstrap"
    a = np.array(A)
    resampled = a[np.random.default_rng(99).integers(0, 20, (20_000, 20))].mean(axis=1)
    bias = scipy_stats.norm.ppf((resampled < a.mean()).mean())
    jackknife = np.array([np.delete(a, i).mean() for i in range(20)])
    d = jackknife.mean() - jackknife
    acceleration = (d**3).sum() / (6 * (d**2).sum() ** 1.5)
    z = bias + scipy_stats.norm.ppf([0.025, 0.975])
    bounds = np.quantile(resampled, scipy_stats.norm.cdf(bias + z / (1 - acceleration * z)))
    assert (interval.low, interval.high) == pytest.approx(bounds, abs=2e-4)


def test_bootstrap_needs_ten_rounds_and_stands_ties() -> None:
    assert stats.median_interval(A[:9]) is None
    same = stats.median_interval([0.9] * 12)
    assert same is not None
    assert (same.low, same.high) == (0.9, 0.9)
    tied = stats.median_interval([0.9] * 11 + [0.8])  # a constant jackknife: no acceleration
    assert tied is not None
    assert 0.8 <= tied.low <= tied.high == 0.9


def test_paired_difference_is_the_paired_t_tests() -> None:
    actual = stats.paired_difference(A, B)
    expected = scipy_stats.ttest_rel(A, B).confidence_interval(0.95)
    assert actual.interval is not None
    assert (actual.interval.low, actual.interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    d = np.subtract(A, B)
    assert actual.effect == pytest.approx(d.mean() / d.std(ddof=1))
    with pytest.raises(ValueError, match="equally long"):
        stats.paired_difference(A, B[:-1])


def test_probability_of_outperforming_counts_ties_half() -> None:
    actual = stats.probability_of_outperforming([3, 2, 1, 5], [1, 2, 4, 2])
    assert (actual.wins, actual.ties, actual.losses, actual.probability) == (2, 1, 1, 0.625)


@pytest.mark.parametrize("wins", [0, 7, 20])
def test_its_interval_is_the_exact_binomial_one(wins: int) -> None:
    actual = stats.probability_of_outperforming([1] * wins + [0] * (20 - wins), [0.5] * 20)
    expected = scipy_stats.binomtest(wins, 20).proportion_ci(0.95, method="exact")
    assert (actual.interval.low, actual.interval.high) == pytest.approx((expected.low, expected.high))


def test_sign_flip_p_is_scipys_permutation_p() -> None:
    d = np.subtract(A, B)[:11]
    expected = scipy_stats.permutation_test(
        (d,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    assert stats.sign_flip_test(d.tolist()).p == pytest.approx(expected.pvalue)


@given(accuracies)
def test_sign_flip_p_is_that_of_a_recount(differences: list[float]) -> None:
    """All choices of signs written out, in integers, so that equal sums are equal."""
    whole = [round(1000 * d) for d in differences]
    sums = [
        abs(sum(s * w for s, w in zip(signs, whole, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(whole))
    ]
    actual = stats.sign_flip_test(differences)
    assert actual.p == sum(s >= abs(sum(whole)) for s in sums) / len(sums)
    assert actual.smallest <= actual.p <= 1
    assert stats.sign_flip_test([-d for d in differences]).p == actual.p


def test_sign_flip_names_the_smallest_possible_p() -> None:
    actual = stats.sign_flip_test([0.01] * 5)
    assert actual.p == actual.smallest == 2 / 2**5
    twenty = stats.sign_flip_test([0.01 + 0.001 * i for i in range(20)])
    assert (twenty.p, twenty.method) == (2 / 2**20, "exact")


def test_sign_flip_of_many_rounds_is_sampled() -> None:
    d = RNG.normal(0.25, 1, 45)
    actual = stats.sign_flip_test(d.tolist())
    assert actual.method == "Monte Carlo"
    assert actual.p == pytest.approx(scipy_stats.ttest_1samp(d, 0).pvalue, abs=0.02)


def test_holm() -> None:
    """Holm's own example of stepping down: order kept, monotone, at most 1."""
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_pairing_is_measured() -> None:
    shared = RNG.normal(0, 1, 200)
    a, b = shared + RNG.normal(0, 0.5, 200), shared + RNG.normal(0, 0.5, 200)
    helped = stats.pairing(a.tolist(), b.tolist())
    assert helped.correlation == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert helped.variance_ratio == pytest.approx(0.2, abs=0.1)  # 2 * 0.25 / (2 * 1.25)
    assert stats.pairing([1, 1, 1], [1, 2, 3]).correlation is None
    assert stats.pairing([1, 2], [2, 1]) == stats.Pairing(correlation=None, variance_ratio=None)


@pytest.mark.parametrize(("n", "alpha"), [(3, 0.05), (8, 1 / 64), (20, 0.05)])
def test_detectable_difference_has_the_power_it_says(n: int, alpha: float) -> None:
    """Of 8 rounds at 1/64 as well, where scipy's nct.cdf is NaN at some of the differences tried."""
    difference = stats.detectable_difference(0.02, n, alpha=alpha)
    assert difference is not None
    samples = np.random.default_rng(3).normal(difference, 0.02, (20_000, n))
    assert (scipy_stats.ttest_1samp(samples, 0, axis=1).pvalue < alpha).mean() == pytest.approx(0.8, abs=0.015)
    assert stats.detectable_difference(0.02, 1) is None


@pytest.mark.parametrize(
    ("n", "tests", "flips"), [(5, 1, 0), (6, 1, 1), (6, 2, 0), (8, 1, 6), (8, 6, 1), (20, 3, 8738)]
)
def test_few_rounds_test_at_less_than_alpha(n: int, tests: int, flips: int) -> None:
    """Of the 2^(n-1) pairs of mirrored sign choices so many may lie as far out; just one more would be too many."""
    smallest = stats.sign_flip_test([1.0] * n).smallest
    level = stats.attainable_level(n, (1 - stats.LEVEL) / tests)
    assert level == flips * smallest
    assert tests * level < 1 - stats.LEVEL < tests * (level + smallest)


@pytest.mark.parametrize(("n", "tests"), [(6, 1), (10, 3), (20, 6)])
def test_what_is_detectable_is_found_by_the_corrected_test(n: int, tests: int) -> None:
    """400 worlds in which the truth is the detectable difference: the sign-flip test at Bonferroni's bound finds it."""
    level = stats.attainable_level(n, (1 - stats.LEVEL) / tests)
    difference = stats.detectable_difference(0.02, n, alpha=level)
    assert difference is not None
    worlds = np.random.default_rng(4).normal(difference, 0.02, (400, n)).tolist()
    actual = np.mean([tests * stats.sign_flip_test(world).p < 1 - stats.LEVEL for world in worlds])
    assert actual == pytest.approx(0.8, abs=0.07)
    assert stats.detectable_difference(0.02, n, alpha=0.0) is None


def test_intervals_cover_and_the_test_keeps_its_level() -> None:
    """Under a known truth: 95 % intervals cover about 95 %, the sign-flip test rejects at most 5 %."""
    rng = np.random.default_rng(11)
    covered, rejected, n = 0, 0, 400
    for _ in range(n):
        sample = rng.normal(0, 1, 8).tolist()
        interval = stats.t_interval(sample)
        assert interval is not None
        covered += interval.low <= 0 <= interval.high
        rejected += stats.sign_flip_test(sample).p < 0.05
    assert covered / n == pytest.approx(0.95, abs=0.035)
    assert rejected / n == pytest.approx(0.047, abs=0.035)  # 12 of 256 sign choices


@settings(max_examples=20, deadline=None)
@given(st.integers(10, 30), st.integers(0, 1000))
def test_bootstrap_intervals_hold_their_statistic(n: int, seed: int) -> None:
    sample = np.random.default_rng(seed).normal(0.9, 0.01, n).round(3).tolist()
    interval = stats.iqm_interval(sample)
    assert interval is not None
    assert interval.low <= stats.iqm(sample) <= interval.high
