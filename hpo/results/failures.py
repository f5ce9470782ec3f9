"""Failures: what went wrong in a training, and how it was handled."""

from typing import Any

from hpo.results.records import StudyResult, TrainingRecord
from hpo.storage.claims import MAX_ATTEMPTS


def setbacks(run: TrainingRecord, result: StudyResult) -> list[str]:
    """What went wrong in a study's run and how it was handled, a line each; empty where its first attempt succeeded."""
    lines = []
    failed, out_of_leases = run.state == "failed", run.expiries >= MAX_ATTEMPTS
    if run.state == "diverged":
        lines.append(f"diverged: counts as {run.value:g} and is not repeated")
    if run.failures:
        end = "given up" if failed and not out_of_leases else "retried"
        lines.append(f"raised {_times(run.failures)}, {end}")
    if run.expiries:
        leases = f"{run.expiries} lease{'' if run.expiries == 1 else 's'} ended without a new epoch"
        lines.append(f"{leases}, {'given up' if failed and out_of_leases else 'taken up again'}")
    if run.error is not None and not failed and not run.failures:
        lines.append("failed, queued again by `hpo study resume`")
    others = run.attempt - run.failures - run.expiries - (run.done or run.state == "running")
    if others > 0:
        reason = "given back, cut off after a new epoch, or before a resume"
        lines.append(f"{others} attempt{'' if others == 1 else 's'} ended early: {reason}")
    return lines


def troubled(result: StudyResult) -> list[TrainingRecord]:
    """The runs of all phases that failed, then those that succeeded later; pre-emption does not count."""
    runs = [run for run in result.runs if run.state == "failed" or run.failures or run.expiries or run.error]
    return sorted(runs, key=lambda run: run.state != "failed")


def optuna_name(result: StudyResult, run: TrainingRecord) -> str:
    """The name of the Optuna study that holds the run's trial, as `hpo trial show` takes it."""
    return result.name if run.kind == "search" else f"{result.name}:{run.kind}"


def failures(result: StudyResult) -> list[dict[str, Any]]:
    """The troubled runs as plain types, with their errors in full."""
    return [
        {
            "study": optuna_name(result, run),
            "number": run.number,
            "label": run.label,
            "round": run.round,
            "state": run.state,
            "attempt": run.attempt,
            "failures": run.failures,
            "expiries": run.expiries,
            "setbacks": setbacks(run, result),
            "error": run.error,
        }
        for run in troubled(result)
    ]


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")
