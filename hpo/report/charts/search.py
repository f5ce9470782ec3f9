"""The searches: history, budget, parallel coordinates, slices."""

import math
from collections.abc import Callable, Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]  # has no types

from hpo.analysis.search_history import BudgetCurve, SearchHistory, Trial
from hpo.report.charts.theme import (
    BLUE,
    COLOURS,
    DARK_BLUE,
    GREY,
    INK,
    PARAMETER_TITLES,
    cell,
    empty_figure,
    left_axes,
    panels,
    percents,
    with_legend,
)

LEVELS = ("#c7c7c7", "#a6bddb", "#67a9cf", BLUE, DARK_BLUE)  # worst to best, darker in print too


_LOWEST_SHOWN = 0.15  # below the best accuracy; lower trials are drawn at the edge, or they would squeeze the rest


def history_chart(searches: Sequence[SearchHistory]) -> go.Figure:
    """One panel per search: every finished trial in order, and the best complete one so far."""
    figure = panels([f"{search.study}" for search in searches], 340)
    for index, search in enumerate(searches):
        floor = _floor(search)
        at, first = cell(index), index == 0
        for name, symbol, colour, wanted in _kinds(search.model):
            trials = [trial for trial in search.trials if wanted(trial)]
            edge = [t for t in trials if t.value < floor and t.state != "diverged"]
            inside = [t for t in trials if t not in edge]
            figure.add_trace(_trials(inside, floor, name, symbol, colour, legend=first), **at)
            if edge:
                figure.add_trace(_trials(edge, floor, name, "triangle-down-open", colour, legend=False), **at)
        best = [(t.order, b) for t, b in zip(search.trials, search.incumbent, strict=True) if not math.isnan(b)]
        figure.add_trace(
            go.Scatter(
                x=[order for order, _ in best],
                y=percents(b for _, b in best),
                mode="lines",
                line={"shape": "hv", "color": INK, "width": 1.5},
                name="best so far",
                legendgroup="best",
                showlegend=first,
                hoverinfo="skip",
            ),
            **at,
        )
    figure.update_xaxes(title="finished trials")
    left_axes(figure, len(searches), "validation accuracy (%)")
    return with_legend(figure)


def _kinds(model: str) -> list[tuple[str, str, str, Callable[[Trial], bool]]]:
    """Name, symbol and colour of each kind of trial, and whether a trial is of that kind."""
    colour = COLOURS[model]
    return [
        ("random", "circle-open", colour, lambda t: t.state == "complete" and not t.paper and t.random),
        ("proposed", "circle", colour, lambda t: t.state == "complete" and not t.paper and not t.random),
        ("pruned", "x-thin-open", GREY, lambda t: t.state == "pruned" and not t.paper),
        ("diverged", "cross", GREY, lambda t: t.state == "diverged" and not t.paper),
        ("the paper's", "star", INK, lambda t: t.paper),
    ]


def _floor(search: SearchHistory) -> float:
    """The lowest accuracy drawn at its true height."""
    values = [trial.value for trial in search.trials]
    best = max(values, default=1.0)
    return max(min(values, default=0.0), best - _LOWEST_SHOWN)


def _trials(trials: Sequence[Trial], floor: float, name: str, symbol: str, colour: str, legend: bool) -> go.Scatter:
    return go.Scatter(
        x=[trial.order for trial in trials],
        y=percents(max(trial.value, floor) for trial in trials),
        mode="markers",
        name=name,
        legendgroup=name,
        showlegend=legend,
        marker={
            "symbol": symbol,
            "size": 11 if symbol == "star" else 7,
            "color": colour,
        },
        customdata=[[t.number, round(100 * t.value, 2), t.state, t.epochs] for t in trials],
        hovertemplate="trial %{customdata[0]}: %{customdata[1]}%<br>%{customdata[2]} after "
        "%{customdata[3]} epochs<extra></extra>",
    )


def budget_chart(curves: Sequence[BudgetCurve]) -> go.Figure:
    """Best validation accuracy by number of trials: expected of random search, and observed in this search."""
    figure = panels([curve.study for curve in curves], 300)
    for index, curve in enumerate(curves):
        observed = [(k, v) for k, v in enumerate(curve.observed, start=1) if not math.isnan(v)]
        for name, points, dash, colour in (
            ("random trials, expected", list(enumerate(curve.random, start=1)), "dash", INK),
            ("this search, observed", observed, "solid", COLOURS[curve.model]),
        ):
            figure.add_trace(
                go.Scatter(
                    x=[k for k, _ in points],
                    y=percents(v for _, v in points),
                    mode="lines",
                    line={"color": colour, "dash": dash, "width": 2, "shape": "hv" if dash == "solid" else "linear"},
                    name=name,
                    legendgroup=name,
                    showlegend=index == 0,
                    hovertemplate=f"{name}<br>%{{x}} trials: %{{y:.2f}}%<extra></extra>",
                ),
                **cell(index),
            )
    figure.update_xaxes(title="trials")
    left_axes(figure, len(curves), "best validation accuracy (%)")
    return with_legend(figure)


