"""A crossed table of searches by rounds: its components, and what holds for new searches and new rounds."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats as scipy_stats  # type: ignore[import-untyped]  # ships no types

from hpo.analysis.crossed import crossed_test, variance_components, variance_of_mean
from hpo.analysis.looks import Looks
from hpo.analysis.pairwise import Contrast
from hpo.analysis.stats import paired_difference, student_interval, student_p
from hpo.study.digits_spec import METRICS

RNG = np.random.default_rng(5)
SPREADS = {  # standard deviations between searches and between rounds; that of the residual is 1
    "nothing but the residual": (0.0, 0.0),
    "searches alike": (0.0, 1.0),
    "rounds alike": (0.5, 0.0),
    "both": (0.5, 1.0),
    "searches most": (2.0, 0.5),
}


def tables(worlds: int, searches: int, between: float, shared: float, rounds: int = 20) -> list[list[list[float]]]:
    """Made-up differences whose true mean is 0."""
    rng = np.random.default_rng(1)
    made = (
        rng.normal(0, between, (worlds, searches, 1))
        + rng.normal(0, shared, (worlds, 1, rounds))
        + rng.normal(0, 1, (worlds, searches, rounds))
    )
    return made.tolist()  # type: ignore[no-any-return]


# --- Components -------------------------------------------------------------------------------------------


def test_of_two_searches_the_f_test_is_the_paired_t_test() -> None:
    a, b = RNG.normal(0, 1, (2, 12)) + RNG.normal(0, 3, 12)
    actual = variance_components([a.tolist(), b.tolist()])
    assert actual is not None
    assert actual.p == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue)


def test_components_are_those_of_a_least_squares_fit() -> None:
    """Sums of squares as what the residuals of a linear model lose with searches, and with rounds, as factors."""
    table = RNG.normal(0, 1, (4, 7)) + RNG.normal(0, 2, (4, 1)) + RNG.normal(0, 3, 7)
    rows, columns = (np.eye(k)[i.ravel()] for k, i in zip((4, 7), np.indices((4, 7)), strict=True))

    def left(*factors: np.ndarray) -> float:
        design = np.column_stack([np.ones(28), *factors])
        return float(((table.ravel() - design @ np.linalg.lstsq(design, table.ravel(), rcond=None)[0]) ** 2).sum())

    residual = left(rows, columns) / 18
    between = (left(columns) - left(rows, columns)) / 3
    shared = (left(rows) - left(rows, columns)) / 6
    actual = variance_components(table.tolist())
    assert actual is not None
    assert actual.residual == pytest.approx(residual)
    assert actual.between == pytest.approx((between - residual) / 7)
    assert actual.shared == pytest.approx((shared - residual) / 4)
    assert actual.p == pytest.approx(scipy_stats.f.sf(between / residual, 3, 18))


def test_no_difference_is_no_variance() -> None:
    actual = variance_components([[0.1, 0.7, 0.9]] * 3)  # whose means are not exact
    assert actual is not None
    assert (actual.between, actual.residual, actual.interval.low, actual.interval.high) == (0, 0, 0, 0)
    assert actual.p == pytest.approx(1)
    apart = variance_components([[1, 2, 4], [2, 3, 5]])
    assert apart is not None
    assert apart.between == pytest.approx(0.5)
    assert apart.p == 0
    assert variance_components([[1, 2, 3]]) is None
    assert variance_components([[1], [2]]) is None


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
def test_the_estimate_is_unbiased_and_its_interval_covers(spread: float) -> None:
    """Truth: 5 searches of that standard deviation, 20 rounds of 3 that all share, residuals of 1; 2,000 worlds."""
    rng, worlds = np.random.default_rng(1), 2000
    covered, estimates, p = 0, [], []
    for _ in range(worlds):
        table = rng.normal(0, spread, (5, 1)) + rng.normal(0, 3, 20) + rng.normal(0, 1, (5, 20))
        actual = variance_components(table.tolist())
        assert actual is not None
        covered += actual.interval.low <= spread**2 <= actual.interval.high
        by_search = table.mean(axis=1)  # the estimate before it is cut off at 0
        estimates.append(float(by_search.var(ddof=1)) - actual.residual / 20)
        assert actual.between == pytest.approx(max(0.0, estimates[-1]), abs=1e-9)
        p.append(actual.p)
    error = float(np.std(estimates)) / math.sqrt(worlds)
    assert np.mean(estimates) == pytest.approx(spread**2, abs=4 * error)
    assert covered / worlds >= 0.935
    assert spread == 0 or covered / worlds <= 0.965
    if spread == 0:
        assert np.mean(np.array(p) < 0.05) == pytest.approx(0.05, abs=0.02)


# --- The mean over searches and rounds --------------------------------------------------------------------


@pytest.mark.parametrize("spreads", SPREADS.values(), ids=SPREADS)
@pytest.mark.parametrize("searches", [7, 20])
def test_the_interval_for_new_searches_and_rounds_covers(spreads: tuple[float, float], searches: int) -> None:
    """Student's t over searches alone covers 75% with 7 searches that do not differ, 48% with 20; 1,000 worlds."""
    covered = []
    for table in tables(1000, searches, *spreads):
        variance = variance_of_mean(table)
        assert variance is not None
        interval = student_interval(float(np.mean(table)), [variance], 0.95, "t")
        covered.append(interval.low <= 0 <= interval.high)
    assert np.mean(covered) >= 0.93  # 3 standard errors below 95%


