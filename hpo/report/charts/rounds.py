"""The accuracy in every round."""

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]  # has no types

from hpo.report.chart_data import RoundsGroup
from hpo.report.charts.theme import (
    COLOURS,
    GREY,
    INK,
    empty_figure,
    percents,
    title,
    translucent,
)
from hpo.study.labels import PUBLISHED, TUNED


def rounds_chart(groups: Sequence[RoundsGroup], quantity: str = "test accuracy (%)") -> go.Figure:
    """Points, box and mean with its interval of each group; published results as mean ± standard deviation."""
    figure, place, ticks = empty_figure(460), 0.0, []
    for before, group in zip([None, *groups], groups, strict=False):
        place += 1.0 if before is None or before.model == group.model else 1.6
        name = title(group.label).replace(", ", ",<br>")  # narrow: nine groups stand side by side
        ticks.append((place, f"{group.model}<br>{name}<br>{group.epochs} epochs"))
        colour = GREY if group.label == PUBLISHED else COLOURS[group.model]
        if group.values:
            figure.add_trace(_box(group, place, colour))
            figure.add_trace(_points(group, place, colour))
        figure.add_trace(_mean(group, place, colour))
    figure.update_xaxes(
        tickvals=[at for at, _ in ticks],
        ticktext=[text for _, text in ticks],
        showgrid=False,
        zeroline=False,
        tickangle=0,
    )
    figure.update_xaxes(tickfont={"size": 11})
    figure.update_yaxes(title=quantity)
    figure.update_layout(margin={"b": 92})  # four lines below the axis
    return figure


def _box(group: RoundsGroup, place: float, colour: str) -> go.Box:
    return go.Box(
        x=[place] * len(group.values),
        y=percents(group.values),
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
        y=percents(group.values),
        mode="markers",
        marker={
            "size": 7,
            "color": colour if group.label == TUNED else "white",
            "line": {"color": colour, "width": 1.2},
        },
        customdata=list(group.rounds),
        hovertemplate=f"{group.model}, {title(group.label)}<br>round %{{customdata}}: %{{y:.2f}}%<extra></extra>",
        showlegend=False,
    )


def _mean(group: RoundsGroup, place: float, colour: str) -> go.Scatter:
    published = group.label == PUBLISHED
    mean, low, high = (100 * x for x in (group.mean, group.low, group.high))
    measure = "mean ± std, as published" if published else "mean and its 95% interval"
    return go.Scatter(
        x=[place if published else place + 0.4],
        y=[round(mean, 3)],
        mode="markers",
        marker={"symbol": "diamond", "size": 10, "color": colour if published else INK},
        error_y={
            "type": "data",
            "symmetric": False,
            "array": [round(high - mean, 3)],
            "arrayminus": [round(mean - low, 3)],
            "color": colour if published else INK,
            "thickness": 1.5,
            "width": 5,
        },
        hovertemplate=f"{group.model}, {title(group.label)}<br>{measure}: %{{y:.2f}}%<extra></extra>",
        showlegend=False,
    )
