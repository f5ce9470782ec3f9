"""The report's sections: which text, tables and figures stand where; `page.py` turns them into HTML."""

from collections.abc import Iterable, Sequence

from hpo.analysis.comparison import Comparison, TableRow
from hpo.analysis.pairwise import Pair, Side
from hpo.analysis.provenance import Provenance
from hpo.analysis.timeline import Timeline
from hpo.report import chart_data
from hpo.report.charts import rounds as charts
from hpo.report.charts import timeline as pictures
from hpo.report.contents import Report
from hpo.report.formats import (
    CONFIGURATIONS,
    MINUS,
    NOTHING,
    counted,
    interval_percent,
    interval_points,
    mean_std,
    p_value,
    percent,
    signed,
    time,
    with_interval,
)
from hpo.report.html import Bullets, Callout, Column, PageTable, Part, Section, drawn, numbers, texts
from hpo.report.sections.dependence import TITLE as DEPENDENCE
from hpo.report.sections.dependence import dependence_parts
from hpo.report.sections.errors import errors_parts
from hpo.report.sections.repeats import TITLE as REPEATS
from hpo.report.sections.repeats import repeats_parts
from hpo.report.sections.tuning import tuning_parts
from hpo.results.records import StudyResult


def sections_of(report: Report) -> list[Section]:
    """All sections that have something to say, in their order."""
    results, comparison = report.results, report.comparison
    if not results:
        nothing = "There are no studies in this database yet."
        how = "`hpo study create --model all` makes three, `hpo worker --drain` runs them; `hpo run` does both."
        return [Section(title="Nothing to compare yet", parts=(Callout(text=nothing), how))]
    found = [
        Section(title="Headline", parts=tuple(_headline(results, comparison))),
        Section(title="Test accuracy", parts=tuple(_accuracy(results, comparison))),
        Section(title="Comparison, paired by round", parts=tuple(_comparison(comparison))),
        Section(title="Where comparing fails", parts=tuple(errors_parts(report))),
        Section(title="What tuning did", parts=tuple(tuning_parts(report.tuning, report.costs, report.latencies))),
        Section(title=REPEATS, parts=tuple(repeats_parts(results, comparison.repeats))),
        Section(title="The search", parts=tuple(_search(results))),
        Section(title=DEPENDENCE, parts=tuple(dependence_parts(report.dependence))),
        Section(title="Learning curves", parts=tuple(_curves(results))),
        Section(title="Who trained what when", parts=tuple(_timeline(report.timeline))),
        Section(title="Record", parts=tuple(_record(results, report.provenance))),
    ]
    return [section for section in found if section.parts]


# --- Headline and table -----------------------------------------------------------------------------------


def _headline(results: Sequence[StudyResult], comparison: Comparison) -> Iterable[Part]:
    if comparison.budget is not None:
        yield Callout(text=comparison.budget)
    if comparison.headlines:
        yield Bullets(lines=comparison.headlines, lead=True)
    else:
        yield Callout(text="No two configurations have a final round in common yet: nothing is compared.")
    for caution in comparison.cautions:
        yield Callout(text=caution)
    missing = tuple(f"{result.name}: {line}" for result in results for line in result.missing)
    if missing:
        yield "What is missing:"
        yield Bullets(lines=missing)


def _accuracy(results: Sequence[StudyResult], comparison: Comparison) -> Iterable[Part]:
    rows = comparison.rows
    several, studies = len(comparison.settings) > 1, comparison.repeated
    columns = (
        *texts("model", *(("study",) if studies else ()), "configuration"),
        *(numbers("setting") if several else ()),
        *numbers("epochs", "trials", "rounds", "train %", "test %", "95% interval", "median", "IQM"),
    )
    yield PageTable(
        caption="Accuracy in percent, mean ± standard deviation (n - 1) over the rounds",
        columns=columns,
        rows=tuple(_accuracy_cells(row, several, studies) for row in rows),
        groups=tuple(row.model for row in rows),
    )
    notes = tuple(f"{row.study}, {CONFIGURATIONS.get(row.label, row.label)}: {row.note}" for row in rows if row.note)
    if notes:
        yield Bullets(lines=notes)
    yield (
        "Intervals of means are Student's t, those of median and interquartile mean (IQM) BCa bootstrap, from "
        "10 rounds on. They speak of new seeds and draws from the same images."
    )
    groups = chart_data.rounds_data(results, comparison)
    yield drawn(
        "rounds",
        "Test accuracy of every round (the paper's Figure 2, made new). Points are rounds, hollow with the paper's "
        "values, filled when tuned; boxes are quartiles; the black diamond is the mean with its 95% interval. "
        "Grey: mean ± std as published.",
        charts.rounds_chart(groups),
    )
    yield from _every_round(results)


def _accuracy_cells(row: TableRow, several: bool, studies: bool) -> tuple[str, ...]:
    setting = NOTHING if row.setting is None else str(row.setting + 1)
    return (
        row.model,
        *((row.study or NOTHING,) if studies else ()),
        CONFIGURATIONS.get(row.label, row.label),
        *((setting,) if several else ()),
        str(row.epochs),
        NOTHING if row.trials is None else str(row.trials),
        str(row.rounds) if row.rounds == row.planned else f"{row.rounds} of {row.planned}",
        mean_std(row.train),
        mean_std(row.test),
        interval_percent(row.test.interval),
        with_interval(row.test.median, row.test.median_interval),
        with_interval(row.test.iqm, row.test.iqm_interval),
    )


