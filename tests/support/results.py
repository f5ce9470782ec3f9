"""Results made by hand, as if read from a database."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from hpo.analysis.items import ItemScores, ScoredRound
from hpo.analysis.search_history import Trial
from hpo.experiment.spaces import Value
from hpo.results.queries import result_of
from hpo.results.records import StudyResult, TrainingRecord
from hpo.study.spec import StudySpec, builtin_spec

PARAMS = {"learning_rate": 1e-3, "weight_decay": 1e-5, "dropout": 0.3}
OTHER_PARAMS = {**PARAMS, "dropout": 0.15}


def run(kind: str, idx: int, **changes: Any) -> TrainingRecord:
    """A complete run, but for the changes."""
    made: dict[str, Any] = {
        "slot_id": idx,
        "kind": kind,
        "idx": idx,
        "number": idx,
        "label": None,
        "round": None,
        "state": "complete",
        "adaptive": False,
        "params": PARAMS,
        "value": 0.9,
        "loss": 0.2,
        "train_accuracy": 0.99,
        "epochs": 3,
        "train_loss": (0.5, 0.3, 0.2),
        "validation_accuracy": () if kind == "final" else (0.7, 0.8, 0.9),
        "seconds": 10.0,
        "device_seconds": 2.5,
        "attempt": 1,
        "expiries": 0,
        "failures": 0,
        "worker": "w",
        "device": "cpu",
        "versions": {"torch": "2.13.0"},
        "git_commit": None,
        "spec_digest": "s",
        "data_digest": "d",
        "slot_seed": idx,
        "draw_seed": 1,
        "error": None,
        "started_at": 100.0 + idx,
        "finished_at": 110.0 + idx,
    }
    return TrainingRecord(**{**made, **changes})


def study(model: str, runs: list[TrainingRecord], spec: StudySpec | None = None, **changes: Any) -> StudyResult:
    """A study with these runs."""
    spec = spec or builtin_spec(model)
    row = {
        "id": 1,
        "name": spec.name,
        "model": model,
        "phase": "done",
        "paused": False,
        "seed": 1,
        "repeat_group": None,
        "spec": spec.canonical(),
        "spec_digest": "s",
        "data_digest": "d",
        "code_digest": None,
        "code_changes": None,
        "created_at": 0.0,
        "tuned": {"params": PARAMS, "source": 7, "confirm_mean": 0.9},
    }
    return result_of(SimpleNamespace(**{**row, **changes}), runs)


def finals(label: str, values: list[float], first: int = 0) -> list[TrainingRecord]:
    """Final rounds of a configuration; each label has its own."""
    params = PARAMS if label == "tuned" else OTHER_PARAMS
    return [run("final", 100 + i, label=label, round=first + i, value=v, params=params) for i, v in enumerate(values)]


def by_image(results: Sequence[StudyResult]) -> dict[int, ItemScores]:
    """Test images of which none matters more than another: what holds for new seeds holds for new images too."""
    units = np.arange(20).reshape(10, 2)
    return {
        result.id: ItemScores(
            by_label={
                final.label: {
                    number: ScoredRound(scores=np.full(10, value), units=units)
                    for number, value in zip(final.round_numbers, final.test_values, strict=True)
                }
                for final in result.final
            },
            fingerprints={},
        )
        for result in results
    }


COURSE = [0.001 * ((7 * r) % 11 - 5) for r in range(20)]


def around(level: float, wobble: float = 0.0005) -> list[float]:
    """The accuracies of 20 rounds around a level, on a course that all configurations share: pairing helps."""
    return [level + c + wobble * (-1) ** (i // 2) for i, c in enumerate(COURSE)]


def random_trial(order: int, value: float, params: tuple[Value | None, ...] = ()) -> Trial:
    """A complete trial of a search, proposed at random and never pruned."""
    return Trial(
        order=order,
        number=order,
        state="complete",
        random=True,
        unbiased=True,
        reference=False,
        value=value,
        epochs=3,
        params=params,
    )


def searched() -> StudyResult:
    """A search of six finished trials, the paper's among them, one pruned, one diverged, and one that still runs."""
    spec = builtin_spec("ws")
    values = {0: 0.8, 1: 0.7, 2: 0.86, 3: 0.4, 4: 0.9, 5: 0.85}
    states = {3: "pruned", 5: "diverged"}
    runs = [
        run("search", i, value=v, state=states.get(i, "complete"), adaptive=i > 2, finished_at=float(10 - i))
        for i, v in values.items()
    ]
    runs[0] = run("search", 0, value=0.8, params=dict(spec.paper), finished_at=50.0)
    return study("ws", [*runs, run("search", 6, state="running", value=None)])
