"""Tables for the terminal (rich), with the report's numbers; in 80 columns words wrap and numbers stay whole."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from hpo.analysis.pairwise import setting_of
from hpo.analysis.provenance import reason
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Value
from hpo.report.formats import NOTHING, Scale, code_changes_in_words, model_title, references, time
from hpo.report.formats import value as shown_value
from hpo.results.failures import optuna_name, setbacks, troubled
from hpo.results.queries import opened_label
from hpo.results.records import FinalResult, StudyResult, mean, std
from hpo.storage.ledger import LedgerEntry
from hpo.study.labels import TUNED
from hpo.text import listed

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


def study_table(results: Iterable[StudyResult]) -> RenderableType:
    """`hpo study list`: a line for each study."""
    table = plain_table(None)
    add_words(table, "study", "model", "phase")
    results = list(results)
    percent = all(Scale(result.metric).is_percent for result in results)
    add_numbers(table, "trials", "best", "confirmed", "final\nrounds", "tuned\ntest %" if percent else "tuned\ntest")
    count = 0
    for result in results:
        count += 1
        planned = [f for f in result.final if f.same_as is None]
        done, asked = sum(f.rounds for f in planned), sum(f.planned for f in planned)
        tuned, scale = result.tuned, Scale(result.metric)
        table.add_row(
            escape(result.name),
            escape(model_title(result.experiment, result.model)),
            result.phase + "".join(f" ({state})" for state in _states(result)[:1]),
            f"{result.trials.total - result.trials.open}/{result.trials.total}",
            scale.value(None if result.best is None else result.best.value, 2),
            scale.value(None if tuned is None else tuned.confirm_mean, 2),
            f"{done}/{asked}" if asked else NOTHING,
            _test(result.final_of(TUNED), scale) + ("" if percent or result.final_of(TUNED) is None else scale.unit),
        )
    if not count:
        return Text("There are no studies yet; `hpo study create` makes one, `hpo run` does everything.")
    return table


def _states(result: StudyResult) -> list[str]:
    """What keeps a study from going on, the worst first."""
    waits = f"waits for {listed(result.waits_for)}"
    states = {
        "broken": bool(result.gone),
        "blocked": result.is_blocked,
        "paused": result.paused,
        waits: bool(result.waits_for),
    }
    return [state for state, holds in states.items() if holds]


def study_detail(result: StudyResult) -> RenderableType:
    """`hpo study show`: a study on one screen."""
    t, scale = result.trials, Scale(result.metric)
    experiment = "" if result.is_shipped else f"experiment {result.experiment}, "
    epochs = result.epochs
    state = "".join(f", {state}" for state in _states(result))
    head = Text.assemble(
        (result.name, "bold"),
        f": {experiment}model {result.model}, phase {result.phase}{state}, seed {result.seed}"
        + ("\n" if epochs is None else f", {epochs} epochs\n"),
        f"search: {t.total} trials: {t.complete} complete, {t.pruned} pruned, {t.diverged} diverged, "
        f"{t.failed} failed, {t.running} running, {t.waiting} waiting",
    )
    parts: list[RenderableType] = [head]
    if result.best is not None:
        best = f"validation {scale.name} {scale.value(result.best.value, 2)}"
        parts.append(Text(f"best trial: {result.best.number}, {best}"))
    parts += ["", _configurations(result), ""]
    if result.ranking:
        parts += [_ranking(result), ""]
    if any(final.rounds for final in result.final):
        parts += [_final(result), ""]
    parts += _failures(result)
    parts += [Text(line, style="yellow") for line in result.missing]
    parts += [Text(line, style="yellow") for line in code_changes_in_words(result.code_changes)]
    setting = setting_of(result)
    parts.append(Text(f"spec {result.spec_digest[:12]}, data {setting.data_digest[:12]}", style="dim"))
    return Group(*parts)


def ledger_table(entries: Sequence[LedgerEntry]) -> RenderableType:
    """`hpo ledger`: a line for each configuration of a study."""
    if not entries:
        return Text("No test pool has been opened yet; final rounds and `hpo evaluate` do so.")
    table = plain_table(None)
    add_words(table, "study", "model", "configuration", "data")
    add_numbers(table, "rounds", "looks at", "openings", "first", "last")
    tested: dict[tuple[int, str | None], list[LedgerEntry]] = {}
    for entry in entries:
        tested.setdefault((entry.study_id, entry.label), []).append(entry)
    for of_label in tested.values():
        first = of_label[0]
        table.add_row(
            escape(first.study) + (" (deleted)" if first.deleted else ""),
            escape(model_title(first.experiment, first.model)),
            escape(opened_label(first) or NOTHING),
            first.data_digest[:12],
            str(len({entry.round for entry in of_label})),
            ", ".join(str(look) for look in sorted({e.look for e in of_label if e.look is not None})) or NOTHING,
            str(len(of_label)),
            time(min(entry.opened_at for entry in of_label)),
            time(max(entry.opened_at for entry in of_label)),
        )
    return table


def trial_detail(trial: Mapping[str, Any]) -> RenderableType:
    """`hpo trial show`: the fields of `queries.trial`, a line each."""
    table = plain_table(f"{trial['study']} trial {trial['number']}", header=False)
    table.add_column("what", style="bold", no_wrap=True)
    table.add_column("value")
    if trial["label"] is not None:
        table.add_row("configuration", f"{escape(trial['label'])}, round {trial['round']}")
    for name in _TRIAL_FIELDS:
        if name in trial:  # not every experiment measures all of them
            table.add_row(name.replace("_", " "), NOTHING if trial[name] is None else escape(str(trial[name])))
    items = "test" if trial["kind"] == "final" else "validation"
    measured = {f"{items} {name.replace('_', ' ')}": value for name, value in trial["metrics"].items()}
    reported = {f"reported {name}": value for name, value in trial["numbers"].items()}
    for name, value in (measured | reported).items():
        table.add_row(escape(name), NOTHING if value is None else f"{value:.6g}")
    if trial["setbacks"]:
        table.add_row("setbacks", escape("\n".join(trial["setbacks"])))
    for name, value in (trial["params"] or {}).items():
        table.add_row(name, _parameter(value))
    for name in ("train_loss", *(name for name in trial if name.startswith("validation_"))):
        if trial[name]:
            by_epoch = " ".join(NOTHING if x is None else f"{x:.4f}" for x in trial[name])
            table.add_row(name.replace("_", " "), by_epoch)
    for name in ("started_at", "finished_at"):
        table.add_row(name.replace("_", " "), time(trial[name], "seconds"))
    if trial["error"]:
        table.add_row("error" if trial["state"] == "failed" else "earlier error", escape(trial["error"]))
    return table


# --- Parts ------------------------------------------------------------------------------------------------


def plain_table(title: str | None, *, header: bool = True) -> Table:
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


def add_words(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, overflow="fold")  # a name can be copied whole


def add_numbers(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)


def _parameter(value: Value | None) -> str:
    """A hyperparameter's value, with four figures."""
    return f"{value:.4g}" if isinstance(value, float) else escape(shown_value(value))


