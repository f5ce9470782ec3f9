"""The searches: history, budget, parallel coordinates, slices."""

import math
from collections.abc import Callable, Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]  # has no types

from hpo.analysis.search_history import BudgetCurve, SearchHistory, Trial
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Choice, Hyperparameter, Value
from hpo.report.charts.theme import (
    BLUE,
    DARK_BLUE,
    GREY,
    INK,
    cell,
    colours_of,
    empty_figure,
    left_axes,
    panels,
    parameter_title,
    safe,
    two_lines,
    with_legend,
)
from hpo.report.formats import Scale, references

LEVELS = ("#c7c7c7", "#a6bddb", "#67a9cf", BLUE, DARK_BLUE)  # worst to best, darker in print too


_LOWEST_SHOWN = 0.15  # below the best accuracy; lower trials are drawn at the edge, or they would squeeze the rest
_WIDEST = 4.0  # of another metric: so many times as far from the best as the middle trial


def history_chart(searches: Sequence[SearchHistory], models: Sequence[str] = ()) -> go.Figure:
    """One panel per search: every finished trial in order, and the best complete one so far; all of one metric."""
    figure = panels([f"{search.study}" for search in searches], 340)
    colours = colours_of([*models, *(search.model for search in searches)])
    for index, search in enumerate(searches):
        edge_value = _edge(search)
        at, first, scale = cell(index), index == 0, Scale(search.metric)
        for name, symbol, colour, wanted in _kinds(search, colours[search.model]):
            trials = [trial for trial in search.trials if wanted(trial)]
            beyond = [t for t in trials if _is_beyond(t.value, edge_value, search.metric) and t.state != "diverged"]
            inside = [t for t in trials if t not in beyond]
            triangle = "triangle-down-open" if search.metric.maximize else "triangle-up-open"
            figure.add_trace(_trials(inside, search, edge_value, name, symbol, colour, legend=first), **at)
            if beyond:
                figure.add_trace(_trials(beyond, search, edge_value, name, triangle, colour, legend=False), **at)
        best = [(t.order, b) for t, b in zip(search.trials, search.incumbent, strict=True) if not math.isnan(b)]
        figure.add_trace(
            go.Scatter(
                x=[order for order, _ in best],
                y=scale.drawn(_inside(b, edge_value, search.metric) for _, b in best),
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
    left_axes(figure, len(searches), Scale(searches[0].metric).axis("validation"))
    return with_legend(figure)


def _kinds(search: SearchHistory, colour: str) -> list[tuple[str, str, str, Callable[[Trial], bool]]]:
    """Name, symbol and colour of each kind of trial, and whether a trial is of that kind."""
    return [
        ("random", "circle-open", colour, lambda t: t.state == "complete" and not t.reference and t.random),
        ("proposed", "circle", colour, lambda t: t.state == "complete" and not t.reference and not t.random),
        ("pruned", "x-thin-open", GREY, lambda t: t.state == "pruned" and not t.reference),
        ("diverged", "cross", GREY, lambda t: t.state == "diverged" and not t.reference),
        (references(search.reference_label), "star", INK, lambda t: t.reference),
    ]


def _edge(search: SearchHistory) -> float:
    """The worst value drawn at its true height."""
    sign = search.metric.sign
    values = sorted((sign * trial.value for trial in search.trials if trial.state != "diverged"), reverse=True)
    if Scale(search.metric).is_percent:  # those that diverged stand at chance, which is near enough
        values = [trial.value for trial in search.trials]
        return max(min(values, default=0.0), max(values, default=1.0) - _LOWEST_SHOWN)
    if not values:
        return search.metric.diverged
    reach = _WIDEST * (values[0] - values[len(values) // 2])
    return sign * max(values[-1], values[0] - reach if reach > 0 else values[-1])


def _is_beyond(x: float, edge: float, metric: MetricInfo) -> bool:
    return metric.sign * x < metric.sign * edge


def _inside(x: float, edge: float, metric: MetricInfo) -> float:
    """A value, or the edge where it lies beyond."""
    return edge if _is_beyond(x, edge, metric) else x


def _trials(
    trials: Sequence[Trial], search: SearchHistory, edge: float, name: str, symbol: str, colour: str, legend: bool
) -> go.Scatter:
    scale = Scale(search.metric)
    return go.Scatter(
        x=[trial.order for trial in trials],
        y=scale.drawn(_inside(trial.value, edge, search.metric) for trial in trials),
        mode="markers",
        name=name,
        legendgroup=name,
        showlegend=legend,
        marker={
            "symbol": symbol,
            "size": 11 if symbol == "star" else 7,
            "color": colour,
        },
        customdata=[[t.number, scale.value(t.value, 2), _ending(t)] for t in trials],
        hovertemplate="trial %{customdata[0]}: %{customdata[1]}<br>%{customdata[2]}<extra></extra>",
    )


def _ending(trial: Trial) -> str:
    """How a trial ended, and after how many epochs where it has any."""
    return f"{trial.state} after {trial.epochs} epochs" if trial.epochs else trial.state


def budget_chart(curves: Sequence[BudgetCurve], models: Sequence[str] = ()) -> go.Figure:
    """Best value by number of trials: expected of random search, and observed in this search; all of one metric."""
    figure = panels([curve.study for curve in curves], 300)
    colours = colours_of([*models, *(curve.model for curve in curves)])
    for index, curve in enumerate(curves):
        observed = [(k, v) for k, v in enumerate(curve.observed, start=1) if not math.isnan(v)]
        scale = Scale(curve.metric)
        ends = [[(k, v) for k, v in enumerate(end, start=1) if v is not None] for end in (curve.worst, curve.best)]
        for place, (name, points, dash, colour) in enumerate(
            (
                ("random trials, median", list(enumerate(curve.random, start=1)), "dash", INK),
                ("95% band", ends[0], "dot", INK),
                ("95% band", ends[1], "dot", INK),
                ("this search, observed", observed, "solid", colours[curve.model]),
            )
        ):
            figure.add_trace(
                go.Scatter(
                    x=[k for k, _ in points],
                    y=scale.drawn(v for _, v in points),
                    mode="lines",
                    line={
                        "color": colour,
                        "dash": dash,
                        "width": 1 if dash == "dot" else 2,
                        "shape": "hv" if dash == "solid" else "linear",
                    },
                    name=name,
                    legendgroup=name,
                    showlegend=index == 0 and place != 2,  # the band has two ends
                    hovertemplate=f"{name}<br>%{{x}} trials: %{{y:{scale.hover}<extra></extra>",
                ),
                **cell(index),
            )
    figure.update_xaxes(title="trials")
    left_axes(figure, len(curves), f"best {Scale(curves[0].metric).axis('validation')}")
    return with_legend(figure)


_BLANK = -0.14  # height of what is inactive: below the axis


def parallel_chart(search: SearchHistory) -> go.Figure:
    """Parallel coordinates: one line per complete trial, from its hyperparameters to its value; dark is good."""
    sign, scale = search.metric.sign, Scale(search.metric)
    complete = sorted((t for t in search.trials if t.state == "complete"), key=lambda t: sign * t.value)
    names = [parameter_title(name) for name in search.names]
    worst = _edge(search)
    best = complete[-1].value if complete else worst
    last = len(search.names)
    figure = empty_figure(340)
    for level, colour in enumerate(LEVELS):
        fifth = [t for i, t in enumerate(complete) if i * len(LEVELS) // len(complete) == level]
        x: list[float | None] = []
        y: list[float | None] = []
        for trial in fifth:
            heights = [_height(v, p) for v, p in zip(trial.params, search.parameters, strict=True)]
            x += [*range(last + 1), None]
            y += [*(round(h, 4) for h in heights), round(_share(trial.value, worst, best), 4), None]
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
    for place, parameter in enumerate(search.parameters):
        for height, text in _labels(parameter):
            figure.add_annotation(x=place, y=height, text=safe(text), showarrow=False, font={"size": 11})
        if any(trial.params[place] is None for trial in complete):
            figure.add_annotation(x=place, y=_BLANK - 0.06, text="inactive", showarrow=False, font={"size": 10})
    for height, shown in ((-0.06, worst), (1.06, best)):
        text = f"{100 * shown:.3g}" if scale.is_percent else scale.number(shown, 1)
        figure.add_annotation(x=last, y=height, text=text, showarrow=False, font={"size": 11})
    for place in range(last + 1):
        figure.add_vline(x=place, line={"color": GREY, "width": 1})
    titles = [*names, two_lines(scale.axis("validation"))]
    figure.update_xaxes(tickvals=list(range(last + 1)), ticktext=titles, showgrid=False, zeroline=False)
    blanks = any(value is None for trial in complete for value in trial.params)
    figure.update_yaxes(visible=False, range=[_BLANK - 0.12 if blanks else -0.12, 1.12])
    figure.update_xaxes(showline=False)
    figure.update_layout(margin={"r": 80})  # the last axis has a long name
    return with_legend(figure)


def _labels(parameter: Hyperparameter) -> list[tuple[float, str]]:
    """What stands along an axis, and how high: the ends of a range, or every value of a choice."""
    if isinstance(parameter, Choice):
        return [(_height(x, parameter) + 0.06, str(x)) for x in parameter.values]
    return [(-0.06, f"{parameter.low:.3g}"), (1.06, f"{parameter.high:.3g}")]


def _height(x: Value | None, parameter: Hyperparameter) -> float:
    """A value's height on its axis, from 0 (low) to 1 (high); what is inactive lies below the axis."""
    if x is None:
        return _BLANK
    if isinstance(parameter, Choice):
        return parameter.values.index(x) / (len(parameter.values) - 1)
    number, low, high = float(x), float(parameter.low), float(parameter.high)
    if parameter.log:
        number, low, high = (math.log(max(v, 1e-300)) for v in (number, low, high))
    return _share(number, low, high)


def _share(x: float, low: float, high: float) -> float:
    """How far from low to high, which may be the lower number; values beyond an end are at that end."""
    return min(1.0, max(0.0, (x - low) / ((high - low) or 1e-300)))


def slices_chart(search: SearchHistory, models: Sequence[str] = ()) -> go.Figure:
    """The complete trials' values against each hyperparameter, the others varying too; inactive ones are left out."""
    figure = panels([parameter_title(name) for name in search.names], 280)
    colour = colours_of([*models, search.model])[search.model]
    for index, parameter in enumerate(search.parameters):
        at = cell(index)
        complete = [t for t in search.trials if t.params[index] is not None]
        for title, symbol, drawn, trials in (
            ("random", "circle-open", colour, [t for t in complete if _is_sampled(t) and t.random]),
            ("proposed", "circle", colour, [t for t in complete if _is_sampled(t) and not t.random]),
            (references(search.reference_label), "star", INK, [t for t in complete if t.reference]),
        ):
            figure.add_trace(_slice(trials, index, search, title, symbol, drawn, index == 0), **at)
        _axis(figure, parameter, at)
    left_axes(figure, len(search.names), Scale(search.metric).axis("validation"))
    return with_legend(figure)


def _is_sampled(trial: Trial) -> bool:
    return trial.state == "complete" and not trial.reference


def _axis(figure: go.Figure, parameter: Hyperparameter, at: dict[str, int]) -> None:
    """The whole searched range; the values of a choice in their order."""
    if isinstance(parameter, Choice):
        names = [str(x) for x in parameter.values]
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=names, **at)
        figure.update_xaxes(range=[-0.5, len(names) - 0.5], **at)
        return
    low, high = float(parameter.low), float(parameter.high)
    low, high = (math.log10(low), math.log10(high)) if parameter.log else (low, high)
    margin = 0.04 * (high - low)
    figure.update_xaxes(range=[low - margin, high + margin], **at)
    if parameter.log:
        figure.update_xaxes(type="log", exponentformat="power", dtick=1, tickfont={"size": 10}, **at)


def _slice(
    trials: Sequence[Trial], index: int, search: SearchHistory, name: str, symbol: str, colour: str, legend: bool
) -> go.Scatter:
    scale, edge, chosen = Scale(search.metric), _edge(search), isinstance(search.parameters[index], Choice)
    values = [trial.params[index] for trial in trials]
    return go.Scatter(
        x=[str(x) if chosen else float(f"{float(x or 0):.5g}") for x in values],
        y=scale.drawn(_inside(trial.value, edge, search.metric) for trial in trials),
        mode="markers",
        name=name,
        legendgroup=name,
        showlegend=legend,
        marker={"symbol": symbol, "size": 12 if symbol == "star" else 7, "color": colour},
        customdata=[[trial.number, scale.value(trial.value, 2)] for trial in trials],
        hovertemplate="trial %{customdata[0]}: %{customdata[1]}<br>%{x}<extra></extra>",
    )
