"""Tables for the terminal (rich), with the report's numbers; in 80 columns words wrap and numbers stay whole."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hpo.analysis.comparison import Comparison, TableRow
from hpo.analysis.pairwise import setting_of
from hpo.analysis.provenance import reason
from hpo.report.formats import CONFIGURATIONS, NOTHING, as_percent, mean_std, plus_minus, time
from hpo.report.sentences import Conclusions
from hpo.results.failures import optuna_name, setbacks, troubled
from hpo.results.records import FinalResult, StudyResult
from hpo.study.labels import PAPER, TUNED
from hpo.study.spec import HYPERPARAMETERS

MOST_FAILURES = 10  # rows of the table
_TRIAL_FIELDS = (  # a line each
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


def comparison_table(
    results: Sequence[StudyResult], comparison: Comparison, conclusions: Conclusions
) -> RenderableType:
    """Every measured configuration beside the published numbers, then the sentences."""
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
    parts += [Text(line) for line in conclusions.headlines]
    warnings = ([conclusions.budget] if conclusions.budget else []) + list(conclusions.cautions)
    parts += [Text(line, style="yellow") for line in warnings]
    parts += [Text(f"{r.name}: {line}", style="dim") for r in results for line in r.missing]
    return Group(*parts)


def study_table(results: Iterable[StudyResult]) -> RenderableType:
    """`hpo study list`: a line for each study."""
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
            result.phase + "".join(f" ({state})" for state in _states(result)[:1]),
            f"{result.trials.total - result.trials.open}/{result.trials.total}",
            as_percent(None if result.best is None else result.best.value, 2),
            as_percent(None if tuned is None else tuned.confirm_mean, 2),
            f"{done}/{asked}" if asked else NOTHING,
            _test(result.final_of(TUNED)),
        )
    if not count:
        return Text("There are no studies yet; `hpo study create --model ws` makes one.")
    return table


def _states(result: StudyResult) -> list[str]:
    """What keeps a study from going on, the worst first."""
    states = {"broken": bool(result.gone), "blocked": result.is_blocked, "paused": result.paused}
    return [state for state, holds in states.items() if holds]


def study_detail(result: StudyResult) -> RenderableType:
    """`hpo study show`: a study on one screen."""
    t = result.trials
    state = "".join(f", {state}" for state in _states(result))
    head = Text.assemble(
        (result.name, "bold"),
        f": model {result.model}, phase {result.phase}{state}, seed {result.seed}, "
        f"{result.spec.budget.epochs} epochs\n",
        f"search: {t.total} trials: {t.complete} complete, {t.pruned} pruned, {t.diverged} diverged, "
        f"{t.failed} failed, {t.running} running, {t.waiting} waiting",
    )
    parts: list[RenderableType] = [head]
    if result.best is not None:
        parts.append(Text(f"best trial: {result.best.number}, validation accuracy {as_percent(result.best.value, 2)}"))
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
    """`hpo trial show`: the fields of `queries.trial`, a line each."""
    table = _table(f"{trial['study']} trial {trial['number']}", header=False)
    table.add_column("what", style="bold", no_wrap=True)
    table.add_column("value")
    if trial["label"] is not None:
        table.add_row("configuration", f"{escape(trial['label'])}, round {trial['round']}")
    for name in _TRIAL_FIELDS:
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
        table.add_row(name.replace("_", " "), time(trial[name], "seconds"))
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
    incomplete = row.rounds < row.planned
    return (
        row.model,
        escape(CONFIGURATIONS.get(row.label, row.label)),
        str(row.epochs),
        NOTHING if row.trials is None else str(row.trials),
        f"{row.rounds}/{row.planned}" if incomplete else str(row.rounds),
        mean_std(row.train),
        mean_std(row.test),
        NOTHING if interval is None else f"{100 * interval.low:.1f}\N{EN DASH}{100 * interval.high:.1f}",
    )


def _test(final: FinalResult | None) -> str:
    return NOTHING if final is None else plus_minus(final.test_mean, final.test_std)


def _configurations(result: StudyResult) -> Table:
    table = _table("Configurations")
    names = HYPERPARAMETERS[result.model]
    _words(table, "configuration")
    _numbers(table, *names)
    shown: list[tuple[str, Mapping[str, float]]] = [(PAPER, result.spec.paper)]
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
    for ranked in result.ranking:
        state = "" if ranked.whole else f" ({ranked.failed} failed)" if ranked.failed else " (unfinished)"
        values = " ".join(f"{100 * value:.1f}" for value in ranked.values)
        rounds = f"{len(ranked.values)}/{ranked.rounds}"
        table.add_row(ranked.label + state, rounds, as_percent(ranked.mean, 2), values)
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
                plus_minus(final.train_mean, final.train_std),
                plus_minus(final.test_mean, final.test_std),
            )
    return table


def _failures(result: StudyResult) -> list[RenderableType]:
    """What went wrong in all phases, how it was handled, and how to see the whole error."""
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
            NOTHING if run.error is None else escape(reason(run.error)),
        )
    hints = [f"{len(runs) - MOST_FAILURES} more: see `--format json`"] if len(runs) > MOST_FAILURES else []
    numbered = [f"{optuna_name(result, run)} {run.number}" for run in runs if run.number is not None and run.error]
    hints += [f"the whole error: `hpo trial show {name}`" for name in numbered[:1]]
    return [table, *(Text(hint, style="dim") for hint in hints), ""]
