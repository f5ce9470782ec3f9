"""Tables for the terminal (rich): the same numbers as the report's. In 80 columns words wrap and numbers stay whole."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hpo.analysis.comparison import Comparison, Summary, TableRow, compare
from hpo.analysis.pairwise import setting_of
from hpo.analysis.provenance import last_line
from hpo.report.formats import CONFIGURATIONS
from hpo.report.sentences import percent
from hpo.results.failures import optuna_name, setbacks, troubled
from hpo.results.records import FinalResult, StudyResult
from hpo.study.labels import PAPER, TUNED
from hpo.study.spec import HYPERPARAMETERS

NOTHING = "-"
MOST_FAILURES = 10  # lines in a table
_SHOWN = (  # of a trial, a line each
    "state",
    "value",
    "loss",
    "train_accuracy",
    "epochs",
    "seconds",
    "device_seconds",
    "attempt",
    "worker",
    "device",
)


def comparison_table(results: Sequence[StudyResult], comparison: Comparison | None = None) -> RenderableType:
    """The comparison: every measured configuration beside the published numbers, then the sentences."""
    comparison = comparison or compare(results)
    if not results:
        return Text("There are no studies yet; `hpo study create` makes one, `hpo run` does everything.")
    table = _table("Train and test accuracy, mean ± std over the rounds")
    several = len(comparison.settings) > 1 or comparison.repeated
    _words(table, "model", "configuration")
    _numbers(table, "epochs", "trials", "rounds", "train %", "test %", "95%\ninterval")
    before = None
    for row in comparison.rows:
        if before is not None and row.model != before:
            table.add_section()
        before = row.model
        model, configuration, *numbers = _cells(row)
        study = f"\n{escape(row.study)}" if several and row.study else ""
        table.add_row(model, configuration + study, *numbers)
    parts: list[RenderableType] = [table, ""]
    parts += [Text(line) for line in comparison.headlines]
    parts += [Text(line, style="yellow") for line in ([comparison.budget] if comparison.budget else [])]
    parts += [Text(line, style="yellow") for line in comparison.cautions]
    parts += [Text(f"{r.name}: {line}", style="dim") for r in results for line in r.missing]
    return Group(*parts)


def study_table(results: Iterable[StudyResult]) -> RenderableType:
    """`hpo study list`: a line a study."""
    table = _table(None)
    _words(table, "study", "model", "phase")
    _numbers(table, "trials", "best", "confirmed", "final\nrounds", "tuned\ntest %")
    count = 0
    for result in results:
        count += 1
        planned = [f for f in result.final if f.same_as is None]
        done, asked = sum(f.rounds for f in planned), sum(f.planned for f in planned)
        tuned = result.tuned
        table.add_row(
            escape(result.name),
            result.model,
            result.phase + (" (paused)" if result.paused else ""),
            f"{result.trials.total - result.trials.open}/{result.trials.total}",
            _percent(None if result.best is None else result.best.value),
            _percent(None if tuned is None else tuned.confirm_mean),
            f"{done}/{asked}" if asked else NOTHING,
            _plus_minus(result.final_of(TUNED)),
        )
    if not count:
        return Text("There are no studies yet; `hpo study create --model ws` makes one.")
    return table


def study_detail(result: StudyResult) -> RenderableType:
    """`hpo study show`: everything about one study that fits a screen."""
    t = result.trials
    paused = ", paused" if result.paused else ""
    head = Text.assemble(
        (result.name, "bold"),
        f": model {result.model}, phase {result.phase}{paused}, seed {result.seed}, "
        f"{result.spec.budget.epochs} epochs\n",
        f"search: {t.total} trials: {t.complete} complete, {t.pruned} pruned, {t.diverged} diverged, "
        f"{t.failed} failed, {t.running} running, {t.waiting} waiting",
    )
    parts: list[RenderableType] = [head]
    if result.best is not None:
        parts.append(Text(f"best trial: {result.best.number}, validation accuracy {percent(result.best.value, 2)}"))
    parts += ["", _configurations(result), ""]
    if result.ranking:
        parts += [_ranking(result), ""]
    if any(final.rounds for final in result.final):
        parts += [_final(result), ""]
    parts += _failures(result)
    parts += [Text(line, style="yellow") for line in result.missing]
    setting = setting_of(result)
    parts.append(Text(f"spec {result.spec_digest[:12]}, data {setting.data_digest[:12]}", style="dim"))
    return Group(*parts)


def trial_detail(trial: Mapping[str, Any]) -> RenderableType:
    """`hpo trial show`: what `results.trial` found, a line each."""
    table = _table(f"{trial['study']} trial {trial['number']}", header=False)
    table.add_column("what", style="bold", no_wrap=True)
    table.add_column("value")
    if trial["label"] is not None:
        table.add_row("configuration", f"{escape(trial['label'])}, round {trial['round']}")
    for name in _SHOWN:
        table.add_row(name.replace("_", " "), NOTHING if trial[name] is None else escape(str(trial[name])))
    if trial["setbacks"]:
        table.add_row("setbacks", escape("\n".join(trial["setbacks"])))
    for name, value in (trial["params"] or {}).items():
        table.add_row(name, f"{value:.4g}")
    for name in ("train_loss", "validation_accuracy"):
        if trial[name]:
            by_epoch = " ".join(NOTHING if x is None else f"{x:.4f}" for x in trial[name])
            table.add_row(name.replace("_", " "), by_epoch)
    for name in ("started_at", "finished_at"):
        table.add_row(name.replace("_", " "), _time(trial[name]))
    if trial["error"]:
        table.add_row("error" if trial["state"] == "failed" else "earlier error", escape(trial["error"]))
    return table


# --- Parts ------------------------------------------------------------------------------------------------


def _table(title: str | None, *, header: bool = True) -> Table:
    return Table(
        title=title,
        title_justify="left",
        show_header=header,
        header_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        collapse_padding=True,
    )


def _words(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, overflow="fold")  # a name can be copied whole


def _numbers(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)


def _cells(row: TableRow) -> tuple[str, ...]:
    interval = row.test.interval
    short = row.rounds < row.planned
    return (
        row.model,
        escape(CONFIGURATIONS.get(row.label, row.label)),
        str(row.epochs),
        NOTHING if row.trials is None else str(row.trials),
        f"{row.rounds}/{row.planned}" if short else str(row.rounds),
        _column(row.train),
        _column(row.test),
        NOTHING if interval is None else f"{100 * interval.low:.1f}\N{EN DASH}{100 * interval.high:.1f}",
    )


def _column(column: Summary) -> str:
    return _mean_std(column.mean, column.std)


def _mean_std(mean: float | None, std: float | None) -> str:
    if mean is None:
        return NOTHING
    return f"{100 * mean:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def _plus_minus(final: FinalResult | None) -> str:
    return NOTHING if final is None else _mean_std(final.test_mean, final.test_std)


def _percent(x: float | None) -> str:
    return NOTHING if x is None else percent(x, 2)


def _configurations(result: StudyResult) -> Table:
    table = _table("Configurations")
    names = HYPERPARAMETERS[result.model]
    _words(table, "configuration")
    _numbers(table, *names)
    shown: list[tuple[str, Mapping[str, float]]] = [("paper", result.spec.paper)]
    if result.best is not None:
        shown.append((f"best of the search (trial {result.best.number})", result.best.params))
    if result.tuned is not None:
        source = "the paper's" if result.tuned.source == PAPER else f"trial {result.tuned.source}"
        shown.append((f"tuned ({source})", result.tuned.params))
    for label, params in shown:
        table.add_row(label, *(f"{params[n]:.4g}" if n in params else NOTHING for n in names))
    return table


def _ranking(result: StudyResult) -> Table:
    table = _table("Confirm: validation accuracy % on fresh draws")
    _words(table, "configuration")
    _numbers(table, "rounds", "mean")
    _words(table, "rounds' values")
    for one in result.ranking:
        state = "" if one.whole else f" ({one.failed} failed)" if one.failed else " (unfinished)"
        values = " ".join(f"{100 * value:.1f}" for value in one.values)
        table.add_row(one.label + state, f"{len(one.values)}/{one.rounds}", _percent(one.mean), values)
    return table


def _final(result: StudyResult) -> Table:
    table = _table("Final: accuracy % on pool B")
    _words(table, "configuration")
    _numbers(table, "rounds", "train", "test")
    for final in result.final:
        if final.rounds:
            same = " (the paper's won)" if final.same_as else ""
            table.add_row(
                escape(final.label) + same,
                f"{final.rounds}/{final.planned}",
                _mean_std(final.train_mean, final.train_std),
                _mean_std(final.test_mean, final.test_std),
            )
    return table


def _failures(result: StudyResult) -> list[RenderableType]:
    """What went wrong in all phases, what was done about it, and how to see the whole error."""
    runs = troubled(result)
    if not runs:
        return []
    table = _table("What went wrong")
    _words(table, "trial", "round", "state", "what happened", "error")
    for run in runs[:MOST_FAILURES]:
        table.add_row(
            f"{optuna_name(result, run)} {NOTHING if run.number is None else run.number}",
            NOTHING if run.label is None else f"{escape(run.label)}, round {run.round}",
            run.state,
            escape("\n".join(setbacks(run))),
            NOTHING if run.error is None else escape(last_line(run.error)),
        )
    hints = [f"{len(runs) - MOST_FAILURES} more: see `--format json`"] if len(runs) > MOST_FAILURES else []
    numbered = [f"{optuna_name(result, run)} {run.number}" for run in runs if run.number is not None and run.error]
    hints += [f"the whole error: `hpo trial show {one}`" for one in numbered[:1]]
    return [table, *(Text(hint, style="dim") for hint in hints), ""]


def _time(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
