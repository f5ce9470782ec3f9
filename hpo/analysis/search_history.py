"""Search history: a search's trials in order, and the best to be expected on a smaller budget."""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hpo.analysis.stats import LEVEL
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Hyperparameter, Value
from hpo.results.records import StudyResult, TrainingRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One finished search trial."""

    order: int  # from 1, as they finished
    number: int
    state: Literal["complete", "pruned", "diverged"]
    random: bool  # proposed without knowledge of other trials
    unbiased: bool  # random and never pruned: not selected by any outcome
    reference: bool  # the reference configuration
    value: float  # on validation items, after the last epoch trained
    epochs: int
    params: tuple[Value | None, ...]  # in the order of SearchHistory.names; an inactive one is None


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchHistory:
    """All finished trials of one study's search."""

    study: str
    model: str
    metric: MetricInfo
    reference_label: str
    names: tuple[str, ...]  # hyperparameters
    parameters: tuple[Hyperparameter, ...]  # what values each may take
    trials: tuple[Trial, ...]  # as they finished
    incumbent: tuple[float, ...]  # best complete value so far, after each trial; NaN before the first


def search_data(result: StudyResult) -> SearchHistory:
    """The history of a study's search."""
    parameters, metric = result.spec.parsed_space.parameters, result.metric
    done = [run for run in result.search if run.done and run.value is not None]
    done.sort(key=lambda run: (run.finished_at or 0.0, run.idx))
    trials = tuple(_trial(order, run, parameters, result) for order, run in enumerate(done, start=1))
    best, incumbent = float("nan"), []
    for trial in trials:
        if trial.state == "complete" and not metric.sign * best >= metric.sign * trial.value:
            best = trial.value
        incumbent.append(best)
    return SearchHistory(
        study=result.name,
        model=result.model,
        metric=metric,
        reference_label=result.reference_label,
        names=tuple(parameters),
        parameters=tuple(parameters.values()),
        trials=trials,
        incumbent=tuple(incumbent),
    )


def _trial(order: int, run: TrainingRecord, names: Iterable[str], result: StudyResult) -> Trial:
    params: Mapping[str, Value] = run.params or (result.spec.reference if run.idx == 0 else {})
    state = run.state
    assert state in ("complete", "pruned", "diverged")
    assert run.value is not None
    spec = result.spec
    random = not run.adaptive and run.idx >= (1 if spec.tuned is None else 2)  # the first are given
    return Trial(
        order=order,
        number=run.idx if run.number is None else run.number,
        state=state,
        random=random,
        unbiased=random and (run.idx < spec.sampler.startup_trials or spec.pruner.name == "none"),
        reference=run.idx == 0,
        value=run.value,
        epochs=run.epochs,
        params=tuple(params.get(name) for name in names),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetCurve:
    """The best of so many random trials, which it exceeds in half of the cases, and the best of this search.

    The band holds at 95% for all numbers of trials together, whatever the values' distribution (Lourie et al., 2024).
    """

    study: str
    model: str
    metric: MetricInfo
    random: tuple[float, ...]  # median best of 1, 2, ... random trials
    worst: tuple[float | None, ...]  # the band's worse end; None: the sample has no such bound
    best: tuple[float | None, ...]  # its better end
    observed: tuple[float, ...]  # the best complete trial after 1, 2, ... finished ones, NaN before the first


def budget_data(search: SearchHistory) -> BudgetCurve | None:
    """The curve of the unbiased trials (of prunable ones the best survive); None below two of them."""
    independent = [trial.value for trial in search.trials if trial.unbiased]
    if len(independent) < 2:
        return None
    ordered = sorted(independent, key=lambda value: search.metric.sign * value)
    median, worst, best = _curve_ranks(len(ordered))
    return BudgetCurve(
        study=search.study,
        model=search.model,
        metric=search.metric,
        random=tuple(ordered[int(rank)] for rank in median),
        worst=tuple(ordered[int(rank)] if math.isfinite(rank) else None for rank in worst),
        best=tuple(ordered[int(rank)] if math.isfinite(rank) else None for rank in best),
        observed=search.incumbent,
    )


@functools.cache
def _curve_ranks(n: int) -> tuple[list[float], list[float], list[float]]:
    """For the best of 1..n trials the ranks in a sample of n, from 0: the median's, the band's worse and better end's.

    The bands of a distribution's quantiles are values of the sample, so they depend on n alone.
    """
    from opda.nonparametric import EmpiricalDistribution  # loads scipy, which takes a second

    bands = EmpiricalDistribution.confidence_bands(
        np.arange(n, dtype=np.float64), LEVEL, generator=np.random.default_rng(0), method="ld_equal_tailed", n_jobs=1
    )
    best, median, worst = (band.quantile_tuning_curve(np.arange(1, n + 1)).tolist() for band in bands)
    return median, worst, best
