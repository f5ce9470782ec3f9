"""Errors by pair of digits, and the confusion matrix of the digits."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]  # has no types

from hpo.digits.answers import ErrorGrid
from hpo.digits.confusion import DigitConfusion
from hpo.digits.idx import CLASSES
from hpo.report.charts.theme import DARK_BLUE, INK, cell, panels, title

_SHARES = [[0, "#ffffff"], [0.4, "#cfe1f0"], [1, "#74a9cf"]]  # pale, for the numbers printed on it
_PALE = [[0, "#eeeeee"], [1, "#eeeeee"]]


def errors_chart(grids: Sequence[ErrorGrid]) -> go.Figure:
    """Error rate by the pair's two digits: one panel per configuration, one scale for all."""
    figure = panels([f"{grid.study}, {title(grid.label)}" for grid in grids], 360)
    rates = [
        [
            [100 * w / n if n else None for w, n in zip(*rows, strict=True)]
            for rows in zip(g.wrong, g.pairs, strict=True)
        ]
        for g in grids
    ]
    highest = max((x for rate in rates for row in rate for x in row if x is not None), default=1.0) or 1.0
    digits = list(range(10))
    for index, (grid, rate) in enumerate(zip(grids, rates, strict=True)):
        figure.add_trace(
            go.Heatmap(
                x=digits,
                y=digits,
                z=[[None if x is None else round(x, 1) for x in row] for row in rate],
                zmin=0,
                zmax=highest,
                colorscale=[[0, "#ffffff"], [0.25, "#c6dbef"], [0.6, "#3f7fb5"], [1, DARK_BLUE]],
                showscale=index == 0,
                colorbar={"title": {"text": "wrong %"}, "thickness": 12},
                customdata=grid.pairs,
                hovertemplate="%{y} then %{x}: %{z}% of %{customdata} pairs wrong<extra></extra>",
                xgap=1,
                ygap=1,
            ),
            **cell(index),
        )
    figure.update_xaxes(title="digit 2", dtick=1, showgrid=False)
    figure.update_yaxes(title="digit 1", dtick=1, showgrid=False, autorange="reversed")
    return figure


def confusion_chart(confusions: Sequence[DigitConfusion]) -> go.Figure:
    """Predicted by true digit, in percent of the true digit's images; the diagonal is grey, or it would dominate."""
    figure = panels([f"{confusion.study}, {title(confusion.label)}" for confusion in confusions], 420, across=2)
    if len(confusions) == 1:
        figure.update_xaxes(domain=[0, 0.55])  # square cells
        figure.update_annotations(x=0.275)
    shares = [[_shares(confusion, i) for i in range(CLASSES)] for confusion in confusions]
    others = [x for table in shares for i, row in enumerate(table) for j, x in enumerate(row) if i != j]
    highest = max((x for x in others if x is not None), default=0) or 1.0
    for index, (confusion, table) in enumerate(zip(confusions, shares, strict=True)):
        off = [[None if i == j else x for j, x in enumerate(row)] for i, row in enumerate(table)]
        on = [[x if i == j else None for j, x in enumerate(row)] for i, row in enumerate(table)]
        for z, scale, top in ((off, _SHARES, highest), (on, _PALE, 100.0)):
            figure.add_trace(_cells(confusion, z, scale, top), **cell(index, 2))
    figure.update_xaxes(title="classified as", dtick=1, showgrid=False)
    figure.update_yaxes(title="true digit", dtick=1, showgrid=False, autorange="reversed")
    return figure


def _shares(confusion: DigitConfusion, digit: int) -> list[float | None]:
    total = sum(confusion.said[digit])
    return [round(100 * n / total, 2) if total else None for n in confusion.said[digit]]


def _cells(confusion: DigitConfusion, z: list[list[float | None]], scale: list[list[Any]], top: float) -> go.Heatmap:
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
        customdata=confusion.said,
        hovertemplate="%{y} classified as %{x}: %{z}%, %{customdata} images<extra></extra>",
        hoverongaps=False,
        xgap=1,
        ygap=1,
    )
