"""Tuning: what the search chose, how that holds up on fresh data, and what it cost.

Accuracies are fractions, durations seconds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from hpo.results.records import Run, StudyResult
from hpo.study.labels import PAPER, TUNED, ConfigurationLabel
from hpo.study.spec import HYPERPARAMETERS


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One hyperparameter: its range, and the values chosen."""

    name: str
    low: float
    high: float
    log: bool
    paper: float
    best: float | None  # of the search's best trial
    tuned: float | None  # of the configuration that won the confirm phase


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One configuration through the phases: each accuracy is measured on fresher data than the one before."""

    label: ConfigurationLabel
    search: float | None  # validation accuracy of the one search trial
    confirm: float | None  # mean validation accuracy over fresh seeds and draws from pool A
    test: float | None  # mean test accuracy over pairs of pool B

    @property
    def optimism(self) -> float | None:
        """By how much the search overestimated it: its value minus the confirmed one."""
        if self.search is None or self.confirm is None:
            return None
        return self.search - self.confirm


@dataclass(frozen=True, kw_only=True, slots=True)
class Spend:
    """What one phase cost, without failed and lost attempts, whose durations are unknown."""

    phase: Literal["search", "confirm", "final"]
    runs: int  # with an outcome
    epochs: int  # trained in them
    seconds: float  # of a lane: lanes of one device run side by side
    device_seconds: Mapping[str, float]  # the devices' own, by kind of device ("cpu", "cuda")
    untimed: int  # runs without them, made by a version that did not measure them


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What tuning did to one model."""

    study: str
    model: str
    trials: int  # of the search; 0: nothing is searched
    failed: int  # of these
    is_inconclusive: bool  # too many failed for conclusions
    source: Literal["paper"] | int | None  # of the tuned configuration; None before confirmation
    parameters: tuple[Parameter, ...]
    stages: tuple[Stage, ...]  # the paper's, then the tuned one where it differs
    spend: tuple[Spend, ...]  # search, confirm, final


def tuning_of(result: StudyResult) -> Tuning:
    """What tuning did, as far as is known."""
    return Tuning(
        study=result.name,
        model=result.model,
        trials=result.trials.total,
        failed=result.trials.failed,
        is_inconclusive=result.is_inconclusive,
        source=None if result.tuned is None else result.tuned.source,
        parameters=tuple(_parameters(result)),
        stages=tuple(_stages(result)),
        spend=tuple(_spend(result)),
    )


def _parameters(result: StudyResult) -> Iterable[Parameter]:
    best: Mapping[str, float] = {} if result.best is None else result.best.params
    tuned: Mapping[str, float] = {} if result.tuned is None else result.tuned.params
    for name in HYPERPARAMETERS[result.model]:
        bounds = result.spec.space[name]
        yield Parameter(
            name=name,
            low=bounds.low,
            high=bounds.high,
            log=bounds.log,
            paper=result.spec.paper[name],
            best=best.get(name),
            tuned=tuned.get(name),
        )


def _stages(result: StudyResult) -> Iterable[Stage]:
    confirmed = {ranked.label: ranked.mean for ranked in result.ranking if ranked.whole}
    by_number = {run.number: run.value for run in result.search if run.state == "complete"}
    paper_trial = next((run.value for run in result.search if run.idx == 0 and run.state == "complete"), None)
    yield Stage(label=PAPER, search=paper_trial, confirm=confirmed.get(PAPER), test=_test(result, PAPER))
    if result.tuned is not None and result.tuned.source != PAPER:
        yield Stage(
            label=TUNED,
            search=by_number.get(int(result.tuned.source)),
            confirm=result.tuned.confirm_mean,
            test=_test(result, TUNED),
        )
    elif result.tuned is None and result.final_of(TUNED) is not None:  # found in another study, measured here
        yield Stage(label=TUNED, search=None, confirm=None, test=_test(result, TUNED))


def _test(result: StudyResult, label: str) -> float | None:
    final = result.final_of(label)
    return None if final is None else final.test_mean


def _spend(result: StudyResult) -> Iterable[Spend]:
    phases: tuple[tuple[Literal["search", "confirm", "final"], tuple[Run, ...]], ...] = (
        ("search", result.search),
        ("confirm", result.confirm),
        ("final", result.final_runs),
    )
    for phase, runs in phases:
        done = [run for run in runs if run.done]
        yield Spend(
            phase=phase,
            runs=len(done),
            epochs=sum(run.epochs for run in done),
            seconds=sum(run.seconds or 0.0 for run in done),
            device_seconds=_by_device(done),
            untimed=sum(run.device_seconds is None for run in done),
        )


def _by_device(done: Iterable[Run]) -> dict[str, float]:
    """Seconds by kind of device, the beginning of its name: "cpu x86_64, ...", "cuda:0 NVIDIA ..."."""
    seconds: dict[str, float] = {}
    for run in done:
        if run.device_seconds is not None:
            kind = (run.device or "cpu").split()[0].partition(":")[0]
            seconds[kind] = seconds.get(kind, 0.0) + run.device_seconds
    return seconds
