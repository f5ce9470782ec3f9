"""Notes and figures on the studies' own pages in optuna-dashboard.

A study's note holds its phase, the tuned configuration beside the reference, and how its model compares with others.
Workers write the notes when a phase moves on, and so do the commands that create studies or add rounds. `hpo report`
and `hpo dashboard` write all of them together with the figures, which need plotly and are too slow for a worker, so
they also write what an interrupted worker left out. A note depends on the database, and on the images at hand
where the shipped experiment's answers are to be read: writing it again changes nothing.
"""

import hashlib
import logging
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from hpo.analysis.tuning import Stage, tuning_of
from hpo.errors import DatabaseReplaced, DataError
from hpo.experiment import shipped
from hpo.experiment.shipped import ShippedData
from hpo.report.formats import NOTHING, Scale, reference, references, time, value
from hpo.results.queries import all_results
from hpo.results.records import FinalResult, StudyResult
from hpo.storage import studies
from hpo.storage.ledger import read_ledger
from hpo.storage.pages import Page, keep_pages
from hpo.study.labels import TUNED

if TYPE_CHECKING:
    import plotly.graph_objects as go  # type: ignore[import-untyped]  # has no types

    from hpo.analysis.comparison import Comparison, Paired
    from hpo.analysis.items import ItemScores

LoadImages = Callable[[], ShippedData]

logger = logging.getLogger(__name__)

PHASES = ("search", "confirm", "final", "done")
_SIGNED = re.compile(r"(?s)(.*)\n\*Kept by hpo \[([0-9a-f]{12})\][^\n]*\*\n")
_SPECIAL = re.compile(r"([\\*_\[\]|$~#<&])")


# --- Updates that never raise: no trial, phase or report may fail because of a note -----------------------


def update_notes(engine: Engine, names: Collection[str], images: LoadImages | None = None) -> None:
    """`write_notes`; a failure is logged."""
    _logged(lambda: write_notes(engine, names, images))


def update_pages(engine: Engine, results: Sequence[StudyResult], comparison: "Comparison") -> None:
    """`write_pages`; a failure is logged."""
    _logged(lambda: write_pages(engine, results, comparison))


def update_all_pages(engine: Engine, images: LoadImages | None = None) -> None:
    """`write_all_pages`; a failure is logged."""
    _logged(lambda: write_all_pages(engine, images))


