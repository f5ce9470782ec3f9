"""Contents: all that the report shows, read from the database once and computed."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module

from sqlalchemy import Engine

from hpo.analysis.comparison import Comparison, compare
from hpo.analysis.dependence.interactions import Dependence, dependence_of
from hpo.analysis.items import ItemScores
from hpo.analysis.opened import opened_pools
from hpo.analysis.provenance import Provenance, provenance_of
from hpo.analysis.timeline import Timeline, timeline_of
from hpo.analysis.tuning import Tuning, tuning_of
from hpo.errors import ExperimentError
from hpo.experiment import shipped
from hpo.experiment.contribute import contributed
from hpo.experiment.description import Description
from hpo.experiment.page import Callout, Section
from hpo.report.fork import begun
from hpo.report.scores import scores_of
from hpo.report.sentences import Conclusions, conclusions_of
from hpo.report.shipped import ShippedReport
from hpo.report.views import Columns, read_columns, view_of
from hpo.results.queries import all_results, study_result
from hpo.results.records import StudyResult
from hpo.storage.engine import display_url
from hpo.storage.ledger import LedgerEntry, read_ledger


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """All that the report shows, whatever its form: page, terminal, JSON, CSV."""

    made_at: str  # UTC
    database: str  # its URL without a password
    chosen: tuple[str, ...]  # the studies that it is of, where somebody chose them; none: all
    results: tuple[StudyResult, ...]
    comparison: Comparison
    conclusions: Conclusions
    ledger: tuple[LedgerEntry, ...]  # every opening of a test pool, by studies that are gone too
    tuning: tuple[Tuning, ...]
    provenance: tuple[Provenance, ...]
    dependence: tuple[Dependence, ...]
    scores: Mapping[int, ItemScores]  # of single test items, by study id
    timeline: Timeline | None  # None where nothing has ended
    about_data: Mapping[str, str]  # in words, by digest, as far as that is known
    contributed: Mapping[str, Sequence[Section]]  # the experiments' own, by its name

    @property
    def measures_training(self) -> bool:
        """Whether any of the studies has measured final rounds on their training items too."""
        return any(result.spec.traits.measures_training for result in self.results)


def gather(
    engine: Engine,
    shipped_report: ShippedReport | None = None,
    experiments: Sequence[Description] = (),
    *,
    names: Collection[str] = (),
) -> Contents:
    """Read the database once and compute everything.

    `shipped_report` is the shipped experiment's part, None: on the data that every installation has. The sections of
    `experiments` are added, each made in a process of its own. With `names` it is of these studies alone, and says so;
    StudyNotFound where one of them is not there.
    """
    if shipped_report is None:
        shipped_report = shipped_report_of(None)
    results = [study_result(engine, name) for name in sorted(names)] if names else all_results(engine)
    dependence = begun(lambda: tuple(dependence_of(result) for result in results))  # takes longer than what comes next
    columns = {result.id: read_columns(engine, result, shipped_report) for result in results}
    scores = scores_of(results, columns)
    ledger = read_ledger(engine)
    comparison = compare(results, scores, ledger)
    bundled = {r.data_digest for r in results if r.is_shipped and shipped_report.needs_no_folder(r.data_digest)}
    import_module("hpo.report.outline")  # plotly, which the page needs next, loads while the dependence is computed
    return Contents(
        made_at=datetime.now(tz=UTC).strftime("%Y-%m-%d %H:%M UTC"),
        database=display_url(engine),
        chosen=tuple(sorted(names)),
        results=tuple(results),
        comparison=comparison,
        conclusions=conclusions_of(results, comparison, opened_pools(ledger, results, comparison)),
        ledger=tuple(ledger),
        tuning=tuple(tuning_of(result) for result in results),
        provenance=tuple(provenance_of(result, bundled) for result in results),
        dependence=dependence(),  # before latencies are measured
        scores=scores,
        timeline=timeline_of(results),
        about_data={r.data_digest: shipped_report.about(r.data_digest) for r in results if r.is_shipped},
        contributed=_contributed(results, columns, shipped_report, experiments),
    )


def shipped_report_of(data: object | None) -> ShippedReport:
    """The shipped experiment's part of a report; `data` are those that were given, None: none were."""
    made: ShippedReport = shipped.part("report").report_part(data)
    return made


def _contributed(
    results: Sequence[StudyResult],
    columns: Mapping[int, Columns],
    shipped_report: ShippedReport,
    experiments: Sequence[Description],
) -> dict[str, Sequence[Section]]:
    """The sections of each experiment that has studies here; a sentence in the place of those that fail."""
    there = {result.experiment for result in results}
    sections: dict[str, Sequence[Section]] = {}
    if shipped.NAME in there:
        sections[shipped.NAME] = shipped_report.sections(view_of(shipped.NAME, results, columns))
    for experiment in experiments:
        if experiment.name in there:
            view = view_of(experiment.name, results, columns)
            try:
                sections[experiment.name] = contributed(experiment.locator, experiment.name, view)
            except ExperimentError as error:
                text = f"The sections of experiment {experiment.name} are left out: {error}."
                sections[experiment.name] = [Section(f"Sections of {experiment.name}", (Callout(text=text),))]
    return sections
