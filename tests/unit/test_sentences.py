"""The conclusions in words: headlines, cautions, the warning of a small budget."""

from dataclasses import replace

import pytest

from hpo.analysis.comparison import compare
from hpo.analysis.pairwise import BETWEEN_REFERENCE, BETWEEN_TUNED, TUNING
from hpo.analysis.tuning import tuning_of
from hpo.report.cautions import budget_warning
from hpo.report.sentences import conclusions_of, tuning_verdict
from hpo.study.spec import builtin_spec
from tests.support.results import PARAMS, around, by_image, finals, run, study


def test_a_clear_difference_is_stated_with_its_uncertainty() -> None:
    results = [
        study("ws", finals("tuned", around(0.90)) + finals("paper", around(0.87, 0.001))),
        study("ws-aux", finals("tuned", around(0.98, 0.004)) + finals("paper", around(0.97)), id=2),
    ]
    comparison = compare(results, by_image(results))
    assert [pair.kind for pair in comparison.pairs] == [BETWEEN_TUNED, BETWEEN_REFERENCE, TUNING, TUNING]
    pair = comparison.pairs[0]
    assert pair.difference.mean == pytest.approx(0.08)
    assert pair.clear
    assert (pair.test.p, pair.p_holm) == (2 / 2**20, 2 * 2 / 2**20)  # two pairs of models in the family
    assert comparison.pairs[2].p_holm == pytest.approx(2 * 2 / 2**20)  # two tests in the family
    assert pair.pairing.variance_ratio is not None
    assert pair.pairing.variance_ratio < 0.5
    headlines = conclusions_of(results, comparison).headlines
    assert headlines[0].startswith(
        "ws-aux is better than ws: both with configurations given as tuned at 40 epochs, their test accuracy is "
    )
    assert (
        "8.0 points apart (95% interval 7.8 to 8.2, 7.8 to 8.2 for new test images too; better in 20 of 20 rounds)"
        in headlines[0]
    )
    assert headlines[1].startswith(
        "The configuration given as tuned improved ws: test accuracy 90.0% with it, 87.0% with the paper's"
    )
    assert "+3.0 points (95% interval +3.0 to +3.0" in headlines[1]
    without = conclusions_of(results, compare(results)).headlines
    assert without[0].startswith("ws-aux is better than ws on these test images: both with config")
    assert without[1].startswith("The configuration given as tuned improved ws on these test images: ")


def test_the_worse_model_is_never_called_better() -> None:
    """The pairs are ordered by model; the sentence by what was measured."""
    results = [
        study("simple", finals("tuned", around(0.93, 0.004)) + finals("paper", around(0.93))),
        study("ws", finals("tuned", around(0.90)) + finals("paper", around(0.92)), id=2),
    ]
    headlines = conclusions_of(results, compare(results, by_image(results))).headlines
    assert headlines[0].startswith(
        "simple is better than ws: both with configurations given as tuned at 40 epochs, their test accuracy is "
    )
    assert (
        "3.0 points apart (95% interval 2.8 to 3.2, 2.8 to 3.2 for new test images too; better in 20 of 20 rounds)"
        in headlines[0]
    )
    assert any(
        line.startswith("The configuration given as tuned harmed ws: test accuracy 90.0% with it, 92.0%")
        for line in headlines
    )
    assert any(
        line.startswith("The configuration given as tuned made no practical difference to simple (a difference below ")
        for line in headlines
    )


