"""Figures' data: what each picture shows, as plain records; `charts.py` draws them.

Accuracies are fractions here and percent in the pictures.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hpo.analysis.comparison import PUBLISHED_LABEL, Comparison
from hpo.analysis.repeats import Repeats
from hpo.analysis.stats import expected_maximum, t_interval
from hpo.results.records import PAPER, TUNED, Run, StudyResult
from hpo.study.spec import HYPERPARAMETERS, Model

# --- Rounds: the paper's Figure 2 -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundsGroup:
    """The rounds of one row of the table; a published row has a mean and a spread only."""

    model: Model
    label: str
    study: str | None
    epochs: int
    rounds: tuple[int, ...]  # numbers, of the values
    values: tuple[float, ...]  # test accuracies
    mean: float
    low: float  # of the mean's 95 % interval; published: mean - std
    high: float


def rounds_data(results: Sequence[StudyResult], comparison: Comparison) -> list[RoundsGroup]:
    """One group a row of the comparison table, in its order."""
    numbers = {(r.name, final.label): final.round_numbers for r in results for final in r.final}
    groups = []
    for row in comparison.rows:
        mean, std = row.test.mean, row.test.std or 0.0
        if mean is None:
            continue
        interval = row.test.interval
        published = row.label == PUBLISHED_LABEL
        low, high = (mean, mean) if interval is None else (interval.low, interval.high)
        groups.append(
            RoundsGroup(
                model=row.model,
                label=row.label,
                study=row.study,
                epochs=row.epochs,
                rounds=numbers.get((row.study or "", row.label), ()),
                values=row.test.values,
                mean=mean,
                low=mean - std if published else low,
                high=mean + std if published else high,
            )
        )
    return groups


def rounds_of(result: StudyResult, comparison: Comparison) -> list[RoundsGroup]:
    """The groups of one study, and what was published of its model."""
    return [g for g in rounds_data([result], comparison) if g.study in (None, result.name) and g.model == result.model]


def confirm_data(result: StudyResult) -> list[RoundsGroup]:
    """One group a configuration of the confirm phase, best mean first: validation accuracies."""
    groups = []
    for one in result.ranking:
        if one.mean is None:
            continue
        interval = t_interval(one.values)
        groups.append(
            RoundsGroup(
                model=result.model,
                label=one.label,
                study=result.name,
                epochs=result.spec.budget.epochs,
                rounds=tuple(range(len(one.values))),
                values=one.values,
                mean=one.mean,
                low=one.mean if interval is None else interval.low,
                high=one.mean if interval is None else interval.high,
            )
        )
    return groups


def repeats_data(repeats: Repeats, results: Sequence[StudyResult]) -> list[RoundsGroup]:
    """One group a repeat: the rounds of its tuned configuration."""
    by_name, groups = {result.name: result for result in results}, []
    for group in repeats.groups:
        for repeat in group.repeats:
            final = by_name[repeat.study].final_of(TUNED)
            assert final is not None
            mean = sum(final.test_values) / final.rounds
            interval = t_interval(final.test_values)
            groups.append(
                RoundsGroup(
                    model=group.model,
                    label=repeat.study,
                    study=repeat.study,
                    epochs=by_name[repeat.study].spec.budget.epochs,
                    rounds=final.round_numbers,
                    values=final.test_values,
                    mean=mean,
                    low=mean if interval is None else interval.low,
                    high=mean if interval is None else interval.high,
                )
            )
    return groups


# --- The search -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One finished search trial."""

    order: int  # from 1, as they finished
    number: int
    state: Literal["complete", "pruned", "diverged"]
    random: bool  # proposed without looking at others
    unbiased: bool  # random and out of the pruner's reach: no outcome chose it
    paper: bool  # the paper's configuration
    value: float  # validation accuracy after the last epoch trained
    epochs: int
    params: tuple[float, ...]  # in the order of Search.names


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """All finished trials of one study's search."""

    study: str
    model: Model
    names: tuple[str, ...]  # hyperparameters
    ranges: tuple[tuple[float, float, bool], ...]  # low, high, log
    trials: tuple[Trial, ...]  # as they finished
    incumbent: tuple[float, ...]  # best complete value so far, after each trial; NaN before the first


