"""What single test items show: rounds that count once, pairs by evidence, intervals for new items."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]  # ships no types

import hpo
from hpo.analysis.comparison import compare
from hpo.analysis.items import ItemScores, ScoredRound, for_new_items
from hpo.experiment.items import Items
from hpo.experiment.jackknife import blocks_of, column_of, pseudo_values
from hpo.experiment.measure import measure
from hpo.experiment.metric_info import MetricInfo
from hpo.report.sections.comparison import comparison_parts
from hpo.report.sentences import row_note
from hpo.results.records import StudyResult
from tests.support.measured import PRESSURE, contents, measured, measured_spec, scored, texts_of

ACCURACY = (MetricInfo(name="accuracy"),)
ITEMS = 400


def hits(share: float, seed: int, shift: int = 0) -> list[float]:
    """Of a test set that is the same in every round: so many of its items are right, others in each round."""
    right = np.random.default_rng(seed).permutation(ITEMS) < round(share * ITEMS)
    return [float(x) for x in np.roll(right, shift)]


def study(model: str, by_round: list[list[float]], **changes: object) -> tuple[StudyResult, ItemScores]:
    means = [sum(scores) / len(scores) for scores in by_round]
    result = measured(model, {"tuned": means}, ACCURACY, **changes)  # type: ignore[arg-type]
    return result, scored(result, {("tuned", r): {"accuracy": scores} for r, scores in enumerate(by_round)})


def test_equal_rounds_count_once() -> None:
    """Twenty copies of one difference would give p = 0.0000019; they are one observation, with a spread of nothing."""
    a, of_a = study("a", [hits(0.90, 1)] * 20)
    b, of_b = study("b", [hits(0.95, 2)] * 20, id=2)
    comparison = compare([a, b], {1: of_a, 2: of_b})
    (pair,) = comparison.pairs
    assert (pair.rounds, pair.repeated, pair.test.p) == ((0,), 19, 1.0)
    assert not pair.clear_on_these_items
    assert pair.items is not None  # new test items can be asked for all the same
    assert pair.from_items == 1.0
    for row in comparison.rows:
        assert (row.no_spread, row.test.n, row.test.std) == (True, 1, None)
        assert "they count once, and such a method has no spread" in row_note(row)
    (line,) = contents([a, b], {1: of_a, 2: of_b}).conclusions.headlines
    assert "all 20 rounds are equal in every test item, so they count once" in line


def test_rounds_count_where_one_side_differs() -> None:
    """A deterministic model against one that draws: each round is an observation."""
    a, of_a = study("a", [hits(0.90, 1)] * 6)
    b, of_b = study("b", [hits(0.95, 2 + r) for r in range(6)], id=2)
    (pair,) = compare([a, b], {1: of_a, 2: of_b}).pairs
    assert (len(pair.rounds), pair.repeated) == (6, 0)


def test_a_difference_on_few_items_is_not_clear_for_new_ones() -> None:
    """The same ten items separate the two in every round: new seeds would show it again, new items might not."""
    base = np.array(hits(0.5, 0))
    ups, downs = np.flatnonzero(base == 0), np.flatnonzero(base == 1)
    better, worse = [], []
    for r in range(10):
        noise = np.random.default_rng(r)
        first, second = base.copy(), base.copy()
        for side in (first, second):
            side[noise.choice(ITEMS, 1)] = 1.0
        second[ups[:7]], second[downs[:3]] = 1.0, 0.0
        worse.append(list(first))
        better.append(list(second))
    a, of_a = study("a", worse)
    b, of_b = study("b", better, id=2)
    (pair,) = compare([a, b], {1: of_a, 2: of_b}).pairs
    assert pair.clear_on_these_items
    assert not pair.clear
    assert pair.same_items
    assert pair.from_items is not None
    assert pair.from_items > 0.9
    report = contents([a, b], {1: of_a, 2: of_b})
    assert report.conclusions.headlines[0].startswith("b is better than a on these test items: ")
    parts = str(list(comparison_parts(report.comparison)))
    assert "neither interval says how another split into training and test data would come out" in parts
    assert f"({100 * pair.from_items:.0f}%)" in parts


def test_a_difference_on_many_items_is_clear() -> None:
    a, of_a = study("a", [hits(0.70, 1 + r) for r in range(10)])
    b, of_b = study("b", [hits(0.95, 50 + r) for r in range(10)], id=2)
    (pair,) = compare([a, b], {1: of_a, 2: of_b}).pairs
    assert pair.clear
    assert contents([a, b], {1: of_a, 2: of_b}).conclusions.headlines[0].startswith("b is better than a: ")


@pytest.mark.parametrize(("copies", "equal"), [(1, False), (30, True)])
def test_equal_in_practice_needs_enough_items(copies: int, equal: bool) -> None:
    """Equally many items are right in every round, but others: new items may part the two, unless there are many."""
    metric = (MetricInfo(name="accuracy", margin=0.02),)
    results, scores = [], {}
    for number in (1, 2):
        rounds = []
        for r in range(10):
            right = np.ones(ITEMS)
            right[20 * number : 20 * number + 20] = 0.0
            right[-1 - (r + number) % 2] = 0.0  # so that the rounds are not all equal
            rounds.append(np.tile(right, copies).tolist())
        means = [sum(items) / len(items) for items in rounds]
        results.append(measured(f"m{number}", {"tuned": means}, metric, id=number))
        scores[number] = scored(results[-1], {("tuned", r): {"accuracy": items} for r, items in enumerate(rounds)})
    (pair,) = compare(results, scores).pairs
    assert pair.difference.interval is not None
    assert pair.items is not None
    assert abs(pair.difference.mean) < 1e-9
    assert pair.is_immaterial is equal
    assert (max(-pair.items.low, pair.items.high) < 0.02) is equal
    (line,) = contents(results, scores).conclusions.headlines
    assert ("equal in practice (a difference below 2.0 points counts as none)" in line) is equal


def test_shares_are_those_of_the_variances() -> None:
    """Items and rounds that add up: each part's share is known beforehand."""
    rng = np.random.default_rng(3)
    of_item, of_round = rng.normal(0, 1.0, ITEMS), rng.normal(0, 0.05, 20)
    flat = {r: ScoredRound(scores=np.zeros(ITEMS), units=np.arange(ITEMS)[:, None]) for r in range(20)}
    made = {r: ScoredRound(scores=of_item + of_round[r], units=np.arange(ITEMS)[:, None]) for r in range(20)}
    (expected,) = for_new_items([(made, flat)], MetricInfo(name="gain"))
    assert expected is not None
    items, rounds = of_item.var() / ITEMS, of_round.var() / 20
    assert expected.from_units == pytest.approx(items / (items + rounds), abs=0.02)


