"""Headline, the table of accuracies, every round."""

from collections.abc import Iterable, Sequence

from hpo.analysis.comparison import Comparison, TableRow
from hpo.analysis.stats import BCA_LEAST
from hpo.report import chart_data
from hpo.report.charts import rounds
from hpo.report.formats import CONFIGURATIONS, NOTHING, interval_percent, mean_std, percent, with_interval
from hpo.report.html import Bullets, Callout, PageTable, Part, numbers, plotly_figure, texts
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
    missing = tuple(f"{result.name}: {line}" for result in results for line in result.missing)
    if missing:
        yield "What is missing:"
        yield Bullets(lines=missing)


def accuracy_parts(results: Sequence[StudyResult], comparison: Comparison) -> Iterable[Part]:
    """The table of accuracies, and every round."""
    rows = comparison.rows
    several, studies = len(comparison.settings) > 1, comparison.repeated
    columns = (
        *texts("model", *(("study",) if studies else ()), "configuration"),
        *(numbers("setting") if several else ()),
        *numbers("epochs", "trials", "rounds", "train %", "test %", "95% interval", "median", "IQM"),
    )
    yield PageTable(
        caption="Accuracy in percent, mean ± standard deviation (n - 1) over the rounds",
        columns=columns,
        rows=tuple(_accuracy_cells(row, several, studies) for row in rows),
        grouped=True,
    )
    notes = tuple(
        f"{row.study}, {CONFIGURATIONS.get(row.label, row.label)}: {note}" for row in rows if (note := row_note(row))
    )
    if notes:
        yield Bullets(lines=notes)
    yield (
        "The intervals of means are Student's t intervals; those of medians and interquartile means (IQM) are BCa "
        f"bootstrap intervals, given from {BCA_LEAST} rounds on. All of them describe new seeds and new draws from the "
        "same images."
    )
    yield plotly_figure(
        "rounds",
        "Test accuracy in every round (after the paper's Figure 2). Each point is a round: hollow with the paper's "
        "configuration, filled with the tuned one. Boxes show quartiles; the black diamond is the mean with its 95% "
        "interval. Grey: the published mean ± standard deviation.",
        rounds.rounds_chart(chart_data.rounds_data(results, comparison)),
    )
    yield from _every_round(results)


def _accuracy_cells(row: TableRow, several: bool, studies: bool) -> tuple[str, ...]:
    setting = NOTHING if row.setting is None else str(row.setting + 1)
    return (
        row.model,
        *((row.study or NOTHING,) if studies else ()),
        CONFIGURATIONS.get(row.label, row.label),
        *((setting,) if several else ()),
        str(row.epochs),
        NOTHING if row.trials is None else str(row.trials),
        str(row.rounds) if row.rounds == row.planned else f"{row.rounds} of {row.planned}",
        mean_std(row.train),
        mean_std(row.test),
        interval_percent(row.test.interval),
        with_interval(row.test.median, row.test.median_interval),
        with_interval(row.test.iqm, row.test.iqm_interval),
    )


def _every_round(results: Sequence[StudyResult]) -> Iterable[PageTable]:
    finals = [(result, final) for result in results for final in result.final if final.same_as is None and final.rounds]
    numbered = sorted({number for _, final in finals for number in final.round_numbers})
    if not numbered:
        return
    by_round = [dict(zip(final.round_numbers, final.test_values, strict=True)) for _, final in finals]
    yield PageTable(
        caption="Test accuracy in every round, in percent; rounds with the same number share seeds and draws",
        columns=numbers("round", *(f"{result.name} {final.label}" for result, final in finals)),
        rows=tuple((str(number), *(percent(values.get(number), 2) for values in by_round)) for number in numbered),
    )
