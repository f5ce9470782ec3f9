"""The words for what a comparison came to, over rounds and over repeats alike: verdicts, margins and sizes."""

import math
from dataclasses import dataclass

from hpo.analysis import stats
from hpo.analysis.pairwise import Pair
from hpo.analysis.repeats import RepeatPair
from hpo.experiment.metric_info import MetricInfo
from hpo.report.formats import Scale


@dataclass(frozen=True, kw_only=True, slots=True)
class Wording:
    """What the outcomes of a comparison are called."""

    equal: str  # as far as matters
    clear: str
    leaning: str | None  # the interval says so, the corrected test does not; None: that is not settled
    unsettled: str


def between_models(better: str, worse: str) -> Wording:
    """Of a comparison of two models."""
    return Wording(
        equal=f"{better} and {worse} are equal in practice",
        clear=f"{better} is better than {worse}",
        leaning=f"{better} did better than {worse}",
        unsettled=f"{better} and {worse} cannot be told apart",
    )


def by_tuning(tuning: str, model: str, *, up: bool, leaning: str | None = None) -> Wording:
    """Of a model's tuned against its reference configuration; `tuning` is what the tuned one comes from."""
    return Wording(
        equal=f"{tuning} made no practical difference to {model}",
        clear=f"{tuning} {'improved' if up else 'harmed'} {model}",
        leaning=leaning,
        unsettled=f"whether {tuning} changed {model} is not settled",
    )


def verdict_on(pair: Pair | RepeatPair, wording: Wording) -> str:
    """Equal in practice, clear (where it is, on these test items alone) or open."""
    interval = pair.difference.interval
    if pair.is_immaterial:
        return f"{wording.equal} ({margin_in_words(pair.metric)})"
    if pair.clear:
        return f"{wording.clear}{_immaterial(pair)}"
    if pair.clear_on_these_items:
        return f"{wording.clear} on these {pair.items_name}{_immaterial(pair)}"
    if wording.leaning is not None and interval is not None and interval.excludes_zero:
        return f"{wording.leaning}, though {_why_open(pair)}"
    return wording.unsettled


def margin_in_words(metric: MetricInfo) -> str:
    """From which size on a difference matters."""
    scale = Scale(metric)
    assert metric.margin is not None
    margin = math.log1p(metric.margin) if metric.is_relative else metric.margin
    (size,) = scale.in_words([margin], signed=False)
    return f"a difference below {'a factor of ' if metric.is_relative else ''}{size}{scale.apart} counts as none"


def _immaterial(pair: Pair | RepeatPair) -> str:
    """What a clear difference that is too small to matter is called."""
    margin = pair.metric.margin
    small = margin is not None and abs(pair.difference.mean) < margin
    return f", by less than what matters ({margin_in_words(pair.metric)})" if small else ""


def _why_open(pair: Pair | RepeatPair) -> str:
    """Why an interval without 0 is not enough."""
    test, unit = (pair.test, "rounds") if isinstance(pair, Pair) else pair.test.scarce
    if pair.test.smallest >= 1 - stats.LEVEL:
        return f"{test.n} {unit} are too few for a test (the smallest possible p is {pair.test.smallest:.2g})"
    return f"the corrected test does not settle it (p = {pair.p_holm:.2g})"


def sizes(
    scale: Scale, sign: int, improvement: float, interval: stats.Interval | None, *, signed: bool
) -> tuple[str, ...]:
    """A difference with its unit, and the ends of its interval without.

    Signed ones are changes of the metric, which fall where lower is better; others are distances, turned by `sign`.
    """
    turn = scale.metric.sign if signed else sign
    ends = [] if interval is None else sorted(turn * end for end in (interval.low, interval.high))
    size, *shown = scale.in_words([turn * improvement, *ends], signed=signed)
    return (f"a factor of {size}" if scale.metric.is_relative else f"{size}{scale.apart}"), *shown


def after_epochs(pair: Pair | RepeatPair) -> str:
    """After how many epochs, where that is the comparison's affair."""
    return f" at {pair.epochs} epochs" if pair.epochs else ""
