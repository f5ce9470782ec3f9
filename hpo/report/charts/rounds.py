"""Charts: the records of `figures.py` drawn with plotly, all in one look.

Colours are Okabe and Ito's, told apart by the colour-blind; what matters also differs in shape or dash, so
that it survives a grey print. Everything is SVG: no WebGL, which prints poorly and is often missing.
"""

import math
from collections.abc import Callable, Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]  # has no types

from hpo.analysis.answers import ErrorGrid
from hpo.analysis.comparison import PUBLISHED_LABEL
from hpo.report.chart_data import BudgetCurve, Curve, RoundsGroup, Search, Trial
from hpo.report.charts.theme import (
    ACROSS,
    GREY,
    INK,
    cell,
    faint,
    figure_of,
    left_axes,
    panels,
    percents,
    safe,
    with_legend,
)
from hpo.results.records import PAPER, TUNED

COLOURS = {"simple": "#0072B2", "ws": "#D55E00", "ws-aux": "#009E73"}
TITLES = {PUBLISHED_LABEL: "published", PAPER: "paper's values", TUNED: "tuned"}
LEVELS = ("#c7c7c7", "#a6bddb", "#67a9cf", "#1c6ea4", "#08306b")  # worst to best, darker in print too
PARAMETER_TITLES = {
    "learning_rate": "learning rate",
    "weight_decay": "weight decay",
    "dropout": "dropout",
    "aux_weight": "aux weight",
    "main_weight": "main weight",
}
_LOWEST_SHOWN = 0.15  # below the best: what is lower stands at the edge, else it squeezes all the rest
_LOSSES = [digit * 10.0**power for power in range(-6, 2) for digit in (1, 2, 5)]  # labels on a logarithmic axis


def rounds_chart(groups: Sequence[RoundsGroup], what: str = "test accuracy (%)") -> go.Figure:
    """Every round's accuracy: points, box, mean with its interval; the published ones as a bar."""
    figure, place, ticks = figure_of(460), 0.0, []
    for before, group in zip([None, *groups], groups, strict=False):
        place += 1.0 if before is None or before.model == group.model else 1.6
        name = "paper's" if group.label == PAPER else _title(group.label)  # short: nine stand side by side
        ticks.append((place, f"{group.model}<br>{name}<br>{group.epochs} epochs"))
        colour = GREY if group.label == PUBLISHED_LABEL else COLOURS[group.model]
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
    figure.update_yaxes(title=what)
    figure.update_layout(margin={"b": 76})  # three lines below the axis
    return figure


def _title(label: str) -> str:
    return TITLES.get(label, safe(label))


def _box(group: RoundsGroup, place: float, colour: str) -> go.Box:
    return go.Box(
        x=[place] * len(group.values),
        y=percents(group.values),
        width=0.62,
        boxpoints=False,
        line={"color": colour, "width": 1.5},
        fillcolor=faint(colour, 0.35 if group.label == TUNED else 0.08),
        hoverinfo="skip",
        showlegend=False,
    )


def _points(group: RoundsGroup, place: float, colour: str) -> go.Scatter:
    # The golden ratio spreads neighbouring rounds evenly and the same in every report.
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
        hovertemplate=f"{group.model}, {_title(group.label)}<br>round %{{customdata}}: %{{y:.2f}}%<extra></extra>",
        showlegend=False,
    )


def _mean(group: RoundsGroup, place: float, colour: str) -> go.Scatter:
    published = group.label == PUBLISHED_LABEL
    mean, low, high = (100 * x for x in (group.mean, group.low, group.high))
    what = "mean ± std, as published" if published else "mean and its 95% interval"
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
        hovertemplate=f"{group.model}, {_title(group.label)}<br>{what}: %{{y:.2f}}%<extra></extra>",
        showlegend=False,
    )


def history_chart(searches: Sequence[Search]) -> go.Figure:
    """Each search as it went: every finished trial, and the best complete one so far."""
    figure = panels([f"{search.study}" for search in searches], 340)
    for index, search in enumerate(searches):
        floor = _floor(search)
        at, first = cell(index), index == 0
        for name, symbol, colour, wanted in _kinds(search.model):
            own = [trial for trial in search.trials if wanted(trial)]
            edge = [t for t in own if t.value < floor and t.state != "diverged"]
            inside = [t for t in own if t not in edge]
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
    """Name, symbol, colour of each kind of trial, and which trials are of it."""
    colour = COLOURS[model]
    return [
        ("random", "circle-open", colour, lambda t: t.state == "complete" and not t.paper and t.random),
        ("proposed", "circle", colour, lambda t: t.state == "complete" and not t.paper and not t.random),
        ("pruned", "x-thin-open", GREY, lambda t: t.state == "pruned" and not t.paper),
        ("diverged", "cross", GREY, lambda t: t.state == "diverged" and not t.paper),
        ("the paper's", "star", INK, lambda t: t.paper),
    ]


