"""Learning curves."""

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]  # has no types

from hpo.report.chart_data import Curve
from hpo.report.charts.theme import (
    ACROSS,
    GREY,
    INK,
    cell,
    colours_of,
    panels,
    title,
    translucent,
    with_legend,
)
from hpo.report.formats import Scale
from hpo.study.labels import TUNED

_LOSS_TICKS = [digit * 10.0**power for power in range(-6, 2) for digit in (1, 2, 5)]  # labels on a logarithmic axis


def curves_chart(curves: Sequence[Curve], models: Sequence[str] = ()) -> go.Figure:
    """One panel per study and quantity: the mean over the rounds, with a band from the lowest round to the highest."""
    studies = list(dict.fromkeys(curve.study for curve in curves))
    kinds = list(dict.fromkeys(curve.what for curve in curves))
    shown_at = {(curve.what, curve.study) for curve in curves}
    across = min(len(studies), ACROSS)
    places = list(dict.fromkeys((kind, study) for kind in kinds for study in studies if (kind, study) in shown_at))
    figure = panels([f"{study}: {kind}" for kind, study in places], 300, across)
    colours = colours_of([*models, *(curve.model for curve in curves)])
    shown: set[str] = set()
    for curve in curves:
        at = cell(places.index((curve.what, curve.study)), across)
        scale = 100 if curve.metric is not None and Scale(curve.metric).is_percent else 1
        epochs = list(range(1, len(curve.mean) + 1))
        colour, dash = colours[curve.model], "solid" if curve.label == TUNED else "dash"
        band = [_rounded(scale * y) for y in (*curve.high, *reversed(curve.low))]
        figure.add_trace(
            go.Scatter(
                x=epochs + epochs[::-1],
                y=band,
                mode="lines",
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
                y=[_rounded(scale * y) for y in curve.mean],
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
        if curve.metric is None and min(curve.low) > 0:
            figure.update_yaxes(type="log", **at)
            if max(curve.high) < 2 * max(_LOSS_TICKS):  # a cross entropy's, not a sum of squares
                figure.update_yaxes(tickvals=_LOSS_TICKS, ticktext=[f"{x:g}" for x in _LOSS_TICKS], **at)
    figure.update_xaxes(title="epoch")
    return with_legend(figure)


def _rounded(value: float) -> float:
    """Four decimals, or six figures of what is large or tiny."""
    return round(value, 4) if 0.01 <= abs(value) < 100 else float(f"{value:.6g}")
