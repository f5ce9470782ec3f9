"""The report's sections in their order: which text, tables and figures each has; `html.py` makes a page of them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hpo.experiment.page import Callout, Part, Section
from hpo.report.contents import Contents
from hpo.report.sections.accuracy import accuracy_parts, headline_parts, title_of
from hpo.report.sections.comparison import comparison_parts
from hpo.report.sections.dependence import TITLE as DEPENDENCE
from hpo.report.sections.dependence import dependence_parts
from hpo.report.sections.record import record_parts, timeline_parts
from hpo.report.sections.repeats import TITLE as REPEATS
from hpo.report.sections.repeats import repeats_parts
from hpo.report.sections.search import curves_parts, search_parts
from hpo.report.sections.tuning import tuning_parts

COMPARISON = "Comparison, paired by round"


def sections_of(report: Contents) -> list[Section]:
    """All sections that have something to show."""
    results, comparison = report.results, report.comparison
    if not results:
        nothing = "There are no studies in this database yet."
        how = "`hpo study create --model all` creates three, `hpo worker --drain` runs them; `hpo run` does both."
        return [Section(title="Nothing to compare yet", parts=(Callout(text=nothing), how))]
    models = [result.model for result in results]
    ours = [
        Section(title="Headline", parts=tuple(headline_parts(results, report.conclusions))),
        Section(title=title_of(results), parts=tuple(accuracy_parts(results, comparison))),
        Section(title=COMPARISON, parts=tuple(comparison_parts(comparison))),
        Section(title="What tuning changed", parts=tuple(tuning_parts(report.tuning))),
        Section(title=REPEATS, parts=tuple(repeats_parts(results, comparison.repeats))),
        Section(title="The search", parts=tuple(search_parts(results))),
        Section(title=DEPENDENCE, parts=tuple(dependence_parts(report.dependence, models))),
        Section(title="Learning curves", parts=tuple(curves_parts(results))),
        Section(title="Timeline of the workers", parts=tuple(timeline_parts(report.timeline, models))),
        Section(
            title="Record", parts=tuple(record_parts(results, report.provenance, report.about_data, report.ledger))
        ),
    ]
    return [section for section in _with_contributed(ours, report.contributed) if section.parts]


def _with_contributed(ours: Sequence[Section], contributed: Mapping[str, Sequence[Section]]) -> list[Section]:
    """The experiments' sections after the comparison, those of a title that the report has at that one's end."""
    titles = {section.title for section in ours}
    added: dict[str, list[Part]] = {title: [] for title in titles}
    others: dict[str, Section] = {}
    for experiment, sections in contributed.items():
        for section in sections:
            if section.title in titles:
                added[section.title] += section.parts
            else:
                title = f"{section.title} ({experiment})" if section.title in others else section.title
                others[title] = replace(section, title=title)
    whole = [replace(section, parts=(*section.parts, *added[section.title])) for section in ours]
    after = next(place for place, section in enumerate(whole) if section.title == COMPARISON) + 1
    return [*whole[:after], *others.values(), *whole[after:]]
