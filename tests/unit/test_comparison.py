"""The comparison: rows, pairs, settings, and which of them can be clear."""

from dataclasses import replace
from typing import Any

import pytest

from hpo.analysis.comparison import compare
from hpo.report.sentences import conclusions_of, row_note
from hpo.study.spec import builtin_spec
from tests.support.results import PARAMS, around, by_image, finals, study


def test_rows_have_their_epochs_and_are_in_order() -> None:
    results = [study("ws", finals("tuned", around(0.9)) + finals("paper", around(0.87)))]
    comparison = compare(results)
    assert [(row.label, row.epochs, row.rounds) for row in comparison.rows] == [
        ("published", 40, 20),
        ("paper", 40, 20),
        ("tuned", 40, 20),
    ]
    assert comparison.rows[0].test.mean == 0.872
    conclusions = conclusions_of(results, comparison)
    assert conclusions.budget is None
    assert conclusions.cautions == ()


@pytest.mark.parametrize(("n", "families", "detectable"), [(5, 1, False), (6, 1, True), (6, 2, False), (7, 2, True)])
def test_detectable_is_only_what_can_be_clear(n: int, families: int, detectable: bool) -> None:
    """So few rounds that no p survives Holm promise nothing, and what differs most is indeed not clear there."""
    labels = ("tuned", "paper")[:families]  # each a pair of models more
    results = [
        study(model, [r for label in labels for r in finals(label, around(level)[:n])], id=place)
        for place, (model, level) in enumerate((("simple", 0.7), ("ws", 0.9)))
    ]
    between = [pair for pair in compare(results, by_image(results)).pairs if pair.family == "models"]
    assert [pair.clear for pair in between] == [detectable] * families
    assert [pair.detectable is not None for pair in between] == [detectable] * families


def test_only_common_rounds_are_paired() -> None:
    results = [
        study("simple", finals("tuned", [0.5, 0.8, 0.8], first=0)),
        study("ws", finals("tuned", [0.9, 0.9, 0.1], first=1), id=2),
    ]
    (pair,) = compare(results).pairs
    assert pair.rounds == (1, 2)
    assert pair.difference.values == (0.1, 0.1)


def test_where_the_papers_configuration_won_nothing_is_tested() -> None:
    tuned = {"params": PARAMS, "source": "paper", "confirm_mean": 0.9}
    results = [study("ws", finals("paper", around(0.9)), tuned=tuned)]
    comparison = compare(results)
    assert comparison.pairs == ()
    headlines = conclusions_of(results, comparison).headlines
    assert headlines == (
        "What tuning brings ws is open: the paper's configuration won the confirm phase, and no other was tested.",
    )
    assert [row.label for row in comparison.rows] == ["published", "paper", "tuned"]
    assert "the same rounds" in row_note(comparison.rows[2])


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"epochs": 12}, "epochs (40 and 12)"), ({"data_digest": "e" * 64}, "data (d and eeeeeeeeeeee)")],
)
def test_other_settings_are_not_mixed(changes: dict[str, Any], words: str) -> None:
    digest = changes.pop("data_digest", "d")
    other = builtin_spec("ws").with_options(name="other", **changes)
    results = [
        study("simple", finals("tuned", around(0.84))),
        study("ws", finals("tuned", around(0.9)), spec=other, id=2, data_digest=digest),
    ]
    comparison = compare(results)
    assert comparison.pairs == ()
    assert len(comparison.settings) == 2
    assert (
        conclusions_of(results, comparison).cautions[0]
        == f"Setting 2 is not compared with setting 1: they differ in {words}."
    )


def test_settings_that_differ_in_the_seed_alone_have_tags_of_their_own() -> None:
    """Where other configurations won: else two sentences on one model would stand beside each other, and contradict."""
    tree = builtin_spec("ws").model_dump(by_alias=True)
    tree["protocol"]["seed"], tree["name"] = 7, "other"
    runs = finals("tuned", around(0.9)) + finals("paper", around(0.87, 0.001))
    others = [replace(run, params=PARAMS | {"dropout": 0.4}) if run.label == "tuned" else run for run in runs]
    results = [study("ws", runs), study("ws", others, spec=builtin_spec("ws").model_validate(tree), id=2)]
    tags = [line.rpartition(" [")[2] for line in conclusions_of(results, compare(results)).headlines]
    assert tags == ["40 epochs, setting 1]", "40 epochs, setting 2]"]


def test_the_papers_configuration_is_the_papers() -> None:
    """A file's own [paper] is a reference like any other in all that is shown; what slots call it stays."""
    tree = builtin_spec("ws").model_dump(by_alias=True)
    tree["paper"]["dropout"] = 0.4
    spec = builtin_spec("ws").model_validate(tree)
    tuned = {"params": tree["paper"], "source": "paper", "confirm_mean": 0.9}
    (row,) = [study("ws", finals("paper", around(0.9)), spec=spec, tuned=tuned)]
    assert (spec.reference_label, row.reference_label) == ("paper", "reference")
    assert [(final.label, final.same_as) for final in row.final] == [("tuned", "reference"), ("reference", None)]
    assert conclusions_of([row], compare([row])).headlines == (
        "What tuning brings ws is open: the reference configuration won the confirm phase, and no other was tested.",
    )


def test_a_round_that_collapses_gets_a_caution() -> None:
    """Its number stands in the note of its row, which is no longer to be read as the others'."""
    values = [0.9 + 0.001 * (r % 5) for r in range(12)]
    fallen = [*values[:7], 0.5, *values[8:]]
    results = [study("ws", finals("tuned", fallen) + finals("paper", values))]
    notes = {row.label: row_note(row) for row in compare(results).rows}
    given, collapsed = notes["tuned"].split("; ")
    assert given == "given as tuned: nothing was searched in its study"
    assert collapsed.startswith("round 7 is far worse than the others: where rounds collapse, the mean's interval")
    assert notes["paper"] == ""
