"""Learning curves."""

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]  # has no types

from hpo.report.chart_data import Curve
from hpo.report.charts.theme import (
    ACROSS,
    COLOURS,
    GREY,
    INK,
    cell,
    panels,
    title,
    translucent,
    with_legend,
)
from hpo.study.labels import TUNED

_LOSS_TICKS = [digit * 10.0**power for power in range(-6, 2) for digit in (1, 2, 5)]  # labels on a logarithmic axis


def curves_chart(curves: Sequence[Curve]) -> go.Figure:
    """One panel per study and quantity: the mean over the rounds, with a band from the lowest round to the highest."""
    studies = list(dict.fromkeys(curve.study for curve in curves))
    kinds = list(dict.fromkeys(curve.what for curve in curves))
    titles = [f"{study}: {kind}" for kind in kinds for study in studies]
    across = min(len(studies), ACROSS)
    figure = panels(titles, 300, across)
    shown: set[str] = set()
    for curve in curves:
        index = kinds.index(curve.what) * len(studies) + studies.index(curve.study)
        at = cell(index, across)
        scale = 100 if curve.what == "validation accuracy" else 1
        epochs = list(range(1, len(curve.mean) + 1))
        colour, dash = COLOURS[curve.model], "solid" if curve.label == TUNED else "dash"
        band = [round(scale * y, 4) for y in (*curve.high, *reversed(curve.low))]
        figure.add_trace(
            go.Scatter(
                x=epochs + epochs[::-1],
                y=band,
                fill="toself",
                fillcolor=translucent(colour if curve.label == TUNED else GREY, 0.18),
                line={"width": 0},
                hoverinfo="skip",
                showlegend=False,
            ),
            **at,
        )
        figure.add_trace(
            go.Scatter(
                x=epochs,
                y=[round(scale * y, 4) for y in curve.mean],
                mode="lines+markers" if len(epochs) == 1 else "lines",
                line={"color": colour if curve.label == TUNED else INK, "dash": dash, "width": 2},
                name=title(curve.label),
                legendgroup=curve.label,
                showlegend=curve.label not in shown,
                hovertemplate=f"{title(curve.label)}, mean of {curve.runs} rounds<br>epoch %{{x}}: "
                "%{y:.4g}<extra></extra>",
            ),
            **at,
        )
        shown.add(curve.label)
        if curve.what == "training loss":
            figure.update_yaxes(type="log", tickvals=_LOSS_TICKS, ticktext=[f"{x:g}" for x in _LOSS_TICKS], **at)
    figure.update_xaxes(title="epoch")
    return with_legend(figure)