@pytest.mark.parametrize(
    "changes",
    [
        {"each": {"items": 41}},
        {"each": {"units_digest": "other"}},
        {"data_digest": "other"},
    ],
)
def test_rounds_pair_by_evidence(changes: dict[str, object]) -> None:
    """The same data, test items and units in the same order; whatever the experiment is called."""
    a = measured("a", {"tuned": [9.0, 9.1, 9.3]}, name="one")
    assert len(compare([a, measured("b", {"tuned": [8.0, 8.2, 8.1]}, name="two", id=2)]).pairs) == 1
    b = measured("b", {"tuned": [8.0, 8.2, 8.1]}, name="one", id=2, **changes)  # type: ignore[arg-type]
    assert compare([a, b]).pairs == ()


def test_another_metric_or_unit_is_another_setting() -> None:
    a = measured("a", {"tuned": [9.0, 9.1, 9.3]})
    kpa = MetricInfo(name="rmse", maximize=False, diverged=1e9, combine="root", unit="kPa")
    b = measured("b", {"tuned": [1.1, 1.2, 1.3]}, (kpa,), id=2)
    report = contents([a, b])
    assert report.comparison.pairs == ()
    assert len(report.comparison.settings) == 2
    captions = str(list(comparison_parts(report.comparison)))
    assert "mmHg" not in captions


def test_what_has_nothing_to_tune_is_compared_with_what_is_tuned() -> None:
    """A baseline takes part with its reference; nothing is reported to be missing of it."""
    from hpo.study.experiment_spec import spec_from
    from tests.support.described import described, described_model

    spec = spec_from(
        described(name="exp", metrics=(PRESSURE,), models={"mean": described_model({}, {})}, options={}),
        {"model": "mean"},
        "a test",
    )
    values = [9.0, 9.1, 9.3, 9.2, 9.15, 9.05, 9.4]
    mean = measured("mean", {"reference": [v + 3 for v in values[:-1]] + [12.5]}, (PRESSURE,), tuned=None)
    mean = type(mean)(**{**{name: getattr(mean, name) for name in mean.__slots__}, "spec": spec})
    ridge = measured("ridge", {"reference": [v + 0.5 for v in values], "tuned": values}, (PRESSURE,), id=2)
    report = contents([mean, ridge])
    line = next(line for line in report.conclusions.headlines if "mean" in line)
    assert (
        "ridge with a configuration given as tuned, mean with nothing to tune, their test RMSE is 9.171 mmHg and 12.19 "
        in line
    )
    assert report.conclusions.budget is not None
    assert "no search" not in report.conclusions.budget


# --- A jackknife ------------------------------------------------------------------------------------------------