def search_data(result: StudyResult) -> Search:
    """The search as it went."""
    names = HYPERPARAMETERS[result.model]
    done = [run for run in result.search if run.done and run.value is not None]
    done.sort(key=lambda run: (run.finished_at or 0.0, run.idx))
    trials = tuple(_trial(order, run, names, result) for order, run in enumerate(done, start=1))
    best, incumbent = float("nan"), []
    for trial in trials:
        if trial.state == "complete" and not best >= trial.value:
            best = trial.value
        incumbent.append(best)
    spaces = [result.spec.space[name] for name in names]
    return Search(
        study=result.name,
        model=result.model,
        names=names,
        ranges=tuple((space.low, space.high, space.log) for space in spaces),
        trials=trials,
        incumbent=tuple(incumbent),
    )


def _trial(order: int, run: Run, names: Iterable[str], result: StudyResult) -> Trial:
    params = run.params if run.params is not None else (result.spec.paper if run.idx == 0 else {})
    state = run.state
    assert state in ("complete", "pruned", "diverged")
    assert run.value is not None
    spec = result.spec
    random = not run.adaptive and run.idx >= (1 if spec.tuned is None else 2)
    return Trial(
        order=order,
        number=run.idx if run.number is None else run.number,
        state=state,
        random=random,
        unbiased=random and (run.idx < spec.sampler.startup_trials or spec.pruner.name == "none"),
        paper=run.idx == 0,
        value=run.value,
        epochs=run.epochs,
        params=tuple(params.get(name, float("nan")) for name in names),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetCurve:
    """What so many trials may be expected to find, and what this search found."""

    study: str
    model: Model
    random: tuple[float, ...]  # expected best of 1, 2, ... random trials
    observed: tuple[float, ...]  # the best complete trial after 1, 2, ... finished ones, NaN before the first


def budget_data(search: Search) -> BudgetCurve | None:
    """The expected best of the random trials that may not be pruned (of others the best survive); None below 2."""
    independent = [trial.value for trial in search.trials if trial.unbiased]
    if len(independent) < 2:
        return None
    return BudgetCurve(
        study=search.study,
        model=search.model,
        random=tuple(expected_maximum(independent)),
        observed=search.incumbent,
    )


# --- Learning curves --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One configuration's way through the epochs, over its rounds."""

    study: str
    model: Model
    label: str  # paper | tuned
    what: Literal["validation accuracy", "training loss"]
    runs: int
    mean: tuple[float, ...]  # by epoch, from 1
    low: tuple[float, ...]  # the lowest round
    high: tuple[float, ...]


def curves_data(result: StudyResult) -> list[Curve]:
    """Validation accuracy from the confirm rounds, training loss from the final rounds, paper's and tuned."""
    tuned = result.tuned
    curves = []
    sources = [(PAPER, PAPER)]
    if tuned is not None and tuned.source != PAPER:
        sources.append((TUNED, f"trial {tuned.source}"))
    for label, confirm_label in sources:
        confirm = [r for r in result.confirm if r.label == confirm_label and r.state == "complete"]
        final = [r for r in result.final_runs if r.label == label and r.state == "complete"]
        accuracies = _curve(result, label, "validation accuracy", [r.validation_accuracy for r in confirm])
        losses = _curve(result, label, "training loss", [r.train_loss for r in final])
        curves += [curve for curve in (accuracies, losses) if curve is not None]
    return curves


def _curve(
    result: StudyResult,
    label: str,
    what: Literal["validation accuracy", "training loss"],
    by_run: Sequence[Sequence[float | None]],
) -> Curve | None:
    whole = [values for values in by_run if values and None not in values]
    if not whole:
        return None
    length = min(map(len, whole))
    table = np.array([values[:length] for values in whole], dtype=np.float64)  # (runs, epochs)
    mean, low, high = table.mean(axis=0), table.min(axis=0), table.max(axis=0)
    return Curve(
        study=result.name,
        model=result.model,
        label=label,
        what=what,
        runs=len(whole),
        mean=tuple(mean.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
    )