def _every_round(results: Sequence[StudyResult]) -> Iterable[PageTable]:
    finals = [(result, final) for result in results for final in result.final if final.same_as is None]
    finals = [(result, final) for result, final in finals if final.rounds]
    rounds = sorted({number for _, final in finals for number in final.round_numbers})
    if not rounds:
        return
    by_round = [dict(zip(final.round_numbers, final.test_values, strict=True)) for _, final in finals]
    yield PageTable(
        caption="Test accuracy of every round in percent; rounds of one number share seeds and draws",
        columns=numbers("round", *(f"{result.name} {final.label}" for result, final in finals)),
        rows=tuple((str(number), *(percent(values.get(number), 2) for values in by_round)) for number in rounds),
    )


# --- Pairs ------------------------------------------------------------------------------------------------


def _comparison(comparison: Comparison) -> Iterable[Part]:
    if not comparison.pairs:
        return
    titles = (f"A {MINUS} B [95%]", "new images too", "d_z", "P(A > B)", "p", "Holm", "variance", "detectable")
    several = len(comparison.settings) > 1
    for key in dict.fromkeys((pair.kind, pair.setting) for pair in comparison.pairs):
        kind, setting = key
        where = f" (setting {setting + 1})" if several else ""
        own = [pair for pair in comparison.pairs if (pair.kind, pair.setting) == key]
        yield PageTable(
            caption=f"{kind[0].upper()}{kind[1:]}{where}: test accuracy in points, A minus B, round by round",
            columns=texts("A", "B") + numbers("rounds", *titles),
            rows=tuple(_pair_cells(pair) for pair in own),
        )
        notes = tuple(f"{_side(pair.a)} and {_side(pair.b)}: {pair.note}." for pair in own if pair.note)
        if notes:
            yield Bullets(lines=notes)
    fewest = min(len(pair.rounds) for pair in comparison.pairs)
    smallest = max(pair.test.smallest for pair in comparison.pairs)
    yield (
        "The interval beside the difference is Student's t over the rounds: new seeds, these images. New images too: "
        "bootstrap over the rounds and, crossed, over the images of pool B. d_z: mean over standard deviation of the "
        "differences. P(A > B): the share of rounds that A wins, ties half, with its exact binomial interval. p: exact "
        "sign-flip permutation test of the mean difference, two-sided; beside it with Holm's correction in two "
        "families, pairs of models (both tables together) and tuned against the paper's configuration. "
        f"With {fewest} rounds the smallest possible p is {p_value(smallest)}. Variance: that of the "
        "differences as a share of what unpaired rounds would give, so below 1 pairing helped. Detectable: the true "
        "difference in points that so many rounds find clear four times in five (the power of a t test at the largest "
        "p that the sign-flip test can give and Holm's first step takes, 0.05 over the number of pairs in the family); "
        "none where even the smallest possible p is above that."
    )


def _pair_cells(pair: Pair) -> tuple[str, ...]:
    d, out, ratio = pair.difference, pair.outperforming, pair.pairing.variance_ratio
    return (
        _side(pair.a),
        _side(pair.b),
        str(len(pair.rounds)),
        signed(100 * d.mean, 2) + ("" if d.interval is None else f" {interval_points(d.interval)}"),
        interval_points(pair.images),
        NOTHING if d.effect is None else signed(d.effect, 2),
        f"{out.probability:.2f} [{out.interval.low:.2f}, {out.interval.high:.2f}]",
        p_value(pair.test.p),
        p_value(pair.p_holm),
        NOTHING if ratio is None else f"{ratio:.2f}",
        "none" if pair.detectable is None else f"{100 * pair.detectable:.2f}",
    )


def _side(side: Side) -> str:
    return f"{side.model} {side.label}"


# --- Figures of search and training -----------------------------------------------------------------------


def _search(results: Sequence[StudyResult]) -> Iterable[Part]:
    searches = [search for result in results if (search := chart_data.search_data(result)).trials]
    if not searches:
        return
    yield drawn(
        "history",
        "Validation accuracy of each search trial as it finished; the line is the best complete trial so far. "
        "Triangles and crosses at the lower edge lie below it.",
        charts.history_chart(searches),
    )
    budgets = [budget for search in searches if (budget := chart_data.budget_data(search)) is not None]
    if budgets:
        yield drawn(
            "budget",
            "Best validation accuracy against the number of trials: what random trials lead one to expect (unbiased, "
            "from the random and never pruned start-up trials alone), and what this one search found.",
            charts.budget_chart(budgets),
        )
    for index, search in enumerate(searches):
        if not any(trial.state == "complete" for trial in search.trials):
            continue
        yield drawn(
            f"parallel-{index}",
            f"{search.study}: every complete trial as a line over its hyperparameters (between the ends of the "
            "searched ranges, logarithmic where the search is) to its validation accuracy.",
            charts.parallel_chart(search),
        )
        yield drawn(
            f"slices-{index}",
            f"{search.study}: validation accuracy against each hyperparameter while the others vary too.",
            charts.slices_chart(search),
        )


def _curves(results: Sequence[StudyResult]) -> Iterable[Part]:
    curves = [curve for result in results for curve in chart_data.curves_data(result)]
    if curves:
        yield drawn(
            "curves",
            "Mean over the rounds by epoch; the band reaches from the lowest round to the highest. Validation "
            "accuracy (%) comes from the confirm rounds, training loss from the final ones.",
            charts.curves_chart(curves),
        )


def _timeline(timeline: Timeline | None) -> Iterable[Part]:
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
        pictures.timeline_chart(timeline),
    )


# --- Record -----------------------------------------------------------------------------------------------


def _record(results: Sequence[StudyResult], provenance: Sequence[Provenance]) -> Iterable[Part]:
    for one in provenance:
        lines = [
            ("spec digest", one.spec_digest),
            ("data", one.data),
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