def _logged(write: Callable[[], None]) -> None:
    try:
        write()
    except DatabaseReplaced as error:  # a process that goes on to use it ends with this line
        logger.debug("the studies' notes in optuna-dashboard were not written: %s", error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        logger.warning("the studies' notes in optuna-dashboard are not up to date: %s", reason)


# --- Writing ----------------------------------------------------------------------------------------------


def write_notes(engine: Engine, names: Collection[str], images: LoadImages | None = None) -> None:
    """Write the notes of these studies and of those that they are compared with.

    `images` are asked for where the shipped experiment's answers are to be read; without, those that are bundled.

    If a phase has moved on since the results were read, somebody else may have written a newer note in the meantime,
    so those notes are written again, until no phase moves. So whoever writes last has read the latest phase.
    """
    while names:
        results = all_results(engine)
        paired = _paired(engine, results, names, images)
        compared = [{pair.a.study, pair.b.study} for pair in paired.pairs] if paired else []
        wanted = set(names).union(*(both for both in compared if both & set(names)))
        _write(engine, [result for result in results if result.name in wanted], paired, None)
        names = _moved_on(engine, results)


def write_pages(engine: Engine, results: Sequence[StudyResult], comparison: "Comparison") -> None:
    """Write the notes and figures of all studies; where a phase has moved on since they were read, its newer note."""
    _write(engine, results, comparison.paired, comparison)
    write_notes(engine, _moved_on(engine, results))


def write_all_pages(engine: Engine, images: LoadImages | None = None) -> None:
    """Read and compare all results, then write the notes and figures of all studies."""
    from hpo.analysis.comparison import compare

    results = all_results(engine)
    write_pages(engine, results, compare(results, _scores(engine, results, images), read_ledger(engine)))


def _moved_on(engine: Engine, results: Sequence[StudyResult]) -> set[str]:
    """The studies that have left the phase in which their results were read."""
    phases = {result.id: result.phase for result in results}
    return {row.name for row in studies.list_studies(engine) if phases.get(row.id, row.phase) != row.phase}


def _paired(
    engine: Engine, results: Sequence[StudyResult], names: Collection[str], images: LoadImages | None
) -> "Paired | None":
    """The pairs; None before the first final round of the named studies, as they need what takes seconds to load."""
    if not any(final.rounds for result in results if result.name in names for final in result.final):
        return None
    from hpo.analysis.comparison import paired_of

    return paired_of(results, _scores(engine, results, images), read_ledger(engine))


def _scores(engine: Engine, results: Sequence[StudyResult], images: LoadImages | None) -> "dict[int, ItemScores]":
    """The scores of single test items, as the report has them; without those of images that are not at hand."""
    from hpo.report.scores import read_scores

    if any(result.is_shipped and final.rounds for result in results for final in result.final):
        try:
            part = shipped.part("report").report_part(None if images is None else images())
            return read_scores(engine, results, part)
        except DataError as error:
            logger.debug("without the images the notes leave out what new ones would change: %s", error)
    return read_scores(engine, results)


def _write(
    engine: Engine, results: Sequence[StudyResult], paired: "Paired | None", comparison: "Comparison | None"
) -> None:
    rows = {row.id: row for row in studies.list_studies(engine)}
    pages = []
    for result in results:
        row = rows.get(result.id)
        if row is None:  # deleted in the meantime
            continue
        drawn = {} if comparison is None else figures_of(result, comparison)
        confirm = {name: drawn[name] for name in ("hpo-confirm",) if name in drawn}
        final = {name: drawn[name] for name in ("hpo-final",) if name in drawn}
        searched, tested = (f"{items} {Scale(result.metric).name}" for items in ("validation", "test"))
        pages += [
            Page(study_id=row.search_study_id, metric=searched, note=note_of(result, paired), figures=drawn),
            Page(study_id=row.confirm_study_id, metric=searched, note=confirm_note_of(result), figures=confirm),
            Page(study_id=row.final_study_id, metric=tested, note=final_note_of(result), figures=final),
        ]
    keep_pages(engine, pages, is_ours)


# --- Who wrote a note -------------------------------------------------------------------------------------


def signed_off(text: str) -> str:
    """The note with a last line by which hpo recognises it until somebody changes it."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    rule = "If you change this note, hpo leaves it alone; if you empty it, hpo writes it again."
    return f"{text}\n*Kept by hpo [{digest}]. {rule}*\n"


def is_ours(note: str) -> bool:
    """Whether hpo wrote this note and nobody has changed it."""
    match = _SIGNED.fullmatch(note)
    return match is not None and hashlib.sha256(match[1].encode()).hexdigest()[:12] == match[2]


# --- The notes --------------------------------------------------------------------------------------------


def note_of(result: StudyResult, paired: "Paired | None") -> str:
    """The note of a study's search: phase, budget, configurations, comparison, what is missing."""
    protocol, epochs = result.spec.protocol, result.epochs
    of_epochs = "" if epochs is None else f" of {epochs} epochs"
    search = (
        f"{result.trials.total} trials{of_epochs}, confirm {protocol.confirm_configurations} and "
        f"{references(result.reference_label)} x {protocol.confirm_rounds} rounds, "
        if result.trials.total
        else "no search, "
    )
    lines = [
        f"## {_safe(result.name)}: {_phase(result)}",
        "",
        *_table(("phase", "done"), _progress(result)),
        f"Budget: {search}final {protocol.final_rounds} rounds{of_epochs if not result.trials.total else ''} of each "
        f"configuration. {_as_of(result)}",
        "",
        *_table(*_configurations(result)),
    ]
    sentences = _sentences(result, paired)
    if sentences:
        lines += ["**Comparison**", "", *_bullets(sentences)]
    if result.missing:
        lines += ["**Missing**", "", *_bullets(result.missing)]
    lines += ["The full comparison, with its figures (those on this page are from the last time it was made):", ""]
    lines += ["    hpo report", ""]
    return signed_off("\n".join(lines))


def confirm_note_of(result: StudyResult) -> str:
    """The note of `NAME:confirm`."""
    scale, it = Scale(result.metric), reference(result.reference_label)
    rows = [
        (ranked.label, f"{len(ranked.values)} of {ranked.rounds}", scale.number(ranked.mean, 2))
        for ranked in result.ranking
    ]
    lines = [
        f"## {_safe(result.name)}: rounds of the confirm phase",
        "",
        f"The best trials of study {_safe(result.name)} and {it}, trained again on fresh seeds "
        "and fresh draws from pool A: the configuration with the best mean becomes the tuned one. No sampler is "
        "involved. A trial is one round of one configuration, named in its user attributes; its value is the "
        f"validation {scale.name}.",
        "",
        *(_table(("configuration", "rounds", _mean_column(scale)), rows) or ["It has not started.", ""]),
    ]
    return signed_off("\n".join(lines))


def _mean_column(scale: Scale) -> str:
    return f"mean validation {scale.name} %" if scale.is_percent else scale.column("mean validation")


def final_note_of(result: StudyResult) -> str:
    """The note of `NAME:final`."""
    scale, it = Scale(result.metric), reference(result.reference_label).removesuffix(" configuration")
    trained = result.spec.traits.measures_training
    rows = [
        (
            final.label + (f" ({references(final.same_as)} won the confirm phase)" if final.same_as else ""),
            f"{final.rounds} of {final.planned}",
            *((scale.mean_std(final.train_mean, final.train_std),) if trained else ()),
            scale.mean_std(final.test_mean, final.test_std),
        )
        for final in result.final
    ]
    columns = ("configuration", "rounds", *(("train %",) if trained else ()), scale.column("test"))
    lines = [
        f"## {_safe(result.name)}: final rounds",
        "",
        f"The tuned and {it} configuration of study {_safe(result.name)}, measured on items of pool B, which tuning "
        "never sees. No sampler is involved. A trial is one round of one configuration, named in its user attributes; "
        f"its value is the test {scale.name}. Rounds with the same number share seeds and draws.",
        "",
        *(_table(columns, rows) or ["It has not started.", ""]),
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
    """The tuned configuration beside the reference: values and results, as the title row and the rows of a table."""
    tuning, scale = tuning_of(result), Scale(result.metric)
    stages: dict[str, Stage] = {stage.label: stage for stage in tuning.stages}
    label = result.reference_label
    title = references(label).removeprefix("the ")
    columns = [(title, label)]
    if tuning.source == label:
        columns = [(f"{title}, which is the tuned one", label)]
    elif TUNED in stages:
        columns.append(("tuned" if tuning.source is None else f"tuned (trial {tuning.source})", TUNED))
    elif result.best is not None:
        columns.append((f"best so far (trial {result.best.number})", "best"))
    rows: list[tuple[str, ...]] = [
        (p.name, *(value({label: p.reference, TUNED: p.tuned, "best": p.best}[which]) for _, which in columns))
        for p in tuning.parameters
    ]
    if result.best is not None:
        stages["best"] = Stage(label=TUNED, search=result.best.value, confirm=None, test=None)  # no test yet
    validation, test = (
        f"{what} {scale.name} %" if scale.is_percent else scale.column(what) for what in ("validation", "test")
    )
    rows += [
        (f"search, {validation}", *(scale.number(stages[which].search, 2) for _, which in columns)),
        (f"confirm, {validation}", *(scale.number(stages[which].confirm, 2) for _, which in columns)),
        (f"final, {test}", *(_test(result.final_of(which), scale) for _, which in columns)),
    ]
    return ("", *(title for title, _ in columns)), rows


def _sentences(result: StudyResult, paired: "Paired | None") -> list[str]:
    """The headlines about this study."""
    if paired is None:
        return []
    from hpo.report import sentences

    pairs = [pair for pair in paired.pairs if result.id in (pair.a.study_id, pair.b.study_id)]
    lines = sentences.headlines([result], pairs, paired.settings)
    if result.is_shipped and any(len(pair.rounds) > 1 and pair.items is None and not pair.unanswered for pair in pairs):
        lines.append("Whoever wrote this note had not the images at hand: `hpo report` also says what new ones change.")
    return lines


def _test(final: FinalResult | None, scale: Scale) -> str:
    return NOTHING if final is None else scale.mean_std(final.test_mean, final.test_std)


# --- Markdown ---------------------------------------------------------------------------------------------


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    body = [_row(row) for row in rows]
    return [_row(head), _row(["---"] * len(head)), *body, ""] if body else []


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell if cell == "---" else _safe(cell) for cell in cells) + " |"


def _bullets(lines: Iterable[str]) -> list[str]:
    return [*(f"- {_safe(line)}" for line in lines), ""]


def _safe(text: str) -> str:
    """Text escaped so that Markdown shows it as it is, but for `code`; names and labels have no backquotes."""
    parts = text.split("`")
    return "`".join(part if i % 2 else _SPECIAL.sub(r"\\\1", part) for i, part in enumerate(parts))


# --- The figures ------------------------------------------------------------------------------------------


def figures_of(result: StudyResult, comparison: "Comparison") -> dict[str, str]:
    """Small figures by id, as JSON for plotly, which this loads."""
    from hpo.report import chart_data
    from hpo.report.charts.rounds import rounds_chart

    drawn: dict[str, str] = {}
    rounds = chart_data.rounds_of(result, comparison)
    if any(group.values for group in rounds):
        drawn["hpo-final"] = _small(rounds_chart(rounds), "Final rounds, as of hpo report")
    confirm = chart_data.confirm_data(result)
    if confirm:
        figure = rounds_chart(confirm, "validation")
        drawn["hpo-confirm"] = _small(figure, "Confirm rounds, as of hpo report")
    return drawn


def _small(figure: "go.Figure", title: str) -> str:
    figure.update_layout(title={"text": title, "font": {"size": 14}, "x": 0.02}, template=None)
    return str(figure.to_json())
