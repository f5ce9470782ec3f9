"""The report's section on repeats of the search: sentences, tables and a figure."""

import shlex
from collections.abc import Iterable, Sequence

from hpo.analysis.repeats import Repeat, RepeatGroup, RepeatPair, Repeats
from hpo.experiment.page import Bullets, PageTable, Part, numbers, plotly_figure, texts
from hpo.report.chart_data import repeats_data
from hpo.report.charts import rounds
from hpo.report.charts.theme import parameter_title
from hpo.report.formats import MINUS, NOTHING, Scale, as_percent, by_metric, p_value, reference, references, value
from hpo.report.repeat_sentences import deviation, repeat_sentences
from hpo.results.records import StudyResult
from hpo.study.repeats import comparisons_of, fewest_repeats

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
    for groups in by_metric(repeats.groups):
        yield _spread(groups)
    yield (
        "The test mean of a repeat is that of its tuned configuration over the rounds that all repeats share. The "
        "interval is for what such searches reach on average, were they and the rounds made anew, on these test items: "
        "Student's t with the variance between searches and that between rounds, for rounds do not average out over "
        "searches that share them. The standard deviations come from the variance components of the table of searches "
        "by rounds: between searches, between rounds (the draw and the seeds, which all searches share) and the "
        "residual, the noise of one round with one configuration. The interval of the component between searches is "
        "Williams'; p is that of the F test that the searches do not differ."
    )
    yield from _pairs(repeats)
    for place, of_metric in enumerate(by_metric(repeats_data(repeats, results))):
        yield plotly_figure(
            f"repeats-{place}" if place else "repeats",
            f"Test {Scale(of_metric[0].metric).name} of every repeat's tuned configuration in every round.",
            rounds.rounds_chart(of_metric, models=[result.model for result in results]),
        )


def missing_sentences(searched: Sequence[StudyResult], repeats: Repeats) -> Iterable[str]:
    """What is not known about the variance between searches, or not yet, and the command that would measure it."""
    repeated = {repeat.study for group in repeats.groups for repeat in group.repeats}
    under_way = [r for r in searched if r.repeat_group is not None and r.name not in repeated]
    if under_way:
        names = ", ".join(result.name for result in under_way)
        yield f"Repeats without a final round in common with their group yet: {names}."
    models = {(group.experiment, group.model) for group in repeats.groups}
    models |= {(result.experiment, result.model) for result in under_way}
    single = [
        result for result in searched if result.repeat_group is None and (result.experiment, result.model) not in models
    ]
    if single:
        models_beside = {result.model for result in searched if result.experiment == single[0].experiment}
        yield (
            f"Only one search was made of {', '.join(dict.fromkeys(r.model for r in single))}: how far the result of "
            "another search would differ is not measured, and no interval of this report includes it; "
            f"`{_repeating(single[0], len(models_beside))}` would measure it, in the same setting."
        )
    yield from _shared_starts(single)


def _repeating(result: StudyResult, models: int) -> str:
    """The commands that repeat a study as it was created, so often that so many models can be told apart."""
    name, file = shlex.quote(result.name), shlex.quote(f"{result.name}.toml")
    experiment = "" if result.is_shipped else "--experiment FILE "
    return (
        f"hpo study export --as-created {name} --out {file} && hpo study create --file {file} {experiment}"
        f"--name {shlex.quote(f'{result.name}-repeat')} --repeat {fewest_repeats(comparisons_of(models))}"
    )


def _shared_starts(results: Sequence[StudyResult]) -> Iterable[str]:
    """Searches of several models that began with the same random numbers, for they have the same seed."""
    by_seed: dict[tuple[str, int], list[StudyResult]] = {}
    for result in results:
        by_seed.setdefault((result.experiment, result.seed), []).append(result)
    for (_, seed), of_seed in by_seed.items():
        models = list(dict.fromkeys(result.model for result in of_seed))
        if len(models) > 1:
            yield (
                f"The searches of {', '.join(models)} share the seed {seed}: where their ranges are the same, their "
                "random start-up configurations are too. Repeats have seeds of their own."
            )


def _searches(group: RepeatGroup) -> PageTable:
    names, scale, it = group.hyperparameters, Scale(group.metric), references(group.reference_label)
    titles = (*map(parameter_title, names), *map(scale.column, ("search", "confirm", "test")))
    return PageTable(
        caption=f"{group.group}: results of its {len(group.repeats)} searches",
        columns=texts("study") + numbers("seed") + texts("tuned") + numbers(*titles, f"tuned {MINUS} {_short(it)}"),
        rows=tuple(
            (
                repeat.study,
                str(repeat.seed),
                _source(repeat, group.reference_label),
                *(value(repeat.params.get(name)) for name in names),
                scale.number(repeat.search, 2),
                scale.number(repeat.confirm, 2),
                scale.number(repeat.test, 2),
                _gain(scale, repeat),
            )
            for repeat in group.repeats
        ),
    )


def _short(it: str) -> str:
    return it.removeprefix("the ")


