"""Outcomes made by hand."""

from typing import Any

from hpo.storage.outcome import FORMAT, Outcome


def outcome(state: str = "complete", value: float = 0.9, *, epochs: int = 1, **changes: Any) -> Outcome:
    """A whole outcome of so many epochs, but for the changes."""
    fields: dict[str, Any] = {
        "format": FORMAT,
        "state": state,
        "value": value,
        "loss": None if state == "diverged" else 0.25,
        "train_accuracy": None if state == "diverged" else 0.99,
        "epochs": epochs,
        "train_loss": [0.5] * epochs,
        "validation_accuracy": [value] * epochs,
        "seconds": 1.0,
        "device_seconds": 0.5,
        "resumed_at": [],
        "attempt": 1,
        "worker": "w",
        "device": "cpu",
        "versions": {"hpo": "0.1.0", "torch": "2.13.0"},
        "git_commit": None,
        "spec_digest": "s" * 64,
        "data_digest": "d" * 64,
        "seeds": {"slot": 1, "draw": 2},
    }
    return Outcome.from_fields(fields | changes, "made by hand")
