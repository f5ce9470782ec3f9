"""Notes and figures on the studies' own pages in optuna-dashboard.

A study's note says its phase, the tuned configuration beside the paper's, and what the comparison says of its model.
A worker writes notes when a phase moves on; `hpo report` and `hpo dashboard` write all of them, and figures, which
need plotly and are too slow for a worker. So what a worker did not live to write comes with the next of these. A note
is a function of the database alone: writing it again changes nothing.
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from hpo.analysis.tuning import Stage, tuning_of
from hpo.report.formats import NOTHING, percent, time, value
from hpo.results.queries import all_results
from hpo.results.records import FinalResult, StudyResult
from hpo.storage import studies
from hpo.storage.pages import Page, keep_pages
from hpo.study.labels import PAPER

if TYPE_CHECKING:
    import plotly.graph_objects as go  # type: ignore[import-untyped]  # has no types

    from hpo.analysis.comparison import Comparison, Paired

PHASES = ("search", "confirm", "final", "done")
_SIGNED = re.compile(r"(?s)(.*)\n\*Kept by hpo \[([0-9a-f]{12})\][^\n]*\*\n")
_SPECIAL = re.compile(r"([\\*_\[\]|$~#<&])")


# --- When -------------------------------------------------------------------------------------------------


def keep_notes(engine: Engine, names: Collection[str]) -> None:
    """Write the notes of these studies, and of those that they are compared with.

    Where a phase has moved on since the results were read, another may have written a newer note in between, and
    that study's are written again. So whoever writes last has read the last phase; it ends when no phase moves.
    """
    while names:
        results = all_results(engine)
        paired = _paired(results)
        sides = [{pair.a.study, pair.b.study} for pair in paired.pairs] if paired else []
        which = set(names).union(*(both for both in sides if both & set(names)))
        _keep(engine, [result for result in results if result.name in which], paired, None)
        names = _moved_on(engine, results)


def keep_all(engine: Engine, results: Sequence[StudyResult], comparison: "Comparison") -> None:
    """Write notes and figures of all studies; where a phase has moved on since they were read, the newer note."""
    _keep(engine, results, comparison.paired, comparison)
    keep_notes(engine, _moved_on(engine, results))


def keep_everything(engine: Engine) -> None:
    """The same, for who has not read the results yet."""
    from hpo.analysis.comparison import compare

    results = all_results(engine)
    keep_all(engine, results, compare(results))


def _moved_on(engine: Engine, results: Sequence[StudyResult]) -> set[str]:
    """The studies whose phase is another than when the results were read."""
    read = {result.id: result.phase for result in results}
    return {row.name for row in studies.list_studies(engine) if read.get(row.id, row.phase) != row.phase}


def quietly(act: Callable[[], None], say: Callable[[str], None]) -> None:
    """Do it; where it fails, say so and go on: nobody's trial, phase or report hangs on a note."""
    try:
        act()
    except Exception as error:
        say(f"the studies' notes in optuna-dashboard are not up to date: {type(error).__name__}: {error}")


def _paired(results: Sequence[StudyResult]) -> "Paired | None":
    """The pairs, or None before any final round: they need scipy, which takes a second to load."""
    if not any(final.rounds for result in results for final in result.final):
        return None
    from hpo.analysis.comparison import paired_of

    return paired_of(results)


def _keep(
    engine: Engine, results: Sequence[StudyResult], paired: "Paired | None", comparison: "Comparison | None"
) -> None:
    rows = {row.id: row for row in studies.list_studies(engine)}
    pages = []
    for result in results:
        row = rows.get(result.id)
        if row is None:  # deleted meanwhile
            continue
        drawn = {} if comparison is None else figures_of(result, comparison)
        confirm = {name: drawn[name] for name in ("hpo-confirm",) if name in drawn}
        final = {name: drawn[name] for name in ("hpo-final",) if name in drawn}
        pages += [
            Page(study_id=row.search_study_id, note=note_of(result, paired), figures=drawn),
            Page(study_id=row.confirm_study_id, note=confirm_note_of(result), figures=confirm),
            Page(study_id=row.final_study_id, note=final_note_of(result), figures=final),
        ]
    keep_pages(engine, pages, is_ours)


