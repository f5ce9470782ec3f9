"""Figures' data: what each picture shows, as plain records; `charts.py` draws them.

Accuracies are fractions here and percent in the pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hpo.analysis.comparison import PUBLISHED_LABEL, Comparison
from hpo.analysis.repeats import Repeats
from hpo.analysis.stats import t_interval
from hpo.results.records import StudyResult
from hpo.study.labels import PAPER, TUNED
from hpo.study.spec import Model

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
