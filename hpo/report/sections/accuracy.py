"""Headline, the table of results on the test items, every round."""

from collections.abc import Iterable, Sequence

from hpo.analysis.comparison import Comparison, TableRow, other_metrics
from hpo.analysis.stats import BCA_LEAST
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.page import Bullets, Callout, PageTable, Part, numbers, plotly_figure, texts
from hpo.report import chart_data
from hpo.report.charts import rounds
from hpo.report.formats import NOTHING, Scale, configuration, reference
from hpo.report.sentences import Conclusions, row_note
from hpo.results.records import StudyResult


def headline_parts(results: Sequence[StudyResult], conclusions: Conclusions) -> Iterable[Part]:
    """The conclusions, and what is still missing."""
    if conclusions.budget is not None:
        yield Callout(text=conclusions.budget)
    if conclusions.headlines:
        yield Bullets(lines=conclusions.headlines, lead=True)
    else:
        yield Callout(text="No two configurations have a final round in common yet, so nothing is compared.")
    for caution in conclusions.cautions:
        yield Callout(text=caution)
    yield from conclusions.tested
    missing = tuple(f"{result.name}: {line}" for result in results for line in result.missing)
    if missing:
        yield "What is missing:"
        yield Bullets(lines=missing)


def title_of(results: Sequence[StudyResult]) -> str:
    """What the section with the table is called."""
    names = list(dict.fromkeys(Scale(result.metric).name for result in results))
    return f"Test {names[0]}" if len(names) == 1 else "Results on the test items"


def accuracy_parts(results: Sequence[StudyResult], comparison: Comparison) -> Iterable[Part]:
    """For each experiment the table of its values, and every round."""
    measured = list(dict.fromkeys((row.experiment, row.metric) for row in comparison.rows))
    for place, (experiment, metric) in enumerate(measured):
        rows = [row for row in comparison.rows if (row.experiment, row.metric) == (experiment, metric)]
        of_experiment = [r for r in results if (r.experiment, r.metric) == (experiment, metric)]
        name = f"{experiment}: " if len({name for name, _ in measured}) > 1 else ""
        redrawn = all(result.redraws_test for result in of_experiment)
        yield from _table_parts(rows, comparison, name, redrawn)
        yield from _rounds_parts(of_experiment, results, comparison, name, f"-{place}" if place else "")


def _table_parts(rows: Sequence[TableRow], comparison: Comparison, name: str, redrawn: bool) -> Iterable[Part]:
    scale = Scale(rows[0].metric)
    several, studies = len({row.setting for row in rows} - {None}) > 1, comparison.repeated
    train, epochs = any(row.train.n for row in rows), any(row.epochs is not None for row in rows)
    others = other_metrics(rows)
    columns = (
        *texts("model", *(("study",) if studies else ()), "configuration"),
        *(numbers("setting") if several else ()),
        *(numbers("epochs") if epochs else ()),
        *numbers("trials", "rounds"),
        *(numbers("train %") if train else ()),
        *numbers(scale.column("test"), "95% interval", "median", "IQM", *(Scale(other).title for other in others)),
    )
    what = "Accuracy in percent" if scale.is_percent else f"{scale.axis('Test')}, {scale.better}"
    yield PageTable(
        caption=f"{name}{what}, mean ± standard deviation (n - 1) over the rounds",
        columns=columns,
        rows=tuple(_cells(row, several, studies, train, epochs, others) for row in rows),
        grouped=True,
    )
    if others:
        yield _directions(scale, others)
    notes = tuple(f"{row.study}, {configuration(row.label)}: {note}" for row in rows if (note := row_note(row)))
    if notes:
        yield Bullets(lines=notes)
    yield (
        "The intervals of means are Student's t intervals; those of medians and interquartile means (IQM) are BCa "
        f"bootstrap intervals, given from {BCA_LEAST} rounds on. All of them describe new seeds and new draws from the "
        + ("same data." if redrawn else "same training data, on these test items.")
    )


def _rounds_parts(
    of_experiment: Sequence[StudyResult], results: Sequence[StudyResult], comparison: Comparison, name: str, suffix: str
) -> Iterable[Part]:
    groups = [
        g for g in chart_data.rounds_data(of_experiment, comparison) if g.experiment == of_experiment[0].experiment
    ]
    published = ""
    if any(not group.values for group in groups):
        spread = any(not group.values and group.low != group.high for group in groups)
        published = f" Grey: the published {'mean ± standard deviation' if spread else 'value'}."
    scale, it = Scale(of_experiment[0].metric), reference(of_experiment[0].reference_label)
    caption = (
        f"Test {scale.name} in every round ({scale.better}). Each point is a round: hollow with {it}, filled with the "
        f"tuned one. Boxes show quartiles; the black diamond is the mean with its 95% interval.{published}"
    )
    models = [result.model for result in results]
    if groups:
        yield plotly_figure(f"rounds{suffix}", f"{name}{caption}", rounds.rounds_chart(groups, models=models))
    yield from _every_round(of_experiment, name)


def _cells(
    row: TableRow, several: bool, studies: bool, train: bool, epochs: bool, others: Sequence[MetricInfo]
) -> tuple[str, ...]:
    scale, setting = Scale(row.metric), NOTHING if row.setting is None else str(row.setting + 1)
    return (
        row.model,
        *((row.study or NOTHING,) if studies else ()),
        configuration(row.label),
        *((setting,) if several else ()),
        *((NOTHING if row.epochs is None else str(row.epochs),) if epochs else ()),
        NOTHING if row.trials is None else str(row.trials),
        _rounds_of(row),
        *((scale.summary(row.train),) if train else ()),
        scale.summary(row.test),
        scale.interval(row.test.interval),
        scale.with_interval(row.test.median, row.test.median_interval),
        scale.with_interval(row.test.iqm, row.test.iqm_interval),
        *(_other(row, metric) for metric in others),
    )


def _rounds_of(row: TableRow) -> str:
    if not row.planned:
        return NOTHING
    return str(row.rounds) if row.rounds == row.planned else f"{row.rounds} of {row.planned}"


def _directions(judge: Scale, others: Sequence[MetricInfo]) -> str:
    """Which values of the other metrics are the better, and that they do not decide."""
    words = ", ".join(f"{scale.name} ({scale.better})" for scale in map(Scale, others))
    return f"Measured on the same test items: {words}. The comparison is decided by {judge.name} alone."


def _other(row: TableRow, metric: MetricInfo) -> str:
    """Another metric's mean ± standard deviation; a dash where it does not apply."""
    column = row.others.get(metric.name)
    return NOTHING if column is None else Scale(metric).summary(column)


def _every_round(results: Sequence[StudyResult], name: str) -> Iterable[PageTable]:
    finals = [(result, final) for result in results for final in result.final if final.same_as is None and final.rounds]
    numbered = sorted({number for _, final in finals for number in final.round_numbers})
    if not numbered:
        return
    scale = Scale(results[0].metric)
    by_round = [dict(zip(final.round_numbers, final.test_values, strict=True)) for _, final in finals]
    what = "Test accuracy in every round, in percent" if scale.is_percent else f"{scale.axis('Test')} in every round"
    yield PageTable(
        caption=f"{name}{what}; rounds with the same number share seeds and draws",
        columns=numbers("round", *(f"{result.name} {final.label}" for result, final in finals)),
        rows=tuple((str(number), *(scale.number(values.get(number), 2) for values in by_round)) for number in numbered),
    )
