"""The report of what a database holds, written and shown on the studies' pages."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.api.sources import Sources

if TYPE_CHECKING:
    from rich.console import RenderableType
    from sqlalchemy import Engine

    from hpo.analysis.comparison import Comparison
    from hpo.report.sentences import Conclusions
    from hpo.report.write import ReportFiles
    from hpo.results.records import StudyResult


@dataclass(frozen=True, kw_only=True)
class WrittenReport:
    """The files, and what they say of the studies that were asked for."""

    files: "ReportFiles"
    results: "Sequence[StudyResult]"
    comparison: "Comparison"
    conclusions: "Conclusions"

    @property
    def table(self) -> "RenderableType":
        """The comparison and its sentences, for a terminal."""
        from hpo.report.terminal_comparison import comparison_table

        return comparison_table(self.results, self.comparison, self.conclusions)


def write_report(
    sources: Sources,
    engine: "Engine",
    out: Path,
    names: Collection[str] | None = None,
    locators: Sequence[str] = (),
) -> WrittenReport:
    """Write the whole report; what is returned is of the named studies alone, by default of all.

    `locators` are of the experiments whose own sections it gets.
    """
    from hpo.analysis.comparison import compare
    from hpo.analysis.opened import opened_pools
    from hpo.experiment.prepare import prepared
    from hpo.report import write as reports
    from hpo.report.contents import gather, shipped_report_of
    from hpo.report.sentences import conclusions_of
    from hpo.server import notes

    experiments = [prepared(locator) for locator in locators]
    contents = gather(engine, shipped_report_of(sources.digits), experiments)
    files = reports.write(contents, out)
    results: Sequence[StudyResult] = contents.results
    comparison, conclusions = contents.comparison, contents.conclusions
    if names is not None and any(result.name not in names for result in results):
        results = [result for result in results if result.name in names]
        comparison = compare(results, contents.scores, contents.ledger)
        conclusions = conclusions_of(results, comparison, opened_pools(contents.ledger, contents.results, comparison))
    notes.update_pages(engine, contents.results, contents.comparison)
    return WrittenReport(files=files, results=results, comparison=comparison, conclusions=conclusions)