def test_a_model_that_is_not_tuned_yet_is_compared_with_the_papers_values() -> None:
    """Each pair of models has its sentence, which says what is compared; a pair that is tuned has no second one."""
    results = [
        study("simple", finals("tuned", around(0.86)) + finals("paper", around(0.84, 0.001))),
        study("ws", finals("tuned", around(0.90, 0.002)) + finals("paper", around(0.87)), id=2),
        study("ws-aux", finals("paper", around(0.97, 0.003)), id=3),
    ]
    lines = conclusions_of(results, compare(results, by_image(results))).headlines
    assert [line.partition(", their test accuracy")[0] for line in lines[:3]] == [
        "ws is better than simple: both with configurations given as tuned at 40 epochs",
        "ws-aux is better than simple: both with the paper's configuration at 40 epochs",
        "ws-aux is better than ws: both with the paper's configuration at 40 epochs",
    ]
    assert all(line.startswith("The configuration given as tuned improved") for line in lines[3:])


@pytest.mark.parametrize("source", [7, "paper"])
def test_nothing_is_concluded_from_a_search_of_which_too_much_failed(source: int | str) -> None:
    """A database of an earlier version may hold one: its tuned configuration says nothing about tuning its model."""
    failed = [run("search", idx, state="failed" if idx > 4 else "complete") for idx in range(8)]
    tuned = {"params": PARAMS, "source": source, "confirm_mean": 0.9}
    rounds = finals("paper", around(0.87, 0.001)) + (finals("tuned", around(0.90)) if source == 7 else [])
    spoiled = study("ws", failed + rounds, tuned=tuned)
    whole = study("ws-aux", finals("tuned", around(0.98, 0.004)) + finals("paper", around(0.97)), id=2)
    results = [spoiled, whole]
    lines = conclusions_of(results, compare(results, by_image(results))).headlines
    assert "Nothing is concluded about tuning ws: 3 of 8 trials of its search failed." in lines
    assert lines[0].startswith("ws-aux is better than ws: both with the paper's configuration")
    assert sum("ws" in line.replace("ws-aux", "") for line in lines) == 2
    assert tuning_verdict(tuning_of(spoiled)) == "3 of 8 trials of the search failed: nothing is concluded from it."


def test_few_rounds_are_called_few() -> None:
    three, other = [0.90, 0.91, 0.92], [0.80, 0.812, 0.82]
    results = [study("simple", finals("tuned", other)), study("ws", finals("tuned", three), id=2)]
    (line,) = conclusions_of(results, compare(results)).headlines
    assert "3 rounds are too few for a test (the smallest possible p is 0.25)" in line
    single = [study("simple", finals("tuned", other[:1])), study("ws", finals("tuned", three[:1]), id=2)]
    (line,) = conclusions_of(single, compare(single)).headlines
    assert "cannot be told apart" in line
    assert "10.0 points apart in a single round, which says nothing about its uncertainty" in line


def test_unequal_comparisons_are_stated() -> None:
    trials = [run("search", i) for i in range(3)]
    another = [replace(r, params={**PARAMS, "dropout": 0.0}) for r in finals("tuned", around(0.9)[:5])]
    results = [
        study("simple", finals("tuned", around(0.84))),
        study("ws", trials + finals("tuned", around(0.9)), id=2),
        study("ws", another, spec=builtin_spec("ws").with_options(name="again"), id=3),
        study("ws-aux", [run("final", 0, label="x", round=0, data_digest="z")], id=4, tuned=None),
    ]
    cautions = "\n".join(conclusions_of(results, compare(results)).cautions)
    assert "In the table but not in the sentences, tuned: again" in cautions
    assert "The searches had unequal budgets: simple 0 x 40 epochs, ws 3 x 40 epochs." in cautions
    assert "Study ws-aux: 1 result has another data digest (z) than the study (d)" in cautions


@pytest.mark.parametrize(
    ("trials", "epochs", "verdict"),
    [(100, 40, None), (60, 12, "a rough"), (8, 4, "too small for"), (0, 40, None), (0, 4, "too small for")],
)
def test_budget_warning(trials: int, epochs: int, verdict: str | None) -> None:
    spec = builtin_spec("ws").with_options(trials=trials, epochs=epochs)
    warning = budget_warning([study("ws", [], spec)])
    assert warning is None if verdict is None else verdict in str(warning)