@pytest.mark.parametrize("spreads", SPREADS.values(), ids=SPREADS)
def test_the_test_over_repeats_keeps_its_level(spreads: tuple[float, float]) -> None:
    """Whatever differs, in 7 searches of 20 rounds: sign flips over the searches alone erred in up to 65% of worlds."""
    single = Looks(declared=(20,))
    tests = [crossed_test(table, range(20), single) for table in tables(500, 7, *spreads)]
    assert np.mean([test.p < 0.05 for test in tests]) <= 0.08  # 3 standard errors above 5%
    if spreads == (0.0, 1.0):
        assert np.mean([test.over_searches.p < 0.05 for test in tests]) > 0.3  # so the worlds are such that it matters


def test_a_difference_is_found_where_searches_and_rounds_agree() -> None:
    """One of three standard errors of what is simulated is found by far most often."""
    single = Looks(declared=(20,))
    error = math.sqrt(0.5**2 / 10 + 0.5**2 / 20 + 1 / 200)
    made = np.array(tables(200, 10, 0.5, 0.5)) + 3.5 * error
    assert np.mean([crossed_test(table, range(20), single).p < 0.05 for table in made.tolist()]) > 0.75


@pytest.mark.parametrize(("truth", "least", "most"), [(0.005, 0.0, 0.045), (0.0, 0.9, 1.0)])
def test_equality_over_repeats_is_claimed_where_it_is_so(truth: float, least: float, most: float) -> None:
    """At the margin in 2.5% of worlds at most, of 7 repeats in 20 rounds; nearly always where nothing differs."""
    metric = replace(METRICS[0], margin=0.005)
    claims = []
    for table in tables(1000, 7, 0.3, 0.6):
        differences = [[truth + 0.005 * x for x in row] for row in table]
        means, variance = [float(np.mean(row)) for row in differences], variance_of_mean(differences)
        assert variance is not None
        interval = student_interval(float(np.mean(means)), [variance], 0.95, "t")
        difference = replace(paired_difference(means, [0.0] * 7), interval=interval)
        claims.append(
            Contrast(
                family="models",
                setting=0,
                metric=metric,
                epochs=None,
                difference=difference,
                p_holm=1.0,
                items=interval,
            ).is_immaterial
        )
    assert least <= np.mean(claims) <= most


def test_the_variance_is_that_of_the_mean_squares() -> None:
    table = (RNG.normal(0, 1, (4, 7)) + RNG.normal(0, 2, (4, 1)) + RNG.normal(0, 3, 7)).tolist()
    components, variance = variance_components(table), variance_of_mean(table)
    assert components is not None
    assert variance is not None
    expected = components.between / 4 + components.shared / 7 + components.residual / 28
    assert variance.value == pytest.approx(expected)  # none of these components is 0
    assert 3 <= variance.freedom <= 9


def test_the_variance_is_never_less_than_searches_or_rounds_alone_show() -> None:
    """Where both happen to differ less than their noise: the difference of mean squares may be below 0."""
    noise = np.array([[1.0, -1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, 1.0], [1.0, -1.0, 1.0, -1.1]])
    variance = variance_of_mean(noise.tolist())
    assert variance is not None
    by_search = float(np.var(noise.mean(axis=1), ddof=1)) / 3
    by_round = float(np.var(noise.mean(axis=0), ddof=1)) / 4
    assert variance.value == pytest.approx(max(by_search, by_round))


def test_equal_tables_and_single_rounds_are_no_evidence_of_a_spread() -> None:
    same = [[0.01] * 20] * 7
    variance = variance_of_mean(same)
    assert variance is not None
    assert variance.value == 0
    assert student_p(0.01, variance) == 0
    assert student_p(0.0, variance) == 1
    assert variance_of_mean([[0.1], [0.2]]) is None
    single = crossed_test([[0.1], [0.2]] * 5, [0], Looks(declared=(1,)))
    assert (single.p, single.scarce) == (1, (single.over_rounds, "rounds"))


def test_several_looks_are_paid_for() -> None:
    table = tables(1, 8, 0.3, 0.3)[0]
    table = [[x + 2 for x in row] for row in table]
    once, at_first = (crossed_test(table, range(20), Looks(declared=looks)) for looks in ((20,), (20, 40, 60)))
    assert once.p == 2 / 256
    assert at_first.p == pytest.approx(6 * once.p)  # of shares 1/3, 2/3 and 1 the first spends a sixth
    assert at_first.smallest == pytest.approx(6 * once.smallest)