def _gain(scale: Scale, repeat: Repeat) -> str:
    """The tuned minus the reference configuration's value."""
    if repeat.reference is None:
        return NOTHING
    return scale.difference(float(scale.metric.improvement(repeat.test, repeat.reference)))


def _source(repeat: Repeat, label: str) -> str:
    """Where a repeat's tuned configuration comes from."""
    if repeat.source is None:
        return NOTHING
    return references(label) if repeat.source == label else f"trial {repeat.source}"


def _spread(groups: Sequence[RepeatGroup]) -> PageTable:
    scale = Scale(groups[0].metric)
    in_unit = " in percentage points" if scale.is_percent else f" of {scale.title}"
    titles = ("searches", "rounds", scale.column("mean test"), "95% interval", "between searches", "95% interval")
    return PageTable(
        caption=f"Variation between searches and between rounds: standard deviations{in_unit}",
        columns=texts("study") + numbers(*titles, "between rounds", "residual", "p"),
        rows=tuple(_spread_cells(group, scale) for group in groups),
    )


def _spread_cells(group: RepeatGroup, scale: Scale) -> tuple[str, ...]:
    c = group.components
    first = (
        group.group,
        str(len(group.repeats)),
        str(len(group.rounds)),
        scale.number(group.mean, 2),
        scale.interval(group.interval),
    )
    if c is None:
        return (*first, *(NOTHING,) * 5)
    return (
        *first,
        deviation(c.between, scale),
        f"{deviation(c.interval.low, scale)} to {deviation(c.interval.high, scale)}",
        deviation(c.shared, scale),
        deviation(c.residual, scale),
        p_value(c.p),
    )


def _pairs(repeats: Repeats) -> Iterable[PageTable | Bullets]:
    label = repeats.groups[0].reference_label
    pairs = (*repeats.models, *repeats.tuning)
    several = len({pair.setting for pair in pairs}) > 1
    titles = {
        "models": "Pairs of models, tuned, over repeats",
        "tuning": f"Tuned against {reference(label)}, over repeats",
    }
    for family, setting in dict.fromkeys((pair.family, pair.setting) for pair in pairs):
        where = f" (setting {setting + 1})" if several else ""
        of_table = [pair for pair in pairs if (pair.family, pair.setting) == (family, setting)]
        for of_metric in by_metric(of_table):
            yield _pair_table(f"{titles[family]}{where}", of_metric)
    if pairs:
        yield _legend(pairs)


def _pair_table(title: str, pairs: Sequence[RepeatPair]) -> PageTable:
    scale = Scale(pairs[0].metric)
    minus = "A / B" if scale.metric.is_relative else f"A {MINUS} B"
    unit = "in percentage points" if scale.is_percent else scale.better
    columns = ("searches", "rounds", f"{minus} [95%]", f"new {pairs[0].items_name} too", "A better in")
    tests = ("p, searches", "p, rounds", "p, both", "smallest possible p", "Holm")
    return PageTable(
        caption=f"{title}: difference in test {scale.name}, {minus}, {unit}, paired by search and by round",
        columns=texts("A", "B") + numbers(*columns, *tests),
        rows=tuple(_pair_cells(pair, scale) for pair in pairs),
    )


def _pair_cells(pair: RepeatPair, scale: Scale) -> tuple[str, ...]:
    d, test = pair.difference, pair.test
    share = "" if pair.from_items is None else f" ({as_percent(pair.from_items, 0)})"
    return (
        pair.a,
        pair.b,
        str(len(pair.numbers)),
        str(len(pair.rounds)),
        scale.difference(d.mean, d.interval),
        scale.difference_interval(pair.items) + share,
        f"{sum(x > 0 for x in d.values)} of {len(d.values)}",
        p_value(test.over_searches.p),
        p_value(test.over_rounds.p),
        p_value(test.by_components),
        p_value(test.smallest),
        p_value(pair.p_holm),
    )


def _legend(pairs: Sequence[RepeatPair]) -> Bullets:
    """What the columns of the pairs over repeats mean."""
    items = pairs[0].items_name if len({pair.items_name for pair in pairs}) == 1 else "test items"
    lines = [
        "The interval is for new searches and new rounds alike: Student's t with both components of variance, never "
        "taken for less than what the searches alone, or the rounds alone, show.",
        f"New {items} too: with the variance of what the {items} were sampled from as a third component, its share in "
        f"brackets. Where this interval does not exclude 0, a difference is at most clear on these {items}.",
        "p, searches and p, rounds: sign-flip tests of the searches' means and of the rounds'; p, both: Student's t "
        "with both components. A pair's p is the largest of the three, and Holm is that p corrected over the pairs of "
        "its table. It holds for a number of repeats that was fixed before the first result was seen.",
    ]
    if any(pair.family == "tuning" for pair in pairs):
        lines.append(
            "A repeat's reference configuration is measured in the same rounds as every other repeat's, so it is one "
            "measurement for all of them."
        )
    return Bullets(lines=tuple(lines))
