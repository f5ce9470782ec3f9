"""The comparison's tables for the terminal (rich): every measured configuration, and what can be said of them."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hpo.analysis.comparison import Comparison, TableRow, other_metrics
from hpo.experiment.metric_info import MetricInfo
from hpo.report.formats import NOTHING, Scale, configuration
from hpo.report.sentences import Conclusions
from hpo.report.terminal import add_numbers, add_words, plain_table
from hpo.results.records import StudyResult


def comparison_table(
    results: Sequence[StudyResult], comparison: Comparison, conclusions: Conclusions
) -> RenderableType:
    """Every measured configuration beside the published numbers, then the sentences."""
    if not results:
        return Text("There are no studies yet; `hpo study create` makes one, `hpo run` does everything.")
    parts: list[RenderableType] = []
    named = len({row.experiment for row in comparison.rows}) > 1
    for measured in dict.fromkeys((row.experiment, row.metric) for row in comparison.rows):
        rows = [row for row in comparison.rows if (row.experiment, row.metric) == measured]
        parts += [_rows_table(rows, comparison, named=named), ""]
        if others := other_metrics(rows):
            parts += [_others_table(rows, others), ""]
    if not parts:
        parts += [Text("No final round is done yet.", style="dim"), ""]
    parts += [Text(line) for line in conclusions.headlines]
    warnings = ([conclusions.budget] if conclusions.budget else []) + list(conclusions.cautions)
    parts += [Text(line, style="yellow") for line in warnings]
    parts += [Text(line, style="dim") for line in conclusions.tested]
    parts += [Text(f"{r.name}: {line}", style="dim") for r in results for line in r.missing]
    return Group(*parts)


def _rows_table(rows: Sequence[TableRow], comparison: Comparison, *, named: bool) -> Table:
    """One experiment's configurations."""
    scale, train = Scale(rows[0].metric), any(row.train.n for row in rows)
    epochs = any(row.epochs is not None for row in rows)
    what = f"{'Train and test' if train else 'Test'} {scale.name}"
    unit = "" if scale.is_percent or not scale.metric.unit else f"{scale.metric.unit}, "
    direction = "" if scale.is_percent else f" ({unit}{scale.better})"
    name = f"{rows[0].experiment}: " if named else ""
    table = plain_table(f"{name}{what}{direction}, mean ± std over the rounds")
    several = len({row.setting for row in rows} - {None}) > 1 or comparison.repeated
    add_words(table, "model", "configuration")
    add_numbers(table, *(("epochs",) if epochs else ()), "trials", "rounds", *(("train %",) if train else ()))
    add_numbers(table, "test %" if scale.is_percent else f"test\n{scale.name}", "95%\ninterval")
    before = None
    for row in rows:
        if before is not None and row.model != before:
            table.add_section()
        before = row.model
        model, label, *numbers = _cells(row, epochs, train)
        study = f"\n{escape(row.study)}" if several and row.study else ""
        table.add_row(model, label + study, *numbers)
    return table


def _others_table(rows: Sequence[TableRow], others: Sequence[MetricInfo]) -> Table:
    """The metrics that do not decide, on the same test items."""
    table = plain_table("Also measured on the test items, mean ± std over the rounds")
    add_words(table, "model", "configuration")
    add_numbers(table, *(f"{scale.title}\n{scale.better}" for scale in map(Scale, others)))
    for row in rows:
        columns = [row.others.get(metric.name) for metric in others]
        cells = (NOTHING if c is None else Scale(m).summary(c) for m, c in zip(others, columns, strict=True))
        table.add_row(escape(row.model), escape(configuration(row.label)), *cells)
    return table


def _cells(row: TableRow, epochs: bool, train: bool) -> tuple[str, ...]:
    interval, scale = row.test.interval, Scale(row.metric)
    rounds = f"{row.rounds}/{row.planned}" if row.rounds < row.planned else str(row.rounds)
    return (
        escape(row.model),
        escape(configuration(row.label)),
        *((NOTHING if row.epochs is None else str(row.epochs),) if epochs else ()),
        NOTHING if row.trials is None else str(row.trials),
        rounds if row.planned else NOTHING,
        *((scale.summary(row.train),) if train else ()),
        scale.summary(row.test),
        scale.interval(interval, "\N{EN DASH}"),
    )