def _test(final: FinalResult | None, scale: Scale) -> str:
    return NOTHING if final is None else scale.mean_std(final.test_mean, final.test_std)


def _configurations(result: StudyResult) -> Table:
    table = plain_table("Configurations")
    names, label = result.hyperparameters, result.reference_label
    add_words(table, "configuration")
    add_numbers(table, *names)
    shown: list[tuple[str, Mapping[str, Value]]] = [(label, result.spec.reference)]
    if result.best is not None:
        shown.append((f"best of the search (trial {result.best.number})", result.best.params))
    if result.tuned is not None:
        source = references(label) if result.tuned.source == label else f"trial {result.tuned.source}"
        shown.append((f"tuned ({source})", result.tuned.params))
    for title, params in shown:
        table.add_row(escape(title), *(_parameter(params.get(name)) for name in names))
    return table


def _ranking(result: StudyResult) -> Table:
    scale = Scale(result.metric)
    what = "accuracy %" if scale.is_percent else scale.column("").strip()
    table = plain_table(f"Confirm: validation {what} on fresh draws from pool A")
    add_words(table, "configuration")
    add_numbers(table, "rounds", "mean")
    add_words(table, "rounds' values")
    for ranked in result.ranking:
        state = "" if ranked.whole else f" ({ranked.failed} failed)" if ranked.failed else " (unfinished)"
        values = " ".join(scale.number(value, 1) for value in ranked.values)
        rounds = f"{len(ranked.values)}/{ranked.rounds}"
        table.add_row(escape(ranked.label) + state, rounds, scale.value(ranked.mean, 2), values)
    return table


def _final(result: StudyResult) -> Table:
    scale, train = Scale(result.metric), any(final.train_mean is not None for final in result.final)
    others = [m for m in result.metrics[1:] if any(_known(final.metrics.get(m.name)) for final in result.final)]
    what = "accuracy % on pool B" if scale.is_percent else f"{scale.column('').strip()} on pool B"
    table = plain_table(f"Final: {what}")
    add_words(table, "configuration")
    add_numbers(table, "rounds", *(("train",) if train else ()), "test", *(Scale(metric).title for metric in others))
    for final in result.final:
        if final.rounds:
            same = f" ({references(final.same_as)} won)" if final.same_as else ""
            table.add_row(
                escape(final.label) + same,
                f"{final.rounds}/{final.planned}",
                *((scale.mean_std(final.train_mean, final.train_std),) if train else ()),
                scale.mean_std(final.test_mean, final.test_std),
                *(_other(final, metric) for metric in others),
            )
    return table


def _other(final: FinalResult, metric: MetricInfo) -> str:
    values = final.metrics.get(metric.name, ())
    return Scale(metric).mean_std(mean(values), std(values))


def _known(values: Sequence[float | None] | None) -> bool:
    return any(value is not None for value in values or ())


def _failures(result: StudyResult) -> list[RenderableType]:
    """What went wrong in all phases, how it was handled, and how to see the whole error."""
    runs = troubled(result)
    if not runs:
        return []
    table = plain_table("What went wrong")
    add_words(table, "trial", "round", "state", "what happened", "error")
    for run in runs[:MOST_FAILURES]:
        table.add_row(
            f"{optuna_name(result, run)} {NOTHING if run.number is None else run.number}",
            NOTHING if run.label is None else f"{escape(run.label)}, round {run.round}",
            run.state,
            escape("\n".join(setbacks(run, result))),
            NOTHING if run.error is None else escape(reason(run.error)),
        )
    hints = [f"{len(runs) - MOST_FAILURES} more: see `--format json`"] if len(runs) > MOST_FAILURES else []
    numbered = [f"{optuna_name(result, run)} {run.number}" for run in runs if run.number is not None and run.error]
    hints += [f"the whole error: `hpo trial show {name}`" for name in numbered[:1]]
    return [table, *(Text(hint, style="dim") for hint in hints), ""]