def _floor(search: Search) -> float:
    """The lowest accuracy that is drawn in its place."""
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
    """Best validation accuracy against the number of trials: expected of random ones, observed in the search."""
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


def curves_chart(curves: Sequence[Curve]) -> go.Figure:
    """Learning curves by model: the mean over the rounds, the band from the lowest round to the highest."""
    studies = list(dict.fromkeys(curve.study for curve in curves))
    kinds = list(dict.fromkeys(curve.what for curve in curves))
    titles = [f"{study}: {kind}" for kind in kinds for study in studies]
    figure = panels(titles, 300, across=len(studies) if len(studies) <= ACROSS else ACROSS)
    shown: set[str] = set()
    for curve in curves:
        index = kinds.index(curve.what) * len(studies) + studies.index(curve.study)
        at = cell(index, len(studies) if len(studies) <= ACROSS else ACROSS)
        scale = 100 if curve.what == "validation accuracy" else 1
        epochs = list(range(1, len(curve.mean) + 1))
        colour, dash = COLOURS[curve.model], "solid" if curve.label == TUNED else "dash"
        band = [round(scale * y, 4) for y in (*curve.high, *reversed(curve.low))]
        figure.add_trace(
            go.Scatter(
                x=epochs + epochs[::-1],
                y=band,
                fill="toself",
                fillcolor=faint(colour if curve.label == TUNED else GREY, 0.18),
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
                name=_title(curve.label),
                legendgroup=curve.label,
                showlegend=curve.label not in shown,
                hovertemplate=f"{_title(curve.label)}, mean of {curve.runs} rounds<br>epoch %{{x}}: "
                "%{y:.4g}<extra></extra>",
            ),
            **at,
        )
        shown.add(curve.label)
        if curve.what == "training loss":
            figure.update_yaxes(type="log", tickvals=_LOSSES, ticktext=[f"{x:g}" for x in _LOSSES], **at)
    figure.update_xaxes(title="epoch")
    return with_legend(figure)


def parallel_chart(search: Search) -> go.Figure:
    """Parallel coordinates: one line a complete trial over its hyperparameters to its value, darker is better."""
    figure = figure_of(340)
    complete = sorted((t for t in search.trials if t.state == "complete"), key=lambda t: t.value)
    names = [PARAMETER_TITLES.get(name, name) for name in search.names]
    floor = _floor(search)
    top = max((t.value for t in complete), default=1.0)
    span = (floor, top if top > floor else floor + 1e-3, False)
    axes = [*search.ranges, span]
    for level, colour in enumerate(LEVELS):
        own = [t for i, t in enumerate(complete) if i * len(LEVELS) // len(complete) == level]
        x: list[float | None] = []
        y: list[float | None] = []
        for trial in own:
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
    """Where a value stands on its axis, 0 low to 1 high; beyond either end at the end."""
    if log:
        value, low, high = (math.log(max(x, 1e-300)) for x in (value, low, high))
    return min(1.0, max(0.0, (value - low) / (high - low)))


def slices_chart(search: Search) -> go.Figure:
    """Each hyperparameter against the value of the complete trials, the others varying along."""
    names, ranges = list(search.names), list(search.ranges)
    columns = {name: [t.params[i] for t in search.trials] for i, name in enumerate(names)}
    figure = panels([PARAMETER_TITLES.get(name, name) for name in names], 280)
    floor = _floor(search)
    for index, name in enumerate(names):
        at = cell(index)
        for title, symbol, wanted in (("random", "circle-open", True), ("proposed", "circle", False)):
            own = [
                (x, t)
                for x, t in zip(columns[name], search.trials, strict=True)
                if t.state == "complete" and not t.paper and t.random == wanted and not math.isnan(x)
            ]
            figure.add_trace(_slice(own, floor, title, symbol, COLOURS[search.model], index == 0), **at)
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


def errors_chart(grids: Sequence[ErrorGrid]) -> go.Figure:
    """Error rate by the pair's two digits, one panel a configuration, one scale for all."""
    figure = panels([f"{grid.study}, {_title(grid.label)}" for grid in grids], 360)
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
                colorscale=[[0, "#ffffff"], [0.25, "#c6dbef"], [0.6, "#3f7fb5"], [1, "#08306b"]],
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