# --- Whose note it is -------------------------------------------------------------------------------------


def signed_off(text: str) -> str:
    """The note with a last line by which hpo knows it again as long as nobody has changed it."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{text}\n*Kept by hpo [{digest}]. Change this note and hpo leaves it alone, empty it and hpo writes it.*\n"


def is_ours(note: str) -> bool:
    """Whether hpo wrote this note and nobody has changed it."""
    found = _SIGNED.fullmatch(note)
    return found is not None and hashlib.sha256(found[1].encode()).hexdigest()[:12] == found[2]


# --- The notes --------------------------------------------------------------------------------------------


def note_of(result: StudyResult, paired: "Paired | None") -> str:
    """The note of a study's search: phase, budget, configurations, comparison, what is missing."""
    spec, protocol = result.spec, result.spec.protocol
    lines = [
        f"## {_safe(result.name)}: {_phase(result)}",
        "",
        *_table(("phase", "done"), _progress(result)),
        f"Budget: {result.trials.total} trials of {spec.budget.epochs} epochs, confirm "
        f"{protocol.confirm_configurations} and the paper's x {protocol.confirm_rounds} rounds, final "
        f"{protocol.final_rounds} rounds of each configuration. {_as_of(result)}",
        "",
        *_table(*_configurations(result)),
    ]
    sentences = _sentences(result, paired)
    if sentences:
        lines += ["**Comparison**", "", *_bullets(sentences)]
    if result.missing:
        lines += ["**Missing**", "", *_bullets(result.missing)]
    lines += ["The full comparison, with its figures (those on this page are of the last time it was made):", ""]
    lines += ["    hpo report", ""]
    return signed_off("\n".join(lines))


def confirm_note_of(result: StudyResult) -> str:
    """The note of `NAME:confirm`."""
    rows = [
        (one.label, f"{len(one.values)} of {one.rounds}", percent(one.mean, 2) if one.values else NOTHING)
        for one in result.ranking
    ]
    lines = [
        f"## {_safe(result.name)}: rounds of the confirm phase",
        "",
        f"The best trials of study {_safe(result.name)} and the paper's configuration, trained again on fresh seeds "
        "and fresh pairs: the best mean becomes the tuned configuration. No sampler is at work here. A trial is one "
        "round of one configuration (its user attributes say which), its value the validation accuracy.",
        "",
        *(_table(("configuration", "rounds", "mean validation accuracy %"), rows) or ["It has not started.", ""]),
    ]
    return signed_off("\n".join(lines))


def final_note_of(result: StudyResult) -> str:
    """The note of `NAME:final`."""
    rows = [
        (
            one.label + (" (the paper's won the confirm phase)" if one.same_as else ""),
            f"{one.rounds} of {one.planned}",
            _plus_minus(one.train_mean, one.train_std),
            _plus_minus(one.test_mean, one.test_std),
        )
        for one in result.final
    ]
    lines = [
        f"## {_safe(result.name)}: final rounds",
        "",
        f"The tuned and the paper's configuration of study {_safe(result.name)}, measured on pairs from image pool B, "
        "which no tuning saw. No sampler is at work here. A trial is one round of one configuration (its user "
        "attributes say which), its value the test accuracy; rounds of one number share seeds and pairs.",
        "",
        *(_table(("configuration", "rounds", "train %", "test %"), rows) or ["It has not started.", ""]),
    ]
    return signed_off("\n".join(lines))


def _phase(result: StudyResult) -> str:
    paused = ", paused" if result.paused else ""
    if result.phase == "done":
        return f"done{paused}"
    return f"phase {result.phase} ({PHASES.index(result.phase) + 1} of 3){paused}"