def test_a_jackknifes_spread_is_that_of_resampled_items() -> None:
    """Of an area under a curve, whose single items have no scores, against a bootstrap of the items."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, ITEMS)
    outputs = y + rng.normal(0, 1.2, ITEMS)
    (score,) = measure(lambda x: x, Items(outputs, y), [hpo.auc], blocks=blocks_of(np.arange(ITEMS)))
    assert score is not None
    assert score.items is not None
    assert score.blocks is not None
    assert score.value == roc_auc_score(y, outputs)
    assert score.items.mean() == pytest.approx(score.value, abs=2e-3)
    resampled = []
    for _ in range(300):
        drawn = rng.integers(0, ITEMS, ITEMS)
        resampled.append(roc_auc_score(y[drawn], outputs[drawn]))
    made, flat = (
        {r: ScoredRound(scores=values, units=score.blocks[:, None]) for r in range(2)}
        for values in (score.items, np.zeros(ITEMS))
    )
    (expected,) = for_new_items([(made, flat)], MetricInfo(name="auc"))
    assert expected is not None
    width = expected.interval.high - expected.interval.low
    assert width == pytest.approx(2 * 1.96 * float(np.std(resampled)), rel=0.25)


@pytest.mark.parametrize("combine", ["mean", "root", "ratio", "exp_ratio", "geometric"])
def test_pseudo_values_of_what_adds_up_are_the_items_own(combine: str) -> None:
    """Where a metric is a mean over items after all, a block's pseudo-value is the mean of its own items."""
    metric = MetricInfo(name="m", combine=combine)  # type: ignore[arg-type]
    items = np.random.default_rng(1).uniform(1, 2, 60)
    added = metric.items_of(items)
    blocks = np.arange(60, dtype=np.int64) % 12
    made = pseudo_values(metric.combined(added), lambda rest: metric.combined(added[rest]), blocks, metric)
    assert made is not None
    assert metric.combined(made) == pytest.approx(metric.combined(added))
    for block in range(12):
        assert metric.combined(made[blocks == block]) == pytest.approx(metric.combined(added[blocks == block]))


def test_without_a_block_that_is_needed_there_is_no_jackknife() -> None:
    """The one positive item is in some block: without that block there is no curve."""
    y = np.zeros(50, dtype=int)
    y[7] = 1
    (score,) = measure(lambda x: x, Items(np.linspace(0, 1, 50), y), [hpo.auc], blocks=blocks_of(np.arange(50)))
    assert score is not None
    assert score.items is None


def test_blocks_are_of_the_unit_alone() -> None:
    """The same for every model and round, whatever else is tested; spread over all of them."""
    few, many = blocks_of(np.array([5, -3, 10**15])), blocks_of(np.arange(10_000))
    assert list(blocks_of(np.array([10**15, 5]))) == [few[2], few[0]]
    counts = np.bincount(many, minlength=100)
    assert len(counts) == 100
    assert counts.min() > 60


def test_pairs_of_a_metric_without_items_have_an_interval_for_new_ones() -> None:
    """From the stored pseudo-values and their blocks."""
    auc = (MetricInfo(name="auc", diverged=0.5),)
    results, scores = [], {}
    for number, (model, level) in enumerate((("a", 0.7), ("b", 0.9)), start=1):
        rounds = [level + 0.01 * np.sin(r) for r in range(8)]
        result = measured(model, {"tuned": rounds}, auc, id=number)
        blocks = blocks_of(np.arange(ITEMS))
        noise = np.random.default_rng(number).normal(0, 0.3, 100)
        stored = {
            ("tuned", r): {"auc": value + noise[blocks], column_of("auc"): blocks} for r, value in enumerate(rounds)
        }
        results.append(result)
        scores[number] = scored(result, stored)
    (pair,) = compare(results, scores).pairs
    assert pair.items is not None
    assert pair.clear_on_these_items


# --- What others have published -----------------------------------------------------------------------------------


def test_published_values_stand_beside_the_results() -> None:
    """In the table and the figure, of the first metric and the others; no part of what the study is."""
    reported = {"rmse": 8.5, "mae": 7.25}
    result = measured("trees", {"tuned": [9.0, 9.1, 9.3]}, model_fields={"published": reported})
    rows = [row for row in compare([result]).rows if row.label == "published"]
    assert [(row.test.mean, row.others["mae"].mean, row.study) for row in rows] == [(8.5, 7.25, None)]
    with_it, without = (measured_spec("trees", result.metrics, published=values) for values in (reported, {}))
    assert with_it.digest == without.digest
    assert "published" not in without.canonical()
    assert type(with_it).from_canonical(with_it.canonical()).published == reported
    assert "Grey: the published value." in texts_of(contents([result]))["page"]