def parallel_chart(search: SearchHistory) -> go.Figure:
    """Parallel coordinates: one line per complete trial, from its hyperparameters to its accuracy; dark is good."""
    figure = empty_figure(340)
    complete = sorted((t for t in search.trials if t.state == "complete"), key=lambda t: t.value)
    names = [PARAMETER_TITLES.get(name, name) for name in search.names]
    floor = _floor(search)
    top = max((t.value for t in complete), default=1.0)
    span = (floor, top if top > floor else floor + 1e-3, False)
    axes = [*search.ranges, span]
    for level, colour in enumerate(LEVELS):
        fifth = [t for i, t in enumerate(complete) if i * len(LEVELS) // len(complete) == level]
        x: list[float | None] = []
        y: list[float | None] = []
        for trial in fifth:
            heights = (_height(v, *axis) for v, axis in zip((*trial.params, trial.value), axes, strict=True))
            x += [*range(len(axes)), None]
            y += [*(round(h, 4) for h in heights), None]
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                line={"color": colour, "width": 1 + 0.25 * level},
                name=("worst fifth", "", "middle", "", "best fifth")[level],
                showlegend=level in (0, 2, 4),
                hoverinfo="skip",
            )
        )
    for place, axis in enumerate(axes):
        scale = 100 if place == len(axes) - 1 else 1
        for height, value in ((-0.06, axis[0]), (1.06, axis[1])):
            figure.add_annotation(x=place, y=height, text=f"{scale * value:.3g}", showarrow=False, font={"size": 11})
        figure.add_vline(x=place, line={"color": GREY, "width": 1})
    figure.update_xaxes(
        tickvals=list(range(len(axes))), ticktext=[*names, "validation accuracy (%)"], showgrid=False, zeroline=False
    )
    figure.update_yaxes(visible=False, range=[-0.12, 1.12])
    figure.update_xaxes(showline=False)
    figure.update_layout(margin={"r": 80})  # the last axis has a long name
    return with_legend(figure)


def _height(value: float, low: float, high: float, log: bool) -> float:
    """A value's height on its axis, from 0 (low) to 1 (high); values beyond an end are at that end."""
    if log:
        value, low, high = (math.log(max(x, 1e-300)) for x in (value, low, high))
    return min(1.0, max(0.0, (value - low) / (high - low)))


def slices_chart(search: SearchHistory) -> go.Figure:
    """Accuracy of the complete trials against each hyperparameter, the others varying too."""
    names, ranges = list(search.names), list(search.ranges)
    columns = {name: [t.params[i] for t in search.trials] for i, name in enumerate(names)}
    figure = panels([PARAMETER_TITLES.get(name, name) for name in names], 280)
    floor = _floor(search)
    for index, name in enumerate(names):
        at = cell(index)
        for title, symbol, wanted in (("random", "circle-open", True), ("proposed", "circle", False)):
            points = [
                (x, t)
                for x, t in zip(columns[name], search.trials, strict=True)
                if t.state == "complete" and not t.paper and t.random == wanted and not math.isnan(x)
            ]
            figure.add_trace(_slice(points, floor, title, symbol, COLOURS[search.model], index == 0), **at)
        paper = [(x, t) for x, t in zip(columns[name], search.trials, strict=True) if t.paper and not math.isnan(x)]
        figure.add_trace(_slice(paper, floor, "the paper's", "star", INK, index == 0), **at)
        low, high, log = ranges[index]
        low, high = (math.log10(low), math.log10(high)) if log else (low, high)
        margin = 0.04 * (high - low)
        figure.update_xaxes(range=[low - margin, high + margin], **at)
        if log:
            figure.update_xaxes(type="log", exponentformat="power", dtick=1, tickfont={"size": 10}, **at)
    left_axes(figure, len(names), "validation accuracy (%)")
    return with_legend(figure)


def _slice(
    points: Sequence[tuple[float, Trial]], floor: float, name: str, symbol: str, colour: str, legend: bool
) -> go.Scatter:
    return go.Scatter(
        x=[float(f"{x:.5g}") for x, _ in points],
        y=percents(max(trial.value, floor) for _, trial in points),
        mode="markers",
        name=name,
        legendgroup=name,
        showlegend=legend,
        marker={"symbol": symbol, "size": 12 if symbol == "star" else 7, "color": colour},
        customdata=[[trial.number, round(100 * trial.value, 2)] for _, trial in points],
        hovertemplate="trial %{customdata[0]}: %{customdata[1]}%<br>%{x}<extra></extra>",
    )
