"""Repeats of a search: the variance between searches, comparisons over repeats, and what is said of them."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats  # type: ignore[import-untyped]  # ships no types

from hpo.analysis import stats
from hpo.analysis.comparison import Comparison, compare
from hpo.experiment.page import PageFigure, PageTable
from hpo.report.chart_data import repeats_data
from hpo.report.sections.repeats import missing_sentences, repeats_parts
from hpo.report.sentences import conclusions_of
from hpo.results.records import StudyResult
from hpo.study.spec import MODELS
from tests.support.results import COURSE, PARAMS, finals, run, study

RNG = np.random.default_rng(5)


def repeat(model: str, i: int, level: float, rounds: int = 20, **changes: Any) -> StudyResult:
    """The i-th repeat of a model's search: its tuned configuration reaches the level, the paper's 0.85."""
    luck = np.random.default_rng([i, len(model)]).normal(0, 0.001, 20)
    tuned = [level + c + x for c, x in zip(COURSE, luck, strict=True)][:rounds]
    paper = [0.85 + c for c in COURSE][:rounds]
    of = {"id": 10 * len(model) + i, "name": f"{model}-{i}", "repeat_group": model, "seed": i}
    runs = [run("search", 0, value=0.86), *finals("tuned", tuned), *finals("paper", paper)]
    return study(model, runs, **{**of, **changes})


LEVELS = {"simple": (0.86, 0.87, 0.865, 0.855, 0.868, 0.861), "ws": (0.88, 0.885, 0.887, 0.879, 0.89, 0.883)}


def two_models(searches: int = 6) -> list[StudyResult]:
    return [repeat(m, i, level) for m, levels in LEVELS.items() for i, level in enumerate(levels[:searches], start=1)]


# --- The statistics ---------------------------------------------------------------------------------------


def test_of_two_searches_the_f_test_is_the_paired_t_test() -> None:
    a, b = RNG.normal(0, 1, (2, 12)) + RNG.normal(0, 3, 12)
    actual = stats.variance_components([a.tolist(), b.tolist()])
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
    actual = stats.variance_components(table.tolist())
    assert actual is not None
    assert actual.residual == pytest.approx(residual)
    assert actual.between == pytest.approx((between - residual) / 7)
    assert actual.shared == pytest.approx((shared - residual) / 4)
    assert actual.p == pytest.approx(scipy_stats.f.sf(between / residual, 3, 18))


def test_no_difference_is_no_variance() -> None:
    actual = stats.variance_components([[0.1, 0.7, 0.9]] * 3)  # whose means are not exact
    assert actual is not None
    assert (actual.between, actual.residual, actual.interval.low, actual.interval.high) == (0, 0, 0, 0)
    assert actual.p == pytest.approx(1)
    apart = stats.variance_components([[1, 2, 4], [2, 3, 5]])
    assert apart is not None
    assert apart.between == pytest.approx(0.5)
    assert apart.p == 0
    assert stats.variance_components([[1, 2, 3]]) is None
    assert stats.variance_components([[1], [2]]) is None


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
def test_the_estimate_is_unbiased_and_its_interval_covers(spread: float) -> None:
    """Truth: 5 searches of that standard deviation, 20 rounds of 3 that all share, residuals of 1; 2,000 worlds."""
    rng, worlds = np.random.default_rng(1), 2000
    covered, estimates, p = 0, [], []
    for _ in range(worlds):
        table = rng.normal(0, spread, (5, 1)) + rng.normal(0, 3, 20) + rng.normal(0, 1, (5, 20))
        actual = stats.variance_components(table.tolist())
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


# --- What is compared -------------------------------------------------------------------------------------


def parts(results: list[StudyResult], comparison: Comparison) -> list[object]:
    return list(repeats_parts(results, comparison.repeats))


def test_groups_hold_what_each_search_found() -> None:
    results = two_models()
    actual = compare(results).repeats
    assert [(g.group, g.model, len(g.repeats), len(g.rounds)) for g in actual.groups] == [
        ("simple", "simple", 6, 20),
        ("ws", "ws", 6, 20),
    ]
    ws = actual.groups[1]
    assert [r.test for r in ws.repeats] == pytest.approx(LEVELS["ws"], abs=0.001)
    assert ws.repeats[0].params == PARAMS
    assert (ws.repeats[0].source, ws.repeats[0].confirm, ws.repeats[0].search) == (7, 0.9, 0.86)
    expected = scipy_stats.ttest_1samp([r.test for r in ws.repeats], 0).confidence_interval()
    assert ws.interval is not None
    assert (ws.interval.low, ws.interval.high) == pytest.approx((expected.low, expected.high))
    assert ws.components is not None
    assert ws.components.p < 1e-6
    assert [len(group.values) for group in repeats_data(actual, results)] == [20] * 12


def test_over_repeats_a_search_is_one_value() -> None:
    results = two_models()
    actual = compare(results)
    sentences = conclusions_of(results, actual)
    (pair,) = actual.repeats.models
    tests = [[repeat.test for repeat in group.repeats] for group in actual.repeats.groups]
    expected = scipy_stats.ttest_rel(tests[1], tests[0]).confidence_interval()
    assert (pair.a, pair.b, pair.numbers) == ("ws", "simple", (1, 2, 3, 4, 5, 6))
    assert pair.difference.interval is not None
    assert (pair.difference.interval.low, pair.difference.interval.high) == pytest.approx((expected.low, expected.high))
    assert (pair.test.p, pair.p_holm, pair.clear) == (2 / 64, 2 / 64, True)
    assert [(p.a, p.b) for p in actual.repeats.tuning] == [("simple tuned", "simple paper"), ("ws tuned", "ws paper")]
    assert [p.p_holm for p in actual.repeats.tuning] == [4 / 64, 4 / 64]  # two tests
    assert any(
        line.startswith("Over 6 repeats of the search, ws is better than simple: 2.1") for line in sentences.headlines
    )
    assert any(
        "ws did better tuned, though the corrected test does not settle it (p = 0.062): +3." in line
        for line in sentences.headlines
    )
    assert not any("In the table but not in the sentences" in line for line in sentences.cautions)


def test_few_repeats_say_that_they_are_few() -> None:
    results = two_models(searches=3)
    sentences = conclusions_of(results, compare(results))
    (line,) = [
        line for line in sentences.headlines if "Over 3 repeats of the search, ws did better than simple" in line
    ]
    assert "3 repeats are too few for a test (the smallest possible p is 0.25): " in line
    assert "points apart (95% interval" in line
    assert "better in 3 of 3)." in line


def test_repeats_are_paired_by_their_number() -> None:
    """Whatever their seeds."""
    results = [repeat("simple", i, 0.86) for i in (1, 2, 3)] + [repeat("ws", i, 0.86 + 0.01 * i) for i in (2, 3, 4)]
    results = [replace(result, seed=100 + place) for place, result in enumerate(results)]
    (pair,) = compare(results).repeats.models
    assert pair.numbers == (2, 3)
    assert pair.difference.values == pytest.approx((0.02, 0.03), abs=0.001)


def test_repeats_are_held_against_each_other_in_the_rounds_they_share() -> None:
    results = [repeat("ws", 1, 0.88), repeat("ws", 2, 0.89, rounds=5), repeat("ws", 3, 0.87, rounds=0)]
    (group,) = compare(results).repeats.groups
    assert group.rounds == (0, 1, 2, 3, 4)
    assert [r.study for r in group.repeats] == ["ws-1", "ws-2"]
    assert group.repeats[0].test == pytest.approx(0.88 + sum(COURSE[:5]) / 5, abs=0.002)


# --- What is said -----------------------------------------------------------------------------------------


def test_without_repeats_the_section_says_what_is_missing() -> None:
    results = [study("ws", [run("search", 0), *finals("tuned", [0.9, 0.91])])]
    actual = compare(results)
    (line,) = parts(results, actual)
    assert "Only one search was made of ws: " in str(line)
    again = (
        "hpo study export --as-created ws --out ws.toml && hpo study create --file ws.toml --name ws-repeat --repeat 6"
    )
    assert f"`{again}` would measure it, in the same setting" in str(line)
    assert actual.repeats.groups == ()
    assert parts([study("ws", finals("paper", [0.9]))], actual) == []  # nothing was searched


def test_searches_that_began_alike_are_said_to() -> None:
    """Seed 1 of several models is the same random numbers; seven repeats are the fewest that decide between three."""
    results = [study(m, [run("search", 0), *finals("tuned", [0.9, 0.91])], id=i) for i, m in enumerate(MODELS)]
    missing, alike = parts(results, compare(results))
    assert "--repeat 7`" in str(missing)
    assert str(alike).startswith(
        "The searches of simple, ws, ws-aux share the seed 1: where their ranges are the same,"
    )
    other = [replace(result, seed=place) for place, result in enumerate(results)]
    assert len(parts(other, compare(other))) == 1


def test_repeats_that_are_not_done_are_named() -> None:
    results = [repeat("ws", 1, 0.88), repeat("ws", 2, 0.88, rounds=0)]
    actual = compare(results)
    (line,) = missing_sentences(results, actual.repeats)
    assert line == "Repeats without a final round in common with their group yet: ws-1, ws-2."


def test_repeats_of_one_model_do_not_hide_that_another_has_none() -> None:
    """And the model whose repeats are under way is not said to have none."""
    single = [study(m, [run("search", 0), *finals("tuned", [0.9])], id=i) for i, m in enumerate(("simple", "ws"))]
    results = [*single, repeat("ws", 1, 0.88), repeat("ws", 2, 0.88, rounds=0)]
    waiting, left = missing_sentences(results, compare(results).repeats)
    assert waiting.endswith("yet: ws-1, ws-2.")
    assert left.startswith("Only one search was made of simple: ")
    assert parts(results, compare(results)) == [waiting, left]


def test_the_section_has_every_search_and_the_spread() -> None:
    results = two_models()
    actual = parts(results, compare(results))
    tables = [part for part in actual if isinstance(part, PageTable)]
    assert [len(table.rows) for table in tables] == [6, 6, 2, 1, 2]
    assert tables[1].rows[0][0] == "ws-1"
    components = compare(results).repeats.groups[1].components
    assert components is not None
    assert f"{100 * math.sqrt(components.between):.2f}" in tables[2].rows[1]
    (figure,) = [part for part in actual if isinstance(part, PageFigure)]
    ticks = figure.spec["layout"]["xaxis"]["ticktext"]
    assert [tick.split("<br>")[1] for tick in ticks] == [r.name for r in results]
