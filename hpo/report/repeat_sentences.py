"""Sentences on repeats of a search: what they say of models and of tuning, and how far searches differ."""

import math
from collections.abc import Callable

from hpo.analysis.pairwise import TUNING
from hpo.analysis.repeats import RepeatPair, Repeats
from hpo.report.formats import Scale, figures, reference
from hpo.report.verdicts import after_epochs, between_models, by_tuning, sizes, verdict_on
from hpo.study.labels import TUNED


def repeat_headlines(repeats: Repeats, where: Callable[[int], str]) -> list[str]:
    """A sentence for each pair of models over repeats, and one for the effect of tuning each model.

    `where` says of a setting, by its number, what a sentence on it ends with.
    """
    lines = []
    for pair in (*repeats.models, *repeats.tuning):
        said = _models_over_repeats(pair) if pair.family == "models" else _tuning_over_repeats(pair)
        lines.append(f"Over {len(pair.numbers)} repeats of the search, {said}.{where(pair.setting)}")
    for group in repeats.groups:
        if group.unchanged == len(group.repeats):
            lines.append(
                f"Over {group.unchanged} repeats of the search, what tuning brings {group.model} is open: "
                f"{reference(group.reference_label)} won the confirm phase of all, and no other was tested."
                f"{where(group.setting)}"
            )
    return lines


def _models_over_repeats(pair: RepeatPair) -> str:
    sides = (pair.a, pair.mean_a), (pair.b, pair.mean_b)
    (a, mean_a), (b, mean_b) = sides if pair.difference.mean >= 0 else sides[::-1]
    scale = Scale(pair.metric)
    means = f"their test {scale.name} is {scale.value(mean_a)} and {scale.value(mean_b)} on average"
    return f"{verdict_on(pair, between_models(a, b))}: both tuned{after_epochs(pair)}, {means}, {_over_repeats(pair)}"


def _tuning_over_repeats(pair: RepeatPair) -> str:
    model = pair.a.removesuffix(f" {TUNED}")
    label = pair.b.removeprefix(f"{model} ")
    up, scale = pair.difference.mean > 0, Scale(pair.metric)
    leaning = f"{model} did {'better' if up else 'worse'} tuned"
    verdict = verdict_on(pair, by_tuning("tuning", model, up=up, leaning=leaning))
    means = f"{scale.value(pair.mean_a)} tuned, {scale.value(pair.mean_b)} with {reference(label)}"
    return f"{verdict}: test {scale.name} {means}{after_epochs(pair)}, {_over_repeats(pair)}"


def _over_repeats(pair: RepeatPair) -> str:
    """The size with its intervals over repeats: between models a distance, which has no sign."""
    d, scale, tuning = pair.difference, Scale(pair.metric), pair.family == TUNING
    sign = 1 if tuning or d.mean >= 0 else -1
    size, *ends = sizes(scale, sign, d.mean, d.interval, signed=tuning)
    words = size + ("" if tuning else " apart")
    wins, ties = (sum(sign * x > 0 for x in d.values), sum(x == 0 for x in d.values))
    better = f"better in {wins}{f' and the same in {ties}' if ties else ''} of {len(d.values)} searches"
    if d.interval is None:
        return f"{words} ({better}) in a single round, which says nothing about other rounds"
    also = ""
    if pair.items is not None:
        _, low, high = sizes(scale, sign, d.mean, pair.items, signed=tuning)
        also = f", {low} to {high} for new {pair.items_name} too"
    return f"{words} (95% interval {ends[0]} to {ends[1]} for new searches and rounds{also}; {better})"


def added_sentences(repeats: Repeats) -> list[str]:
    """What p is not, where repeats were added."""
    lines = []
    for group in repeats.groups:
        if group.added:
            names = f"{', '.join(group.added)} {'was' if len(group.added) == 1 else 'were'}"
            lines.append(
                f"Of the repeats of {group.model}, {names} created when results of others could be seen: p holds for a "
                "number of repeats that was fixed before, and is too small for whoever adds some until it is clear."
            )
    return lines


def repeat_sentences(repeats: Repeats) -> list[str]:
    """How much the outcome of each repeated search depends on chance."""
    lines = []
    for group in repeats.groups:
        scale = Scale(group.metric)
        reach = "reach" if scale.is_percent else f"reach a test {scale.name} of"
        tuned = f"the tuned configurations of {len(group.repeats)} searches"
        line = f"{group.group}: {tuned} {reach} {scale.value(group.mean)} on average"
        if group.interval is not None:
            low, high = scale.value(group.interval.low), scale.value(group.interval.high)
            line += f" (95% interval of what such searches reach on average in such rounds: {low} to {high})"
        if group.components is not None:
            c = group.components
            size, least, most = (deviation(v, scale) for v in (c.between, c.interval.low, c.interval.high))
            unit = " points" if scale.is_percent else scale.unit
            line += (
                f"; they differ by a standard deviation of {size}{unit} beyond the noise of {c.rounds} rounds "
                f"(95% interval {least} to {most})"
            )
        lines.append(f"{line}.")
    return lines


def deviation(variance: float, scale: Scale) -> str:
    """The standard deviation of values: points of an accuracy, else in the metric's unit."""
    size = math.sqrt(variance)
    return f"{100 * size:.2f}" if scale.is_percent else figures(size, 3)