def _progress(result: StudyResult) -> Iterable[tuple[str, str]]:
    t = result.trials
    kinds = (("complete", t.complete), ("pruned", t.pruned), ("diverged", t.diverged), ("failed", t.failed))
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds if count)
    if t.total:
        yield "search", f"{t.total - t.open} of {t.total} trials" + (f": {counts}" if counts else "")
    for phase, runs in (("confirm", result.confirm), ("final", result.final_runs)):
        if runs:
            yield phase, f"{sum(run.done for run in runs)} of {len(runs)} rounds"


def _as_of(result: StudyResult) -> str:
    last = max((run.finished_at for run in result.runs if run.finished_at is not None), default=None)
    return "Nothing has been trained yet." if last is None else f"As of the last result, {time(last)}."


def _configurations(result: StudyResult) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The tuned configuration beside the paper's: values, and what became of each."""
    tuning = tuning_of(result)
    stages: dict[str, Stage] = {stage.label: stage for stage in tuning.stages}
    columns = [("paper's", "paper")]
    if tuning.source == PAPER:
        columns = [("paper's, which is the tuned one", "paper")]
    elif "tuned" in stages:
        columns.append(("tuned" if tuning.source is None else f"tuned (trial {tuning.source})", "tuned"))
    elif result.best is not None:
        columns.append((f"best so far (trial {result.best.number})", "best"))
    rows: list[tuple[str, ...]] = [
        (p.name, *(value({"paper": p.paper, "tuned": p.tuned, "best": p.best}[which]) for _, which in columns))
        for p in tuning.parameters
    ]
    if result.best is not None:
        stages["best"] = Stage(label="tuned", search=result.best.value, confirm=None, test=None)  # no test yet
    rows += [
        ("search, validation accuracy %", *(percent(stages[which].search, 2) for _, which in columns)),
        ("confirm, validation accuracy %", *(percent(stages[which].confirm, 2) for _, which in columns)),
        ("final, test accuracy %", *(_test(result.final_of(which)) for _, which in columns)),
    ]
    return ("", *(title for title, _ in columns)), rows


def _sentences(result: StudyResult, paired: "Paired | None") -> list[str]:
    """The headline sentences in which this study's model takes part."""
    if paired is None:
        return []
    from hpo.report import sentences

    own = [pair for pair in paired.pairs if result.id in (pair.a.study_id, pair.b.study_id)]
    return sentences.headlines([result], own, paired.settings)


def _test(final: FinalResult | None) -> str:
    return NOTHING if final is None else _plus_minus(final.test_mean, final.test_std)


def _plus_minus(mean: float | None, std: float | None) -> str:
    return percent(mean, 1) + ("" if std is None else f" ± {percent(std, 1)}")


# --- Markdown ---------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    body = [_row(row) for row in rows]
    return [_row(head), _row(["---"] * len(head)), *body, ""] if body else []


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell if cell == "---" else _safe(cell) for cell in cells) + " |"


def _bullets(lines: Iterable[str]) -> list[str]:
    return [*(f"- {_safe(line)}" for line in lines), ""]


def _safe(text: str) -> str:
    """Text that Markdown shows as it is; what stands in `quotes` is code. Names and labels have no quotes."""
    parts = text.split("`")
    return "`".join(part if place % 2 else _SPECIAL.sub(r"\\\1", part) for place, part in enumerate(parts))


# --- The figures ------------------------------------------------------------------------------------------


def figures_of(result: StudyResult, comparison: "Comparison") -> dict[str, str]:
    """Small figures by id, as plotly's JSON; loads plotly."""
    from hpo.report import chart_data
    from hpo.report.charts.rounds import rounds_chart

    drawn: dict[str, str] = {}
    rounds = chart_data.rounds_of(result, comparison)
    if any(group.values for group in rounds):
        drawn["hpo-final"] = _small(rounds_chart(rounds), "Final rounds, as of hpo report")
    confirm = chart_data.confirm_data(result)
    if confirm:
        figure = rounds_chart(confirm, "validation accuracy (%)")
        drawn["hpo-confirm"] = _small(figure, "Confirm rounds, as of hpo report")
    return drawn


def _small(figure: "go.Figure", title: str) -> str:
    figure.update_layout(title={"text": title, "font": {"size": 14}, "x": 0.02}, template=None)
    return str(figure.to_json())
