"""The report's section on repeats of the search: sentences, tables and a figure."""

import math
from collections.abc import Iterable, Sequence

from hpo.analysis.repeats import Repeat, RepeatGroup, RepeatPair, Repeats
from hpo.report.chart_data import repeats_data
from hpo.report.charts import rounds, theme
from hpo.report.formats import MINUS, NOTHING, interval_percent, interval_points, p_value, percent, signed, value
from hpo.report.html import Bullets, PageTable, Part, numbers, plotly_figure, texts
from hpo.report.sentences import repeat_sentences
from hpo.results.records import StudyResult
from hpo.study.labels import PAPER

TITLE = "Would another search give the same result?"


def repeats_parts(results: Sequence[StudyResult], repeats: Repeats) -> Iterable[Part]:
    """The whole section; nothing where no study has a search."""
    searched = [result for result in results if result.trials.total]
    if not searched:
        return
    yield from missing_sentences(searched, repeats)
    if not repeats.groups:
        return
    yield Bullets(lines=tuple(repeat_sentences(repeats)))
    for group in repeats.groups:
        yield _searches(group)
    yield _spread(repeats.groups)
    yield (
        "The test mean of a repeat is that of its tuned configuration over the rounds that all repeats share. The "
        "interval of the mean over repeats is Student's t over the searches, that is, for another search of this kind. "
        "The standard deviations come from the variance components of the table of searches by rounds: between "
        "searches, between rounds (the draw, which all searches share) and the residual, the noise of one round with "
        "one configuration. The interval of the component between searches is Williams'; p is that of the F test that "
        "the searches do not differ."
    )
    yield from _pairs(repeats)
    yield plotly_figure(
        "repeats",
        "Test accuracy of every repeat's tuned configuration in every round.",
        rounds.rounds_chart(repeats_data(repeats, results)),
    )


def missing_sentences(searched: Sequence[StudyResult], repeats: Repeats) -> Iterable[str]:
    """What is not known about the variance between searches, or not yet, and the command that would measure it."""
    repeated = {repeat.study for group in repeats.groups for repeat in group.repeats}
    under_way = [r for r in searched if r.repeat_group is not None and r.name not in repeated]
    if under_way:
        names = ", ".join(result.name for result in under_way)
        yield f"Repeats without a final round in common with their group yet: {names}."
    models = {group.model for group in repeats.groups} | {result.model for result in under_way}
    single = [result for result in searched if result.repeat_group is None and result.model not in models]
    if single:
        yield (
            f"Only one search was made of {', '.join(dict.fromkeys(r.model for r in single))}: how far the result of "
            "another search would differ is not measured, and no interval of this report includes it; "
            f"`hpo study create --model {single[0].model} --name {single[0].name}-repeat --repeat 5` would measure it."
        )


def _searches(group: RepeatGroup) -> PageTable:
    names = tuple(group.repeats[0].params)
    titles = (*(theme.PARAMETER_TITLES.get(name, name) for name in names), "search %", "confirm %", "test %")
    return PageTable(
        caption=f"{group.group}: results of its {len(group.repeats)} searches",
        columns=texts("study") + numbers("seed") + texts("tuned") + numbers(*titles, f"tuned {MINUS} paper's"),
        rows=tuple(
            (
                repeat.study,
                str(repeat.seed),
                _source(repeat),
                *(value(repeat.params.get(name)) for name in names),
                percent(repeat.search, 2),
                percent(repeat.confirm, 2),
                percent(repeat.test, 2),
                NOTHING if repeat.paper is None else signed(100 * (repeat.test - repeat.paper), 2),
            )
            for repeat in group.repeats
        ),
    )


def _source(repeat: Repeat) -> str:
    """Where a repeat's tuned configuration comes from."""
    if repeat.source is None:
        return NOTHING
    return "the paper's" if repeat.source == PAPER else f"trial {repeat.source}"


def _spread(groups: Sequence[RepeatGroup]) -> PageTable:
    titles = ("searches", "rounds", "mean test %", "95% interval", "between searches", "95% interval")
    return PageTable(
        caption="Variation between searches and between rounds: standard deviations in percentage points",
        columns=texts("study") + numbers(*titles, "between rounds", "residual", "p"),
        rows=tuple(_spread_cells(group) for group in groups),
    )


def _spread_cells(group: RepeatGroup) -> tuple[str, ...]:
    c = group.components
    first = (
        group.group,
        str(len(group.repeats)),
        str(len(group.rounds)),
        percent(group.mean, 2),
        interval_percent(group.interval),
    )
    if c is None:
        return (*first, *(NOTHING,) * 5)
    return (
        *first,
        _deviation(c.between),
        f"{_deviation(c.interval.low)} to {_deviation(c.interval.high)}",
        _deviation(c.shared),
        _deviation(c.residual),
        p_value(c.p),
    )


def _deviation(variance: float) -> str:
    """The standard deviation of accuracies in points."""
    return f"{100 * math.sqrt(variance):.2f}"


def _pairs(repeats: Repeats) -> Iterable[PageTable]:
    difference = f"difference in test accuracy, A {MINUS} B, in percentage points, paired by search"
    for caption, pairs in (
        (f"Pairs of models, tuned, over repeats: {difference}", repeats.models),
        (f"Tuned against the paper's configuration, over repeats: {difference}", repeats.tuning),
    ):
        if pairs:
            titles = ("searches", f"A {MINUS} B [95%]", "A better in", "p", "smallest possible p", "Holm")
            yield PageTable(
                caption=caption,
                columns=texts("A", "B") + numbers(*titles),
                rows=tuple(_pair_cells(pair) for pair in pairs),
            )


def _pair_cells(pair: RepeatPair) -> tuple[str, ...]:
    d = pair.difference
    return (
        pair.a,
        pair.b,
        str(len(pair.seeds)),
        signed(100 * d.mean, 2) + ("" if d.interval is None else f" {interval_points(d.interval)}"),
        f"{sum(x > 0 for x in d.values)} of {len(d.values)}",
        p_value(pair.test.p),
        p_value(pair.test.smallest),
        p_value(pair.p_holm),
    )
