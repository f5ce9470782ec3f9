"""The slots of all workers over time."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]  # has no types

from hpo.analysis.timeline import Bar, Timeline
from hpo.report.charts.theme import GREY, INK, colours_of, empty_figure, safe, translucent, with_legend

_TALLEST = 900  # pixels, of all rows together
_LANE, _ROW, _TALL_ROW = 7, 20, 120  # pixels: a lane, the smallest and the largest row
_UNITS = (
    (7200.0, 3600.0, "hours"),
    (180.0, 60.0, "minutes"),
    (0.0, 1.0, "seconds"),
)  # used from (seconds), length (seconds), name
_FILLED = 0.84  # of a row's height
_LABELLED_PAUSES = 3  # more labels would overlap
_CUT = 0.03  # width of a shortened pause, as a share of the time shown


def timeline_chart(timeline: Timeline, models: Sequence[str] = ()) -> go.Figure:
    """One row per worker, one bar per slot; long pauses are shortened. `models` gives the order of the legend."""
    colours = colours_of([*models, *(bar.model for row in timeline.rows for bar in row.bars)])
    deepest = max(row.lanes for row in timeline.rows)
    row_height = min(_TALL_ROW, max(_ROW, _LANE * deepest), _TALLEST / len(timeline.rows))
    figure = empty_figure(110 + round(row_height * len(timeline.rows)))
    clock = _Clock(timeline)
    placed = [
        (bar, place - _FILLED / 2 + (bar.lane + 0.5) * _FILLED / row.lanes, _FILLED / row.lanes)
        for place, row in enumerate(timeline.rows)
        for bar in row.bars
    ]
    in_legend: set[str] = set()  # one entry per model; the caption explains the patterns of the phases
    for model, kind in product(colours, ("final", "confirm", "search")):
        bars = [(bar, y, width) for bar, y, width in placed if (bar.model, bar.kind) == (model, kind)]
        if bars:
            figure.add_trace(_bars(model, kind, bars, clock, colours[model], legend=model not in in_legend))
            in_legend.add(model)
    reclaimed = [(bar, y) for bar, y, _ in placed if bar.attempts > 1]
    if reclaimed:
        figure.add_trace(_marks(reclaimed, clock))
    for start, end in timeline.pauses:
        text = f"pause of {_duration(end - start)}" if len(timeline.pauses) <= _LABELLED_PAUSES else ""
        figure.add_vline(
            x=clock.at((start + end) / 2),
            line={"color": GREY, "width": 1.5, "dash": "dot"},
            annotation={"text": text, "font": {"size": 11, "color": GREY}, "y": 1, "yanchor": "bottom"},
        )
    figure.update_layout(barmode="overlay", margin={"t": 30}, hovermode="closest")
    figure.update_xaxes(
        title=f"{clock.unit} since the first claim" + (", long pauses shortened" if timeline.pauses else "")
    )
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
    """Times as positions on the axis: since the first claim, in a suitable unit, long pauses shortened."""

    def __init__(self, timeline: Timeline) -> None:
        self._start, self._pauses = timeline.start, timeline.pauses
        shown = timeline.end - timeline.start - sum(end - start for start, end in self._pauses)
        self._cut = _CUT * shown
        self._seconds, self.unit = next((seconds, name) for least, seconds, name in _UNITS if shown >= least)

    def at(self, time: float) -> float:
        """The position of a time; inside a pause, times lie closer together."""
        passed = time - self._start
        for start, end in self._pauses:
            inside = min(max(time - start, 0.0), end - start)
            passed -= inside * (1 - self._cut / (end - start))
        return round(passed / self._seconds, 5)


def _bars(
    model: str, kind: str, bars: Sequence[tuple[Bar, float, float]], clock: _Clock, colour: str, legend: bool
) -> go.Bar:
    styles: dict[str, dict[str, Any]] = {
        "search": {"color": translucent(colour, 0.4)},
        "confirm": {"color": "white", "pattern": {"shape": "/", "fgcolor": colour, "bgcolor": "white", "size": 5}},
        "final": {"color": colour},
    }
    starts, ends = [clock.at(bar.start) for bar, _, _ in bars], [clock.at(bar.end) for bar, _, _ in bars]
    return go.Bar(
        orientation="h",
        base=starts,
        x=[round(end - start, 5) for start, end in zip(starts, ends, strict=True)],
        y=[round(y, 4) for _, y, _ in bars],
        width=[round(0.94 * width, 4) for _, _, width in bars],
        name=safe(model),
        legendgroup=model,
        showlegend=legend,
        marker={**styles[kind], "line": {"color": colour, "width": 0.6}},
        customdata=[[f"{bar.study} {kind}, {bar.title}", bar.state, _history(bar)] for bar, _, _ in bars],
        hovertemplate="%{customdata[0]}<br>%{customdata[1]}, %{customdata[2]}<extra></extra>",
    )


def _marks(reclaimed: Sequence[tuple[Bar, float]], clock: _Clock) -> go.Scatter:
    return go.Scatter(
        x=[clock.at((bar.start + bar.end) / 2) for bar, _ in reclaimed],
        y=[round(y, 4) for _, y in reclaimed],
        mode="markers",
        name="claimed more than once",
        marker={"symbol": "x", "size": 6, "color": INK, "line": {"color": "white", "width": 1}},
        hoverinfo="skip",
    )


def _history(bar: Bar) -> str:
    history = _duration(bar.end - bar.start)
    if bar.attempts > 1:
        history += f"; claim {bar.attempts}, the first {_duration(bar.end - bar.first_claim)} before its end"
    return history


def _duration(seconds: float) -> str:
    unit, name = next((unit, name) for least, unit, name in _UNITS if seconds >= least)
    return f"{seconds / unit:.1f} {name}"
