"""The comparison: the rows of the table and the pairs of configurations, as numbers alone.

A row never comes without its epochs. Values are in the unit of their metric; accuracies are fractions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hpo.analysis import stats
from hpo.analysis.pairwise import Pair, Setting, pairs_of, place_of, settings_of
from hpo.analysis.pooling import Pooling, ScoresOf, evidence, measurement_in
from hpo.analysis.repeats import Repeats, repeats_of
from hpo.experiment import shipped
from hpo.experiment.metric_info import MetricInfo
from hpo.results.records import FinalResult, StudyResult, models_of
from hpo.storage.ledger import LedgerEntry
from hpo.study.labels import PUBLISHED, TUNED

# --- The table --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Accuracies over rounds, summarised; published ones come without the single values."""

    n: int  # rounds
    mean: float | None
    std: float | None  # n - 1
    interval: stats.Interval | None = None  # of the mean
    median: float | None = None
    median_interval: stats.Interval | None = None
    iqm: float | None = None
    iqm_interval: stats.Interval | None = None
    values: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TableRow:
    """One row of the comparison table."""

    experiment: str
    model: str
    label: str  # "published", the reference's, "tuned", or that of `hpo evaluate --label`
    metric: MetricInfo  # the first of `metrics`, which judges
    metrics: tuple[MetricInfo, ...]
    study: str | None  # None: published
    setting: int | None  # index into Comparison.settings
    epochs: int | None  # None: the method has none
    trials: int | None  # of the search; None for rows without one
    rounds: int
    planned: int
    train: Summary
    test: Summary  # a diverged round counts at the metric's value for that; the train values leave it out
    others: Mapping[str, Summary] = field(default_factory=dict)  # the other metrics on the same test items, by name
    diverged: int = 0  # rounds
    failed: int = 0  # rounds
    same_as: str | None = None  # the label of the configuration whose rounds these are too
    is_reference: bool = False
    is_given: bool = False  # labelled as tuned in a study that has searched nothing
    no_spread: bool = False  # all of its rounds are equal in every test item: they count once
    collapsed: tuple[int, ...] = ()  # rounds that are far worse than the others
    also_of: tuple[str, ...] = ()  # other repeats, which have the same rounds of their reference: one measurement


def other_metrics(rows: Iterable[TableRow]) -> list[MetricInfo]:
    """The metrics beside the first that any of the rows has a value of, in the order of their experiments."""
    return list(dict.fromkeys(m for row in rows for m in row.metrics[1:] if _is_known(row.others.get(m.name))))


def _is_known(column: Summary | None) -> bool:
    return column is not None and column.mean is not None


def published_rows(results: Sequence[StudyResult], experiment: str, model: str) -> list[TableRow]:
    """A model's published values, where there are some."""
    of_model = [result for result in results if (result.experiment, result.model) == (experiment, model)]
    latest = of_model[-1]  # what it says of others' results, the earlier ones may not know yet
    if latest.is_shipped:
        return [_published_with_hpo(model, latest.metrics[:1])]
    values = latest.spec.published
    if not values:
        return []
    columns = {name: Summary(n=0, mean=value, std=None) for name, value in values.items()}
    nothing = Summary(n=0, mean=None, std=None)
    test = columns.pop(latest.metric.name, nothing)
    return [replace(_published(experiment, model, latest.metrics, None, 0, nothing, test), others=columns)]


def _published_with_hpo(model: str, metrics: tuple[MetricInfo, ...]) -> TableRow:
    """The published numbers of one of the models that ship with hpo, which its specs do not have."""
    published = shipped.part("published")
    of_model = published.ACCURACIES[model]
    train = Summary(n=published.ROUNDS, mean=of_model.train_mean, std=of_model.train_std)
    test = Summary(n=published.ROUNDS, mean=of_model.test_mean, std=of_model.test_std)
    return _published(shipped.NAME, model, metrics, published.EPOCHS, published.ROUNDS, train, test)


def _published(
    experiment: str,
    model: str,
    metrics: tuple[MetricInfo, ...],
    epochs: int | None,
    rounds: int,
    train: Summary,
    test: Summary,
) -> TableRow:
    return TableRow(
        experiment=experiment,
        model=model,
        label=PUBLISHED,
        metric=metrics[0],
        metrics=metrics,
        study=None,
        setting=None,
        epochs=epochs,
        trials=None,
        rounds=rounds,
        planned=rounds,
        train=train,
        test=test,
    )


