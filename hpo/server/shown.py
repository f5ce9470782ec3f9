"""How the site's pages say times, progress and curves."""

from collections.abc import Sequence
from dataclasses import dataclass

from hpo.report.formats import NOTHING, Scale
from hpo.results.learning_curves import LearningCurve
from hpo.results.progress_records import EstimatedEnd, PhaseProgress

CURVE_WIDTH, CURVE_HEIGHT = 640, 240  # of a drawing, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 10, 10, 26  # margins for the axes' numbers
COLOURS = 6  # of lines, by class c0 to c5 in the style sheet


@dataclass(frozen=True, kw_only=True, slots=True)
class BarPart:
    """A stretch of a bar, in percent of its length."""

    state: str  # done | failed | running
    start: float
    width: float


@dataclass(frozen=True, kw_only=True, slots=True)
class DrawnCurve:
    """A learning curve as a line of an SVG drawing."""

    name: str
    style: str  # class of the line
    points: str  # "x,y x,y ..."


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """Learning curves in one drawing of CURVE_WIDTH x CURVE_HEIGHT."""

    curves: tuple[DrawnCurve, ...]
    left: int
    bottom: int  # y of the horizontal axis
    heights: tuple[tuple[float, str], ...]  # y and text of the vertical axis
    places: tuple[tuple[float, str], ...]  # x and text of the horizontal one


def duration(seconds: float) -> str:
    """A duration in its two largest units."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{max(0, round(seconds))} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // (24 * 60)} d {minutes % (24 * 60) // 60} h"


def ago(seconds: float) -> str:
    """How long ago something was."""
    return "now" if seconds < 5 else f"{duration(seconds)} ago"


def remaining(end: EstimatedEnd | None, now: float) -> str:
    """How long something will take, with the range that holds nine times in ten."""
    if end is None:
        return NOTHING
    low, middle, high = (duration(max(0.0, time - now)) for time in (end.earliest, end.expected, end.latest))
    return middle if low == high else f"{middle} ({low} to {high})"


def bar(phase: PhaseProgress) -> list[BarPart]:
    """The parts of a phase's bar; what is waiting is left empty."""
    parts, start = [], 0.0
    for state, count in (("done", phase.done), ("failed", phase.failed), ("running", phase.running)):
        width = 100 * count / phase.total if phase.total else 0.0
        if width:
            parts.append(BarPart(state=state, start=round(start, 3), width=round(width, 3)))
        start += width
    return parts


def in_words(phase: PhaseProgress) -> str:
    """What a bar shows, for who does not see it."""
    words = [f"{phase.done} of {phase.total} done"]
    words += [f"{count} {state}" for state, count in (("running", phase.running), ("failed", phase.failed)) if count]
    return f"{phase.kind}: {', '.join(words)}"


def drawing(curves: Sequence[LearningCurve], scale: Scale, best: int | None) -> Drawing | None:
    """The curves as lines; None where there is nothing to draw."""
    values = [value for curve in curves for value in curve.values]
    if not values:
        return None
    low, high = min(values), max(values)
    if high == low:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    first, last = min(curve.steps[0] for curve in curves), max(curve.steps[-1] for curve in curves)
    width, height = CURVE_WIDTH - _LEFT - _RIGHT, CURVE_HEIGHT - _TOP - _BOTTOM

    def x(step: float) -> float:
        return round(_LEFT + width * (step - first) / max(1, last - first), 1)

    def y(value: float) -> float:
        return round(_TOP + height * (high - value) / (high - low), 1)

    def styled(place: int, curve: LearningCurve) -> str:
        is_best = curve.kind == "search" and curve.number == best
        return "best" if is_best else f"c{place % COLOURS}"

    return Drawing(
        curves=tuple(
            DrawnCurve(
                name=f"{curve.kind} trial {curve.number}"
                + (", the best so far" if styled(place, curve) == "best" else ""),
                style=styled(place, curve),
                points=" ".join(f"{x(step)},{y(value)}" for step, value in zip(curve.steps, curve.values, strict=True)),
            )
            for place, curve in enumerate(curves)
        ),
        left=_LEFT,
        bottom=_TOP + height,
        heights=tuple((y(value), scale.number(value, 1)) for value in (low, (low + high) / 2, high)),
        places=tuple((x(step), str(step)) for step in sorted({first, (first + last) // 2, last})),
    )
