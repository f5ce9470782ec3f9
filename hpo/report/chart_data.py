"""The data of figures as plain records; `charts/` draws them.

Values are in the unit of their metric; accuracies are fractions here, percent in the figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo.analysis import stats
from hpo.analysis.comparison import Comparison, TableRow
from hpo.analysis.repeats import Repeats
from hpo.experiment.metric_info import MetricInfo
from hpo.report.formats import Scale
from hpo.results.records import StudyResult
from hpo.study.labels import PUBLISHED, TUNED

# --- Rounds: the paper's Figure 2 -------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundsGroup:
    """The rounds of one configuration; of a published one only mean and standard deviation are known."""

    experiment: str
    model: str
    label: str
    metric: MetricInfo
    study: str | None
    epochs: int | None  # None: the method has none
    rounds: tuple[int, ...]  # the numbers of the values' rounds
    values: tuple[float, ...]  # one per round
    mean: float
    low: float  # of the mean's 95 % interval; published: mean - std
    high: float


def rounds_data(results: Sequence[StudyResult], comparison: Comparison) -> list[RoundsGroup]:
    """One group per row of the comparison table, in its order."""
    finals = {(r.name, final.label): final for r in results for final in r.final}
    groups = []
    for row in comparison.rows:
        mean, std = row.test.mean, row.test.std or 0.0
        if row.label == PUBLISHED and mean is not None:
            groups.append(
                RoundsGroup(
                    experiment=row.experiment,
                    model=row.model,
                    label=row.label,
                    metric=row.metric,
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
            final = finals.get((row.study or "", row.label))
            rounds, values = ((), row.test.values) if final is None else (final.round_numbers, final.test_values)
            groups.append(_measured(row, row.label, rounds, values))
    return groups


def _measured(
    of: TableRow | StudyResult, label: str, rounds: tuple[int, ...], values: tuple[float, ...]
) -> RoundsGroup:
    """A group of at least one round, with the mean and its interval."""
    average, interval = stats.mean(values), stats.t_interval(values)
    return RoundsGroup(
        experiment=of.experiment,
        model=of.model,
        label=label,
        metric=of.metric,
        study=of.study if isinstance(of, TableRow) else of.name,
        epochs=of.epochs,
        rounds=rounds,
        values=values,
        mean=average,
        low=average if interval is None else interval.low,
        high=average if interval is None else interval.high,
    )


def rounds_of(result: StudyResult, comparison: Comparison) -> list[RoundsGroup]:
    """The groups of one study, and the published one of its model."""
    key = result.experiment, result.model
    return [
        group
        for group in rounds_data([result], comparison)
        if group.study in (None, result.name) and (group.experiment, group.model) == key
    ]


def confirm_data(result: StudyResult) -> list[RoundsGroup]:
    """Values on validation items: one group per configuration of the confirm phase, best mean first."""
    return [_measured(result, c.label, tuple(range(len(c.values))), c.values) for c in result.ranking if c.values]


def repeats_data(repeats: Repeats, results: Sequence[StudyResult]) -> list[RoundsGroup]:
    """One group per repeat: the rounds of its tuned configuration."""
    by_name, groups = {result.name: result for result in results}, []
    for group in repeats.groups:
        for repeat in group.repeats:
            result = by_name[repeat.study]
            final = result.final_of(TUNED)
            assert final is not None  # a repeat is compared by it
            groups.append(_measured(result, TUNED, final.round_numbers, final.test_values))
    return groups


# --- Learning curves --------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """One configuration's learning curve, over its rounds."""

    study: str
    experiment: str
    model: str
    label: str  # the reference's, or "tuned"
    metric: MetricInfo | None  # None: the training loss
    runs: int
    mean: tuple[float, ...]  # by epoch, from 1
    low: tuple[float, ...]  # of the lowest round
    high: tuple[float, ...]

    @property
    def what(self) -> str:
        """What it shows, in words."""
        return "training loss" if self.metric is None else f"validation {Scale(self.metric).name}"


def curves_data(result: StudyResult) -> list[Curve]:
    """Validation in the confirm rounds, training loss in the final rounds: of the reference and the tuned one."""
    tuned = result.tuned
    curves = []
    reference = result.reference_label
    sources = [(reference, reference)]
    if tuned is not None and tuned.source != reference:
        sources.append((TUNED, f"trial {tuned.source}"))
    for label, confirm_label in sources:
        confirm = [r for r in result.confirm if r.label == confirm_label and r.state == "complete"]
        final = [r for r in result.final_runs if r.label == label and r.state == "complete"]
        validation = _curve(result, label, result.metric, [r.validation_accuracy for r in confirm])
        losses = _curve(result, label, None, [r.train_loss for r in final])
        curves += [curve for curve in (validation, losses) if curve is not None]
    return curves


def _curve(
    result: StudyResult,
    label: str,
    metric: MetricInfo | None,
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
        experiment=result.experiment,
        model=result.model,
        label=label,
        metric=metric,
        runs=len(complete),
        mean=tuple(mean.tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
    )
