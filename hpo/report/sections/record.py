"""The timeline of the workers, and the record: seeds, versions, commands, openings of the test pool."""

from collections.abc import Iterable, Mapping, Sequence

from hpo.analysis.provenance import Provenance
from hpo.analysis.timeline import Timeline
from hpo.experiment.page import Column, PageTable, Part, numbers, plotly_figure, texts
from hpo.report.charts.timeline import timeline_chart
from hpo.report.formats import NOTHING, code_changes_in_words, counted, model_title, time
from hpo.report.sentences import data_in_words
from hpo.results.queries import opened_label
from hpo.results.records import Opening, StudyResult
from hpo.storage.ledger import LedgerEntry


def timeline_parts(timeline: Timeline | None, models: Sequence[str] = ()) -> Iterable[Part]:
    """The timeline of the workers, where there is one."""
    if timeline is None:
        return
    shown, notes = len(timeline.rows), []
    if shown < timeline.workers:
        notes.append(
            f"Of {timeline.workers} workers the {shown} with the most slots are shown; the others had "
            f"{timeline.hidden:,} slots."
        )
    if timeline.running:
        notes.append(f"Slots that have not finished ({timeline.running}) are not shown.")
    yield plotly_figure(
        "timeline",
        "Every slot from its claim to its end, one row per worker; slots that overlap in time are drawn one below the "
        "other, like the lanes of a population. Pale: search; hatched: confirm; solid: final. A slot is claimed "
        "shortly before its lane is free. Of a slot claimed more than once the database keeps only the last worker, "
        f"and its bar is as long as that worker's training. {' '.join(notes)}".rstrip(),
        timeline_chart(timeline, models),
    )


def record_parts(
    results: Sequence[StudyResult],
    provenance: Sequence[Provenance],
    about: Mapping[str, str],
    ledger: Sequence[LedgerEntry] = (),
) -> Iterable[Part]:
    """What made the results, and how to repeat them; `about` says of data what they are, by digest."""
    for record in provenance:
        yield PageTable(
            caption=f"{record.study} ({model_title(record.experiment, record.model)})",
            columns=(Column(title="item"), Column(title="value", long=True)),
            rows=tuple(_items(record, about)),
        )
    yield (
        "Final rounds repeated with the same versions on the same device give the same results. A search does so only "
        "if it samples at random and prunes nothing; otherwise what it proposes and prunes depends on which trials "
        "finish first, and the commands run another search of the same kind."
    )
    yield from _openings(results, ledger)


def _items(record: Provenance, about: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    yield "spec digest", record.spec_digest
    yield "data", data_in_words(record, about)
    yield "data digest", record.data_digest
    yield "seeds", f"search {record.study_seed}, confirm and final {record.protocol_seed}"
    yield "created", time(record.created_at)
    yield "last result", time(record.finished_at)
    yield "versions", counted(record.versions)
    if record.codes:
        yield "code of the model", counted(record.codes)
    yield "code of hpo (git)", counted(record.commits)
    yield "devices", counted(record.devices)
    yield "workers", f"{len(record.workers)}: {counted(record.workers[:5])}" if record.workers else NOTHING
    yield (
        "attempts",
        f"{record.attempts} claims, {record.repeated} trainings needed more than one; {record.expiries} leases "
        f"expired, {record.exceptions} exceptions",
    )
    yield "failures", counted(record.failures) if record.failures else "none"
    yield "diverged", str(record.diverged)
    yield "openings of pool B", f"{len(record.openings)}, each by a final round; listed below"
    if record.code_changes:
        yield "changes of the code", "; ".join(code_changes_in_words(record.code_changes))
    if record.foreign:
        yield "other digests", f"{record.foreign} results have another spec or data digest than the study"
    for what, command in record.commands:
        yield f"command: {what}", command


def _openings(results: Sequence[StudyResult], ledger: Sequence[LedgerEntry]) -> Iterable[Part]:
    """Every opening of the test pools by any study, in order of time; of those that are gone from the ledger."""
    openings: list[tuple[str, str, Opening | LedgerEntry]] = []
    for result in results:
        slots = {run.slot_id: f"{run.slot_id}: {run.label}, round {run.round}" for run in result.final_runs}
        openings += [(slots.get(opening.slot_id, NOTHING), result.name, opening) for opening in result.openings]
    there = {result.id for result in results}
    openings += [
        (f"{opened_label(entry)}, round {entry.round}", entry.study + (" (deleted)" if entry.deleted else ""), entry)
        for entry in ledger
        if entry.study_id not in there
    ]
    if openings:
        openings.sort(key=lambda row: row[2].opened_at)
        yield PageTable(
            caption=f"Every opening of pool B ({len(openings)})",
            columns=(*texts("final slot", "study"), *numbers("attempt"), *texts("worker", "time")),
            rows=tuple(
                (slot, study, str(opening.attempt), opening.worker, time(opening.opened_at))
                for slot, study, opening in openings
            ),
            folded=True,
        )
