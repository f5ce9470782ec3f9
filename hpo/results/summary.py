"""Summary: a study's result as plain types, for JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from hpo.results.failures import failures
from hpo.results.records import Best, FinalResult, StudyResult, Tuned


def summary(result: StudyResult) -> dict[str, Any]:
    """What `hpo study show NAME --format json` prints: plain types; values in the metric's unit."""
    best, tuned = result.best, result.tuned
    return {
        "name": result.name,
        "experiment": result.experiment,
        "model": result.model,
        "metrics": [asdict(metric) for metric in result.metrics],
        "phase": result.phase,
        "paused": result.paused,
        "blocked": result.is_blocked,
        "gone": list(result.gone),
        "seed": result.seed,
        "repeat_group": result.repeat_group,
        "waits_for": list(result.waits_for),
        "spec_digest": result.spec_digest,
        "data_digest": result.data_digest,
        "code_digest": result.code_digest,
        "code_changes": [asdict(change) for change in result.code_changes],
        "epochs": result.spec.budget.epochs,
        "trials": {**asdict(result.trials), "total": result.trials.total},
        "best": None if best is None else _plain(best),
        "tuned": None if tuned is None else _plain(tuned),
        "confirm": [
            {
                "label": ranked.label,
                "params": dict(ranked.params),
                "rounds": ranked.rounds,
                "values": list(ranked.values),
                "mean": ranked.mean,
                "failed": ranked.failed,
            }
            for ranked in result.ranking
        ],
        "final": [final_summary(final) for final in result.final if final.rounds],
        "missing": list(result.missing),
        "failures": failures(result),
    }


def final_summary(final: FinalResult) -> dict[str, Any]:
    """One configuration's final rounds as plain types."""
    return {
        "label": final.label,
        "params": dict(final.params),
        "rounds": final.rounds,
        "planned": final.planned,
        "train_mean": final.train_mean,
        "train_std": final.train_std,
        "test_mean": final.test_mean,
        "test_std": final.test_std,
        "test_values": list(final.test_values),
        "train_values": list(final.train_values),
        "round_numbers": list(final.round_numbers),
        "metrics": {name: list(values) for name, values in final.metrics.items()},
        "diverged": final.diverged,
        "failed": final.failed,
        "same_as": final.same_as,
    }


def _plain(record: Best | Tuned) -> dict[str, Any]:
    return {
        name: dict(value) if isinstance(value := getattr(record, name), Mapping) else value for name in record.__slots__
    }
