"""Who trained what when, and the record: seeds, versions, commands, openings of the test pool."""

from collections.abc import Iterable, Sequence

from hpo.analysis.provenance import Provenance
from hpo.analysis.timeline import Timeline
from hpo.report.charts.timeline import timeline_chart
from hpo.report.formats import (
    NOTHING,
    counted,
    time,
)
from hpo.report.html import Column, PageTable, Part, drawn, numbers, texts
from hpo.report.sentences import data_in_words
from hpo.results.records import StudyResult


def timeline_parts(timeline: Timeline | None) -> Iterable[Part]:
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
        notes.append(f"{timeline.running} slots that have not ended are not shown.")
    yield drawn(
        "timeline",
        "Every slot from its claim to its end, in its worker's row; slots that overlap lie one below the other, as the "
        "lanes of a population do. Pale: search; hatched: confirm; full: final. A slot is claimed shortly before its "
        "lane is free. Of one that was claimed more than once the database knows the last worker: the bar is as long "
        f"as it trained. {' '.join(notes)}".rstrip(),
        timeline_chart(timeline),
    )


def record_parts(results: Sequence[StudyResult], provenance: Sequence[Provenance]) -> Iterable[Part]:
    """What made the results, and how to make them again."""
    for one in provenance:
        lines = [
            ("spec digest", one.spec_digest),
            ("data", data_in_words(one.data_digest)),
            ("data digest", one.data_digest),
            ("seeds", f"search {one.study_seed}, confirm and final {one.protocol_seed}"),
            ("created", time(one.created_at)),
            ("last result", time(one.finished_at)),
            ("versions", counted(one.versions)),
            ("code (git)", counted(one.commits)),
            ("devices", counted(one.devices)),
            ("workers", f"{len(one.workers)}: {counted(one.workers[:5])}" if one.workers else NOTHING),
            (
                "attempts",
                f"{one.attempts} claims, {one.repeated} trainings needed more than one; {one.expiries} leases "
                f"expired, {one.exceptions} exceptions",
            ),
            ("failures", counted(one.failures) if one.failures else "none"),
            ("diverged", str(one.diverged)),
            ("openings of pool B", f"{len(one.openings)}, each by a final round; listed below"),
        ]
        if one.foreign:
            lines.append(("other digests", f"{one.foreign} results carry another spec or data digest"))
        lines += [(f"again: {what}", command) for what, command in one.commands]
        yield PageTable(
            caption=f"{one.study} ({one.model})",
            columns=(Column(title="what"), Column(title="value", long=True)),
            rows=tuple(lines),
        )
    yield (
        "Final rounds made again with the same versions on the same device are the same. A search is so only where it "
        "is random and prunes nothing; else what is proposed and pruned depends on which trials end first, and the "
        "commands make another search of its kind."
    )
    yield from _openings(results)


def _openings(results: Sequence[StudyResult]) -> Iterable[Part]:
    """Every opening of the test pool by any study, in the order of time."""
    rows = []
    for result in results:
        slots = {run.slot_id: f"{run.label}, round {run.round}" for run in result.final_runs}
        rows += [(one.opened_at, slots.get(one.slot_id, NOTHING), result.name, one) for one in result.openings]
    if rows:
        yield PageTable(
            caption=f"Every opening of pool B ({len(rows)})",
            columns=(*texts("final slot", "study"), *numbers("attempt"), *texts("worker", "time")),
            rows=tuple(
                (f"{one.slot_id}: {slot}", study, str(one.attempt), one.worker, time(at))
                for at, slot, study, one in sorted(rows, key=lambda row: row[0])
            ),
            folded=True,
        )
