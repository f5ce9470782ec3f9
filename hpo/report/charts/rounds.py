"""The value in every round."""

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]  # has no types

from hpo.report.chart_data import RoundsGroup
from hpo.report.charts.theme import (
    GREY,
    INK,
    colours_of,
    empty_figure,
    safe,
    title,
    translucent,
)
from hpo.report.formats import Scale
from hpo.study.labels import PUBLISHED, TUNED

_WIDTH, _LETTER = 900, 6.5  # pixels, about: for the names of all groups side by side; of a letter of theirs


def rounds_chart(groups: Sequence[RoundsGroup], what: str = "test", models: Sequence[str] = ()) -> go.Figure:
    """Points, box and mean with its interval of each group; published results as mean ± standard deviation.

    All groups have one metric; `models` are all of the report, which keep their colours.
    """
    figure, place, ticks = empty_figure(460), 0.0, []
    upright = len(groups) * _LETTER * max(map(_width, groups), default=0) > _WIDTH
    colours = colours_of([*models, *(group.model for group in groups)])
    for before, group in zip([None, *groups], groups, strict=False):
        place += 1.0 if before is None or before.model == group.model else 1.6
        ticks.append((place, _upright_name(group) if upright else _narrow_name(group)))
        colour = GREY if group.label == PUBLISHED else colours[group.model]
        if group.values:
            figure.add_trace(_box(group, place, colour))
            figure.add_trace(_points(group, place, colour))
        figure.add_trace(_mean(group, place, colour))
    figure.update_xaxes(
        tickvals=[at for at, _ in ticks],
        ticktext=[text for _, text in ticks],
        showgrid=False,
        zeroline=False,
        tickangle=-90 if upright else 0,
    )
    figure.update_xaxes(tickfont={"size": 11})
    if groups:
        figure.update_yaxes(title=Scale(groups[0].metric).axis(what))
    below = 20 + _LETTER * max(len(text) for _, text in ticks) if upright else 92  # four lines below the axis
    figure.update_layout(margin={"b": below}, height=figure.layout.height + max(0, below - 92))
    return figure


def _narrow_name(group: RoundsGroup) -> str:
    epochs = [] if group.epochs is None else [f"{group.epochs} epochs"]
    return "<br>".join([_study(group), title(group.label).replace(", ", ",<br>"), *epochs])


def _width(group: RoundsGroup) -> int:
    """Letters of the longest line of its narrow name."""
    return max(map(len, _narrow_name(group).split("<br>")))


def _upright_name(group: RoundsGroup) -> str:
    return _name(group) + ("" if group.epochs is None else f", {group.epochs} epochs")


def _name(group: RoundsGroup) -> str:
    return f"{_study(group)}, {title(group.label)}"


def _study(group: RoundsGroup) -> str:
    """The study's name, with the model where that does not say it."""
    study = group.study or group.model
    return safe(study if group.model in study else f"{study} ({group.model})")


def _box(group: RoundsGroup, place: float, colour: str) -> go.Box:
    return go.Box(
        x=[place] * len(group.values),
        y=Scale(group.metric).drawn(group.values),
        width=0.62,
        boxpoints=False,
        line={"color": colour, "width": 1.5},
        fillcolor=translucent(colour, 0.35 if group.label == TUNED else 0.08),
        hoverinfo="skip",
        showlegend=False,
    )


def _points(group: RoundsGroup, place: float, colour: str) -> go.Scatter:
    # Multiples of the golden ratio spread neighbouring rounds evenly, and alike in every report.
    spread = [place + 0.42 * ((r * 0.618034) % 1 - 0.5) for r in group.rounds]
    return go.Scatter(
        x=spread,
        y=Scale(group.metric).drawn(group.values),
        mode="markers",
        marker={
            "size": 7,
            "color": colour if group.label == TUNED else "white",
            "line": {"color": colour, "width": 1.2},
        },
        customdata=list(group.rounds),
        hovertemplate=f"{_name(group)}<br>round %{{customdata}}: %{{y:{Scale(group.metric).hover}<extra></extra>",
        showlegend=False,
    )


def _mean(group: RoundsGroup, place: float, colour: str) -> go.Scatter:
    published = group.label == PUBLISHED
    scale = Scale(group.metric)
    mean, low, high = scale.drawn((group.mean, group.low, group.high))
    known = "value, as published" if group.low == group.high else "mean ± std, as published"
    measure = known if published else "mean and its 95% interval"
    return go.Scatter(
        x=[place if published else place + 0.4],
        y=[mean],
        mode="markers",
        marker={"symbol": "diamond", "size": 10, "color": colour if published else INK},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [float(f"{high - mean:.4g}")],
            "arrayminus": [float(f"{mean - low:.4g}")],
            "color": colour if published else INK,
            "thickness": 1.5,
            "width": 5,
        },
        hovertemplate=f"{_name(group)}<br>{measure}: %{{y:{scale.hover}<extra></extra>",
        showlegend=False,
    )
