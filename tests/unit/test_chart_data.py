"""The data of the charts: groups of rounds and learning curves."""

import pytest

from hpo.analysis.comparison import compare
from hpo.report import chart_data
from tests.support.results import around, finals, run, study


def test_rounds_data_has_a_group_for_every_row() -> None:
    results = [study("ws", finals("tuned", around(0.9)) + finals("paper", [0.87]))]
    published, paper, tuned = chart_data.rounds_data(results, compare(results))
    assert published.values == ()
    assert published.low == pytest.approx(0.872 - 0.011)
    assert (paper.values, paper.low, paper.high) == ((0.87,), 0.87, 0.87)
    assert tuned.rounds == tuple(range(20))
    assert tuned.low < tuned.mean < tuned.high


def test_curves_are_means_with_their_range() -> None:
    runs = [run("confirm", i, label="trial 7", round=i, validation_accuracy=(0.5, 0.6 + 0.1 * i)) for i in range(2)]
    runs += [run("confirm", 5, label="trial 9", round=0)]  # not the winner's
    runs += [run("final", 8, label="tuned", round=0, train_loss=(0.5, None))]  # not finite: left out
    (curve,) = chart_data.curves_data(study("ws", runs))
    assert (curve.label, curve.what, curve.runs) == ("tuned", "validation accuracy", 2)
    assert curve.mean == pytest.approx((0.5, 0.65))
    assert curve.low == pytest.approx((0.5, 0.6))
    assert curve.high == pytest.approx((0.5, 0.7))
