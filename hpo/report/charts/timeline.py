"""Charts of slots over time, of digits taken for others and of the hardest pairs, in the look of all the others."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]  # has no types

from hpo.analysis.answers import CLASSES
from hpo.analysis.confusion import DigitConfusion
from hpo.analysis.hard_pairs import DARKEST, Gallery, HardPair, Picture
from hpo.analysis.timeline import Bar, Timeline
from hpo.report.charts.images import grey_png
from hpo.report.charts.rounds import COLOURS, TITLES
from hpo.report.charts.theme import GREY, INK, cell, faint, figure_of, panels, safe, with_legend
from hpo.report.html import PageImage
from hpo.study.spec import MODELS

# --- Timeline ---------------------------------------------------------------------------------------------

_TALLEST = 900  # pixels of all rows
_LANE, _ROW, _TALL_ROW = 7, 20, 120  # pixels: a lane, the lowest and the highest row
_UNITS = ((7200.0, 3600.0, "hours"), (180.0, 60.0, "minutes"), (0.0, 1.0, "seconds"))  # from, seconds, name
_FILLED = 0.84  # of a row's height
_NAMED_PAUSES = 3  # the names of more would overlap
_CUT = 0.03  # the width a pause is cut to, of the time that is shown


def timeline_chart(timeline: Timeline) -> go.Figure:
    """One row a worker, one bar a slot; long pauses are cut."""
    deepest = max(row.lanes for row in timeline.rows)
    row_height = min(_TALL_ROW, max(_ROW, _LANE * deepest), _TALLEST / len(timeline.rows))
    figure = figure_of(110 + round(row_height * len(timeline.rows)))
    clock = _Clock(timeline)
    placed = [
        (bar, place - _FILLED / 2 + (bar.lane + 0.5) * _FILLED / row.lanes, _FILLED / row.lanes)
        for place, row in enumerate(timeline.rows)
        for bar in row.bars
    ]
    named: set[str] = set()  # a legend for each model; how its phases look, the caption says
    for model, kind in product(MODELS, ("final", "confirm", "search")):
        own = [(bar, y, width) for bar, y, width in placed if (bar.model, bar.kind) == (model, kind)]
        if own:
            figure.add_trace(_bars(model, kind, own, clock, legend=model not in named))
            named.add(model)
    again = [(bar, y) for bar, y, _ in placed if bar.attempts > 1]
    if again:
        figure.add_trace(_again(again, clock))
    for start, end in timeline.pauses:
        text = f"pause of {_long(end - start)}" if len(timeline.pauses) <= _NAMED_PAUSES else ""
        figure.add_vline(
            x=clock.at((start + end) / 2),
            line={"color": GREY, "width": 1.5, "dash": "dot"},
            annotation={"text": text, "font": {"size": 11, "color": GREY}, "y": 1, "yanchor": "bottom"},
        )
    figure.update_layout(barmode="overlay", margin={"t": 30}, hovermode="closest")
    figure.update_xaxes(title=f"{clock.unit} since the first claim" + (", long pauses cut" if timeline.pauses else ""))
    figure.update_yaxes(
        tickvals=list(range(len(timeline.rows))),
        ticktext=[safe(row.worker if len(row.worker) <= 28 else f"...{row.worker[-25:]}") for row in timeline.rows],
        tickfont={"size": 11},
        range=[len(timeline.rows) - 0.5, -0.5],
        showgrid=False,
        automargin=True,
    )
    return with_legend(figure)


class _Clock:
    """Times as places on the axis: since the first claim in a fitting unit, long pauses cut short."""

    def __init__(self, timeline: Timeline) -> None:
        self._start, self._pauses = timeline.start, timeline.pauses
        shown = timeline.end - timeline.start - sum(end - start for start, end in self._pauses)
        self._cut = _CUT * shown
        self._seconds, self.unit = next((seconds, name) for least, seconds, name in _UNITS if shown >= least)

    def at(self, time: float) -> float:
        """A time's place; inside a pause the times lie closer together."""
        passed = time - self._start
        for start, end in self._pauses:
            inside = min(max(time - start, 0.0), end - start)
            passed -= inside * (1 - self._cut / (end - start))
        return round(passed / self._seconds, 5)


def _bars(model: str, kind: str, own: Sequence[tuple[Bar, float, float]], clock: _Clock, legend: bool) -> go.Bar:
    colour = COLOURS[model]
    looks: dict[str, dict[str, Any]] = {
        "search": {"color": faint(colour, 0.4)},
        "confirm": {"color": "white", "pattern": {"shape": "/", "fgcolor": colour, "bgcolor": "white", "size": 5}},
        "final": {"color": colour},
    }
    starts, ends = [clock.at(bar.start) for bar, _, _ in own], [clock.at(bar.end) for bar, _, _ in own]
    return go.Bar(
        orientation="h",
        base=starts,
        x=[round(end - start, 5) for start, end in zip(starts, ends, strict=True)],
        y=[round(y, 4) for _, y, _ in own],
        width=[round(0.94 * width, 4) for _, _, width in own],
        name=model,
        legendgroup=model,
        showlegend=legend,
        marker={**looks[kind], "line": {"color": colour, "width": 0.6}},
        customdata=[[f"{bar.study} {kind}, {bar.title}", bar.state, _history(bar)] for bar, _, _ in own],
        hovertemplate="%{customdata[0]}<br>%{customdata[1]}, %{customdata[2]}<extra></extra>",
    )