def summarize(values: Iterable[float | None]) -> Summary:
    """Summarise the values that are known."""
    known = tuple(value for value in values if value is not None)
    if not known:
        return Summary(n=0, mean=None, std=None)
    return Summary(
        n=len(known),
        mean=stats.mean(known),
        std=stats.std(known),
        interval=stats.t_interval(known),
        median=stats.median(known),
        median_interval=stats.median_interval(known),
        iqm=stats.iqm(known),
        iqm_interval=stats.iqm_interval(known),
        values=known,
    )


def _row(result: StudyResult, final: FinalResult, setting: int, scores: ScoresOf) -> TableRow:
    rounds = evidence(result, final.label, scores)
    no_spread = final.rounds > 1 and len(rounds) == final.rounds and len(set(rounds.values())) == 1
    counted = slice(0, 1) if no_spread else slice(None)
    judge = result.metric.name
    return TableRow(
        experiment=result.experiment,
        model=result.model,
        label=final.label,
        metric=result.metric,
        metrics=result.metrics,
        study=result.name,
        setting=setting,
        epochs=result.epochs,
        trials=result.trials.total if final.label == TUNED and result.trials.total else None,
        rounds=final.rounds,
        planned=final.planned,
        train=summarize(final.train_values),
        test=summarize(final.test_values[counted]),
        others={name: summarize(values[counted]) for name, values in final.metrics.items() if name != judge},
        diverged=final.diverged,
        failed=final.failed,
        same_as=final.same_as,
        is_reference=final.label == result.reference_label,
        is_given=final.label == TUNED and not result.trials.total,
        no_spread=no_spread,
        collapsed=tuple(final.round_numbers[place] for place in stats.collapsed(final.test_values, result.metric.sign)),
    )


# --- Everything ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Paired:
    """What may be compared, and the outcome."""

    settings: tuple[Setting, ...]
    pairs: tuple[Pair, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """All that the report compares."""

    rows: tuple[TableRow, ...]
    settings: tuple[Setting, ...]
    pairs: tuple[Pair, ...]
    repeats: Repeats

    @property
    def repeated(self) -> bool:
        """Whether model, label and setting do not identify a row, so that its study must be named."""
        return len({(row.experiment, row.model, row.label, row.setting) for row in self.rows}) < len(self.rows)

    @property
    def paired(self) -> Paired:
        """The part that `paired_of` computes."""
        return Paired(settings=self.settings, pairs=self.pairs)


def paired_of(
    results: Sequence[StudyResult], scores: ScoresOf | None = None, ledger: Sequence[LedgerEntry] = ()
) -> Paired:
    """All pairs that may be compared; takes milliseconds, where the table's bootstrap intervals take seconds.

    `scores`, by study id, add the uncertainty that comes from the choice of test items; `ledger`, all openings of the
    test pools, says who looked at what when.
    """
    settings = settings_of(results)
    return Paired(
        settings=tuple(settings), pairs=tuple(pairs_of(results, settings, Pooling(results, scores or {}, ledger)))
    )


def compare(
    results: Sequence[StudyResult], scores: ScoresOf | None = None, ledger: Sequence[LedgerEntry] = ()
) -> Comparison:
    """Compare all final rounds that may be compared; `scores` and `ledger` as for `paired_of`."""
    paired = paired_of(results, scores, ledger)
    return Comparison(
        rows=tuple(_rows(results, paired.settings, scores or {})),
        settings=paired.settings,
        pairs=paired.pairs,
        repeats=repeats_of(results, paired.settings, scores),
    )


def _measured(results: Sequence[StudyResult]) -> Iterable[list[tuple[StudyResult, FinalResult]]]:
    """Studies and the configurations that they have tested; repeats whose reference's rounds are the same together."""
    groups: dict[object, list[tuple[StudyResult, FinalResult]]] = {}
    for result in results:
        for final in result.final:
            if final.rounds:
                key: object = (result.id, final.label)
                if result.repeat_group is not None and final.label == result.reference_label:
                    what = measurement_in(result, final), result.spec.protocol.seed
                    key = (result.repeat_group, *what, final.planned, final.round_numbers, final.test_values)
                groups.setdefault(key, []).append((result, final))
    return groups.values()


def _rows(results: Sequence[StudyResult], settings: Sequence[Setting], scores: ScoresOf) -> list[TableRow]:
    """By model: published, the reference configuration, tuned, others."""
    models = models_of(results)
    rows = [row for model in models for row in published_rows(results, *model)]
    for group in _measured(results):
        (result, final), *others = group
        row = _row(result, final, place_of(result, settings), scores)
        rows.append(replace(row, also_of=tuple(other.name for other, _ in others)))

    def place(row: TableRow) -> tuple[int, int, int]:
        kind = 0 if row.label == PUBLISHED else 1 if row.is_reference else 2 if row.label == TUNED else 3
        return models.index((row.experiment, row.model)), kind, row.setting or 0

    return sorted(rows, key=place)
