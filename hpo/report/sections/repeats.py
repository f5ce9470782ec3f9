"""The report's section on repeats of the search: sentences, tables and a figure."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from hpo.analysis.repeats import RepeatGroup, RepeatPair, Repeats
from hpo.report.chart_data import repeats_data
from hpo.report.charts import rounds, theme
from hpo.report.formats import MINUS, NOTHING, interval_percent, interval_points, p_value, percent, signed, value
from hpo.report.html import Bullets, Column, PageFigure, PageTable, Part
from hpo.report.sentences import repeat_sentences
from hpo.results.records import StudyResult

TITLE = "Would another search have found the same?"


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
        yield _found(group)
    yield _spread(repeats.groups)
    yield (
        "A repeat's test mean is that of its tuned configuration over the rounds that all repeats have. The interval "
        "of their mean is Student's t over the searches: for another search of this kind. Standard deviations come "
        "from the variance components of the table of searches by rounds: between searches, between rounds (the draw, "
        "which all share) and the rest, a round's luck with one configuration. The interval of that between searches "
        "is Williams'; p is the F test that the searches do not differ."
    )
    yield from _pairs(repeats)
    yield PageFigure(
        name="repeats",
        caption="Test accuracy of every round of every repeat's tuned configuration.",
        spec=_spec(rounds.rounds_chart(repeats_data(repeats, results))),
    )


def missing_sentences(searched: Sequence[StudyResult], repeats: Repeats) -> Iterable[str]:
    """What is not known of the searches' own variance, or not yet, and the command that would measure it."""
    repeated = {repeat.study for group in repeats.groups for repeat in group.repeats}
    under_way = [r for r in searched if r.repeat_group is not None and r.name not in repeated]
    if under_way:
        names = ", ".join(result.name for result in under_way)
        yield f"Repeats without a final round in common with their group yet: {names}."
    models = {group.model for group in repeats.groups} | {result.model for result in under_way}
    left = [result for result in searched if result.repeat_group is None and result.model not in models]
    if left:
        yield (
            f"Of {', '.join(dict.fromkeys(r.model for r in left))} one search was made: how much another would have "
            "found differs from this is not measured, and no interval of this report holds it; "
            f"`hpo study create --model {left[0].model} --name {left[0].name}-repeat --repeat 5` would measure it."
        )


def _found(group: RepeatGroup) -> PageTable:
    names = tuple(group.repeats[0].params)
    numbers = (*(theme.PARAMETER_TITLES.get(name, name) for name in names), "search %", "confirm %", "test %")
    return PageTable(
        caption=f"{group.group}: what each of {len(group.repeats)} searches found",
        columns=(
            Column(title="study"),
            Column(title="seed", number=True),
            Column(title="tuned"),
            *(Column(title=title, number=True) for title in (*numbers, f"tuned {MINUS} paper's")),
        ),
        rows=tuple(
            (
                repeat.study,
                str(repeat.seed),
                NOTHING
                if repeat.source is None
                else "the paper's"
                if repeat.source == "paper"
                else f"trial {repeat.source}",
                *(value(repeat.params.get(name)) for name in names),
                percent(repeat.search, 2),
                percent(repeat.confirm, 2),
                percent(repeat.test, 2),
                NOTHING if repeat.paper is None else signed(100 * (repeat.test - repeat.paper), 2),
            )
            for repeat in group.repeats
        ),
    )


def _spread(groups: Sequence[RepeatGroup]) -> PageTable:
    titles = ("searches", "rounds", "mean test %", "95% interval", "between searches", "95% interval")
    return PageTable(
        caption="How far searches lie apart, and rounds: standard deviations in points",
        columns=(
            Column(title="study"),
            *(Column(title=title, number=True) for title in (*titles, "between rounds", "rest", "p")),
        ),
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
        deviation(c.between),
        f"{deviation(c.interval.low)} to {deviation(c.interval.high)}",
        deviation(c.shared),
        deviation(c.residual),
        p_value(c.p),
    )


def deviation(variance: float) -> str:
    """The standard deviation of accuracies in points."""
    return f"{100 * math.sqrt(variance):.2f}"


def _pairs(repeats: Repeats) -> Iterable[PageTable]:
    for caption, pairs in (
        ("Pairs of models, tuned, over repeats: test accuracy in points, A minus B, search by search", repeats.models),
        ("Tuned against the paper's configuration, over repeats", repeats.tuning),
    ):
        if pairs:
            numbers = ("searches", f"A {MINUS} B [95%]", "A better in", "p", "smallest possible p", "Holm")
            yield PageTable(
                caption=caption,
                columns=(
                    Column(title="A"),
                    Column(title="B"),
                    *(Column(title=title, number=True) for title in numbers),
                ),
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


def _spec(figure: Any) -> dict[str, Any]:
    spec: dict[str, Any] = figure.to_plotly_json()
    return spec
