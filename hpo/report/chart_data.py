"""The data of figures as plain records; `charts/` draws them. Accuracies are fractions here, percent in the figures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from hpo.analysis import stats
from hpo.analysis.comparison import Comparison
from hpo.analysis.repeats import Repeats
from hpo.results.records import StudyResult
from hpo.study.labels import PAPER, PUBLISHED, TUNED
from hpo.study.spec import ModelName

# --- Rounds: the paper's Figure 2 -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundsGroup:
    """The rounds of one configuration; of a published one only mean and standard deviation are known."""

    model: ModelName
    label: str
    study: str | None
    epochs: int
    rounds: tuple[int, ...]  # the numbers of the values' rounds
    values: tuple[float, ...]  # accuracies, one per round
    mean: float
    low: float  # of the mean's 95 % interval; published: mean - std
    high: float


def rounds_data(results: Sequence[StudyResult], comparison: Comparison) -> list[RoundsGroup]:
    """One group per row of the comparison table, in its order."""
    numbers = {(r.name, final.label): final.round_numbers for r in results for final in r.final}
    groups = []
    for row in comparison.rows:
        mean, std = row.test.mean, row.test.std or 0.0
        if row.label == PUBLISHED and mean is not None:
            groups.append(
                RoundsGroup(
                    model=row.model,
                    label=row.label,
                    study=row.study,
                    epochs=row.epochs,
                    rounds=(),
                    values=(),
                    mean=mean,
                    low=mean - std,
                    high=mean + std,
                )
            )
        elif row.test.values:
            rounds = numbers.get((row.study or "", row.label), ())
            groups.append(_measured(row.model, row.label, row.study, row.epochs, rounds, row.test.values))
    return groups


def _measured(
    model: ModelName, label: str, study: str | None, epochs: int, rounds: tuple[int, ...], values: tuple[float, ...]
) -> RoundsGroup:
    """A group of at least one round, with the mean and its interval."""
    average, interval = stats.mean(values), stats.t_interval(values)
    return RoundsGroup(
        model=model,
        label=label,
        study=study,
        epochs=epochs,
        rounds=rounds,
        values=values,
        mean=average,
        low=average if interval is None else interval.low,
        high=average if interval is None else interval.high,
    )


def rounds_of(result: StudyResult, comparison: Comparison) -> list[RoundsGroup]:
    """The groups of one study, and the published one of its model."""
    return [g for g in rounds_data([result], comparison) if g.study in (None, result.name) and g.model == result.model]


def confirm_data(result: StudyResult) -> list[RoundsGroup]:
    """Validation accuracies: one group per configuration of the confirm phase, best mean first."""
    epochs = result.spec.budget.epochs
    return [
        _measured(result.model, c.label, result.name, epochs, tuple(range(len(c.values))), c.values)
        for c in result.ranking
        if c.values
    ]


def repeats_data(repeats: Repeats, results: Sequence[StudyResult]) -> list[RoundsGroup]:
    """One group per repeat: the rounds of its tuned configuration."""
    by_name, groups = {result.name: result for result in results}, []
    for group in repeats.groups:
        for repeat in group.repeats:
            result = by_name[repeat.study]
            final = result.final_of(TUNED)
            assert final is not None  # a repeat is compared by it
            epochs = result.spec.budget.epochs
            groups.append(
                _measured(group.model, repeat.study, repeat.study, epochs, final.round_numbers, final.test_values)
            )
    return groups


# --- Learning curves --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One configuration's learning curve, over its rounds."""

    study: str
    model: ModelName
    label: str  # "paper" or "tuned"
    what: Literal["validation accuracy", "training loss"]
    runs: int
    mean: tuple[float, ...]  # by epoch, from 1
    low: tuple[float, ...]  # of the lowest round
    high: tuple[float, ...]


def curves_data(result: StudyResult) -> list[Curve]:
    """Validation accuracy in the confirm rounds, training loss in the final rounds: the paper's and the tuned ones."""
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
    complete = [values for values in by_run if values and None not in values]
    if not complete:
        return None
    length = min(map(len, complete))
    table = np.array([values[:length] for values in complete], dtype=np.float64)  # (runs, epochs)
    mean, low, high = table.mean(axis=0), table.min(axis=0), table.max(axis=0)
    return Curve(
        study=result.name,
        model=result.model,
        label=label,
        what=what,
        runs=len(complete),
        mean=tuple(mean.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
    )
