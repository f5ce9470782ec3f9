"""The report's sections in their order: which text, tables and figures each has; `html.py` makes a page of them."""

from hpo.report.contents import Contents
from hpo.report.html import Callout, Section
from hpo.report.sections.accuracy import accuracy_parts, headline_parts, title_of
from hpo.report.sections.comparison import comparison_parts
from hpo.report.sections.dependence import TITLE as DEPENDENCE
from hpo.report.sections.dependence import dependence_parts
from hpo.report.sections.errors import TITLE as ERRORS
from hpo.report.sections.errors import errors_parts
from hpo.report.sections.record import record_parts, timeline_parts
from hpo.report.sections.repeats import TITLE as REPEATS
from hpo.report.sections.repeats import repeats_parts
from hpo.report.sections.search import curves_parts, search_parts
from hpo.report.sections.tuning import tuning_parts


def sections_of(report: Contents) -> list[Section]:
    """All sections that have something to show."""
    results, comparison = report.results, report.comparison
    if not results:
        nothing = "There are no studies in this database yet."
        how = "`hpo study create --model all` creates three, `hpo worker --drain` runs them; `hpo run` does both."
        return [Section(title="Nothing to compare yet", parts=(Callout(text=nothing), how))]
    models = [result.model for result in results]
    sections = [
        Section(title="Headline", parts=tuple(headline_parts(results, report.conclusions))),
        Section(title=title_of(results), parts=tuple(accuracy_parts(results, comparison))),
        Section(title="Comparison, paired by round", parts=tuple(comparison_parts(comparison))),
        Section(title=ERRORS, parts=tuple(errors_parts(report))),
        Section(title="What tuning changed", parts=tuple(tuning_parts(report.tuning, report.costs, report.latencies))),
        Section(title=REPEATS, parts=tuple(repeats_parts(results, comparison.repeats))),
        Section(title="The search", parts=tuple(search_parts(results))),
        Section(title=DEPENDENCE, parts=tuple(dependence_parts(report.dependence, models))),
        Section(title="Learning curves", parts=tuple(curves_parts(results))),
        Section(title="Timeline of the workers", parts=tuple(timeline_parts(report.timeline, models))),
        Section(title="Record", parts=tuple(record_parts(results, report.provenance))),
    ]
    return [section for section in sections if section.parts]
