"""Outcomes that nobody has trained, for benchmarks of what stores and reads them."""

from collections.abc import Sequence
from typing import Any

from hpo.storage.outcome import Outcome


def outcome(curve: Sequence[float] = (0.5,), **changes: Any) -> Outcome:
    """A complete training with these validation accuracies by epoch, but for the changes."""
    fields: dict[str, Any] = {
        "state": "complete",
        "value": curve[-1],
        "loss": 0.5,
        "train_accuracy": 0.99,
        "epochs": len(curve),
        "train_loss": [1 - value for value in curve],
        "validation_accuracy": list(curve),
        "seconds": 100.0,
        "attempt": 1,
        "worker": "bench:1:000000",
        "device": "cpu x86_64, 1 thread(s)",
        "versions": {"hpo": "0.1.0", "numpy": "2.4.6", "optuna": "5.0.0", "torch": "2.13.0"},
        "git_commit": "0" * 40,
        "spec_digest": "0" * 64,
        "data_digest": "0" * 64,
        "seeds": {"draw": 1, "slot": 2**62},
    }
    return Outcome.from_fields(fields | changes, "a benchmark's slot")