def _again(again: Sequence[tuple[Bar, float]], clock: _Clock) -> go.Scatter:
    return go.Scatter(
        x=[clock.at((bar.start + bar.end) / 2) for bar, _ in again],
        y=[round(y, 4) for _, y in again],
        mode="markers",
        name="claimed more than once",
        marker={"symbol": "x", "size": 6, "color": INK, "line": {"color": "white", "width": 1}},
        hoverinfo="skip",
    )


def _history(bar: Bar) -> str:
    history = _long(bar.end - bar.start)
    if bar.attempts > 1:
        history += f"; claim {bar.attempts}, the first {_long(bar.end - bar.first_claim)} before its end"
    return history


def _long(seconds: float) -> str:
    unit, name = next((unit, name) for least, unit, name in _UNITS if seconds >= least)
    return f"{seconds / unit:.1f} {name}"


# --- Digits taken for others ------------------------------------------------------------------------------

_SHARES = [[0, "#ffffff"], [0.4, "#cfe1f0"], [1, "#74a9cf"]]  # pale: numbers stand on it
_PALE = [[0, "#eeeeee"], [1, "#eeeeee"]]


def confusion_chart(found: Sequence[DigitConfusion]) -> go.Figure:
    """Named digit by true digit in percent of the true digit's images; the diagonal is grey, or it would drown all."""
    figure = panels([f"{one.study}, {TITLES.get(one.label, safe(one.label))}" for one in found], 420, across=2)
    if len(found) == 1:
        figure.update_xaxes(domain=[0, 0.55])  # square cells
        figure.update_annotations(x=0.275)
    shares = [[_shares(one, i) for i in range(CLASSES)] for one in found]
    others = [x for table in shares for i, row in enumerate(table) for j, x in enumerate(row) if i != j]
    highest = max((x for x in others if x is not None), default=0) or 1.0
    for index, (one, table) in enumerate(zip(found, shares, strict=True)):
        off = [[None if i == j else x for j, x in enumerate(row)] for i, row in enumerate(table)]
        on = [[x if i == j else None for j, x in enumerate(row)] for i, row in enumerate(table)]
        for z, scale, top in ((off, _SHARES, highest), (on, _PALE, 100.0)):
            figure.add_trace(_cells(one, z, scale, top), **cell(index, 2))
    figure.update_xaxes(title="named", dtick=1, showgrid=False)
    figure.update_yaxes(title="true digit", dtick=1, showgrid=False, autorange="reversed")
    return figure


def _shares(one: DigitConfusion, digit: int) -> list[float | None]:
    total = sum(one.said[digit])
    return [round(100 * n / total, 2) if total else None for n in one.said[digit]]


def _cells(one: DigitConfusion, z: list[list[float | None]], scale: list[list[Any]], top: float) -> go.Heatmap:
    digits = list(range(CLASSES))
    return go.Heatmap(
        x=digits,
        y=digits,
        z=z,
        zmin=0,
        zmax=top,
        colorscale=scale,
        showscale=False,
        text=[["" if not x or x < 0.05 else f"{x:.1f}" for x in row] for row in z],
        texttemplate="%{text}",
        textfont={"size": 10, "color": INK},
        customdata=one.said,
        hovertemplate="%{y} named %{x}: %{z}%, %{customdata} images<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )


# --- The hardest pairs ------------------------------------------------------------------------------------

_BETWEEN = 1  # pixels between a pair's images


def gallery_images(gallery: Gallery) -> tuple[PageImage, ...]:
    """Each pair as one picture, ink on paper; above its question, below how many trainings were wrong, by model."""
    return tuple(
        PageImage(
            png=grey_png(_beside(*(gallery.pictures[image] for image in pair.images))),
            above=_question(pair),
            below=tuple((f"{one.wrong} of {one.trainings}", COLOURS[one.model]) for one in pair.counts),
        )
        for pair in gallery.pairs
    )


def _beside(left: Picture, right: Picture) -> list[list[int]]:
    gap = (0,) * _BETWEEN
    return [[DARKEST - ink for ink in (*a, *gap, *b)] for a, b in zip(left, right, strict=True)]


def _question(pair: HardPair) -> str:
    a, b = pair.digits
    return f"{a} \N{LESS-THAN OR EQUAL TO} {b}: {'yes' if a <= b else 'no'}"
