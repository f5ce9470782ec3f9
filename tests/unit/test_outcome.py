"""The outcome's stored text: what was written comes back, what is invalid is refused by name."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.storage.outcome import FORMAT, NewerOutcome, Outcome, UnreadableOutcome
from tests.support.outcomes import outcome

accuracies, some_losses = st.floats(0, 1), st.lists(st.none() | st.floats(0, 1e300), min_size=1, max_size=5)


@given(
    value=accuracies,
    losses=some_losses,
    resumed=st.lists(st.integers(0, 5)),
)
def test_what_was_written_comes_back(value: float, losses: list[float | None], resumed: list[int]) -> None:
    """Every field, floats to the last bit."""
    made = outcome(value=value, epochs=len(losses), train_loss=losses, resumed_at=resumed)
    assert Outcome.from_json(made.to_json(), "slot 1") == made
    assert json.loads(made.to_json())["format"] == FORMAT


def test_what_was_added_later_has_a_default() -> None:
    """The first databases know no format, no device seconds and no resumed trainings."""
    stored = json.loads(outcome().to_json())
    for name in ("format", "device_seconds", "resumed_at", *LATER):
        del stored[name]
    read = Outcome.from_json(json.dumps(stored), "slot 1")
    assert (read.device_seconds, read.resumed_at) == (None, ())


def test_a_newer_format_is_refused_by_name() -> None:
    """Reading half of it would be guessing."""
    stored = json.loads(outcome().to_json()) | {"format": FORMAT + 1, "something": "new"}
    with pytest.raises(
        NewerOutcome, match=f"slot 7: its outcome has format {FORMAT + 1}, this hpo reads formats up to"
    ):
        Outcome.from_json(json.dumps(stored), "slot 7")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"state": "good"}, "state: "),
        ({"value": None}, "value: "),
        ({"value": "0.9"}, "value: "),
        ({"value": float("nan")}, "value: "),
        ({"metrics": {"rmse": float("inf")}}, "metrics.rmse: "),
        ({"items": -1}, "items: "),
        ({"train_accuracy": -3.0}, "train_accuracy: "),
        ({"epochs": -1}, "epochs: "),
        ({"epochs": 2}, "2 epochs, but 1 training losses"),
        ({"validation_accuracy": [0.5, 0.5]}, "1 epochs, but 2 validation accuracies"),
        ({"attempt": 0}, "attempt: "),
        ({"seconds": -1.0}, "seconds: "),
        ({"seeds": {"slot": 1}}, "seeds.draw: "),
        ({"unknown": 1}, "unknown: "),
        ({"format": "x"}, "which no hpo has written"),
    ],
)
def test_what_is_invalid_is_refused(change: dict[str, Any], problem: str) -> None:
    """One line: which slot, which field, what is wrong with it."""
    stored = json.loads(outcome().to_json()) | change
    with pytest.raises(UnreadableOutcome) as error:
        Outcome.from_json(json.dumps(stored), "slot 7")
    assert str(error.value).startswith("slot 7: its outcome ")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


LATER = ("metrics", "numbers", "memory", "items", "units_digest", "code_digest")  # than format 1


def first_format(**changes: Any) -> str:
    """An outcome as the digits' first workers stored it."""
    stored = json.loads(outcome().to_json())
    for name in ("format", *LATER):
        del stored[name]
    return json.dumps(stored | changes)


def test_the_first_format_reads_on() -> None:
    """An accuracy, its cross entropy, and nothing of what came later."""
    read = Outcome.from_json(first_format(), "slot 7")
    assert read == outcome()
    assert (read.metrics, read.numbers, read.items) == ({}, {}, None)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"value": 7.3}, "value: "),
        ({"loss": -1.0}, "loss: "),
        ({"validation_accuracy": [9.0]}, "validation_accuracy.0: "),
        ({"metrics": {}}, "format 1 has no metrics"),
        ({"units_digest": None}, "format 1 has no units_digest"),
    ],
)
def test_the_first_format_keeps_its_bounds(change: dict[str, Any], problem: str) -> None:
    """Its values are accuracies, whatever format 2 allows."""
    with pytest.raises(UnreadableOutcome, match=problem):
        Outcome.from_json(first_format(**change), "slot 7")


def test_any_metric_has_its_place() -> None:
    """A negative score that diverged in its own unit, without epochs, training accuracy or loss; all it reported."""
    made = outcome(
        "diverged", -1e9, epochs=0, format=2, metrics={"r2": None, "rmse": None}, numbers={"trees": 3.0}, items=12
    )
    read = Outcome.from_json(made.to_json(), "slot 7")
    assert read == made
    assert (read.value, read.metrics, read.numbers, read.items) == (
        -1e9,
        {"r2": None, "rmse": None},
        {"trees": 3.0},
        12,
    )


@pytest.mark.parametrize(
    "missing", sorted(set(json.loads(outcome().to_json())) - {"format", "device_seconds", "resumed_at", *LATER})
)
def test_every_field_has_to_be_there(missing: str) -> None:
    """But for those that a newer version has added."""
    stored = json.loads(outcome().to_json())
    del stored[missing]
    with pytest.raises(UnreadableOutcome, match=f"{missing}: Field required"):
        Outcome.from_json(json.dumps(stored), "slot 7")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3"])
def test_what_is_no_record_is_refused(text: str) -> None:
    """Cut short, or something else altogether."""
    with pytest.raises(UnreadableOutcome, match="slot 7: its outcome is not"):
        Outcome.from_json(text, "slot 7")


def test_the_format_has_these_fields() -> None:
    """Whoever adds one raises FORMAT, so that older readers refuse it by name; earlier formats go on being read."""
    fields = {
        2: "state value loss train_accuracy epochs train_loss validation_accuracy metrics numbers memory items "
        "units_digest code_digest seconds device_seconds resumed_at attempt worker device versions git_commit "
        "spec_digest data_digest seeds"
    }
    assert list(Outcome.model_fields) == fields[FORMAT].split()
