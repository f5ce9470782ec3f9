"""Dependence between hyperparameters: importance, effects, interactions, contours."""

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]  # has no types

from hpo.analysis.dependence.encoding import RELATIVE_DECAY, WEIGHT_RATIO, Coordinate
from hpo.analysis.dependence.interactions import Contour, Dependence
from hpo.experiment.spaces import Value
from hpo.report.charts.theme import (
    BLUE,
    INK,
    cell,
    colours_of,
    left_axes,
    panels,
    parameter_title,
    percents,
    safe,
    with_legend,
)
from hpo.report.formats import Scale, values_of

_DERIVED = {WEIGHT_RATIO: "main : aux weight", RELATIVE_DECAY: "relative decay"}
_STRENGTHS = [[0, "#ffffff"], [0.5, "#8fb8d8"], [1, BLUE]]
_HEIGHTS = [[0, "#f7f7f7"], [0.5, "#c9d9e6"], [1, "#7aa5c4"]]  # pale, for the lines, labels and points on it


def coordinate_title(name: str) -> str:
    """A hyperparameter's name, or that of a coordinate made of several."""
    return _DERIVED.get(name) or parameter_title(name)


def importance_chart(dependences: Sequence[Dependence], models: Sequence[str] = ()) -> go.Figure:
    """Three measures per coordinate, distinguished by hatching too, and what PED-ANOVA gives by chance."""
    figure = panels([dependence.study for dependence in dependences], 300)
    colours = _colours(dependences, models)
    for index, dependence in enumerate(dependences):
        assert dependence.answer is not None
        importances, colour, at = (
            dependence.answer.importances[::-1],
            colours[dependence.model],
            cell(index),
        )  # first on top
        names = [_two_lines(i.name) for i in importances]
        for name, values, pattern, fill in (
            ("surrogate: with interactions", [i.total for i in importances], "", "white"),
            ("surrogate: alone", [i.main for i in importances], "", colour),
            ("PED-ANOVA", [i.ped_anova for i in importances], "/", "white"),
        ):
            figure.add_trace(
                go.Bar(
                    y=names,
                    x=percents(values),
                    orientation="h",
                    name=name,
                    legendgroup=name,
                    showlegend=index == 0,
                    marker={
                        "color": fill,
                        "line": {"color": colour, "width": 1.2},
                        "pattern": {"shape": pattern, "fgcolor": colour, "size": 6},
                    },
                    hovertemplate=f"%{{y}}<br>{name}: %{{x:.0f}}%<extra></extra>",
                ),
                **at,
            )
        figure.add_trace(
            go.Scatter(
                y=names,
                x=percents(i.ped_chance for i in importances),
                mode="markers",
                marker={"symbol": "line-ns-open", "size": 16, "color": INK, "line": {"width": 2}},
                name="PED-ANOVA by chance (95%)",
                legendgroup="chance",
                showlegend=index == 0,
                hovertemplate="%{y}<br>by chance up to %{x:.0f}%<extra></extra>",
            ),
            **at,
        )
    figure.update_xaxes(title="share (%)", range=[0, 105])
    figure.update_yaxes(showgrid=False, automargin=True)
    figure.update_layout(barmode="group", bargap=0.3, legend={"traceorder": "reversed"})
    return with_legend(figure)


def effects_chart(dependence: Dependence, models: Sequence[str] = ()) -> go.Figure:
    """The effect of each coordinate alone, averaged over the others, with the trials; dashed where the fit is poor."""
    assert dependence.answer is not None
    effects, good = dependence.answer.effects, dependence.answer.quality.good
    scale, colours = Scale(dependence.metric), _colours([dependence], models)
    figure = panels([coordinate_title(effect.name) for effect in effects], 260)
    hover = f"%{{x}}: %{{y:{scale.short_hover}<extra></extra>"
    for index, (effect, coordinate) in enumerate(zip(effects, dependence.answer.coordinates, strict=True)):
        at, first = cell(index), index == 0
        figure.add_trace(
            go.Scatter(
                x=[_rounded(x) for x, _ in effect.trials],
                y=scale.drawn(y for _, y in effect.trials),
                mode="markers",
                marker={"symbol": "circle-open", "size": 7, "color": colours[dependence.model]},
                name="random trials",
                legendgroup="trials",
                showlegend=first,
                hovertemplate=hover,
            ),
            **at,
        )
        figure.add_trace(
            go.Scatter(
                x=[_rounded(x) for x in effect.at],
                y=scale.drawn(effect.values),
                mode="markers" if coordinate.choices else "lines",
                marker={"symbol": "line-ew-open", "size": 16, "color": INK, "line": {"width": 2}},
                line={"color": INK, "width": 2, "dash": "solid" if good else "dash"},
                name="the surrogate, others averaged" if good else "the surrogate's guess (poor fit), others averaged",
                legendgroup="line",
                showlegend=first,
                hovertemplate=hover,
            ),
            **at,
        )
        _axis(figure, coordinate, at, "x")
    left_axes(figure, len(effects), scale.axis("validation"))
    return with_legend(figure)


def interactions_chart(dependences: Sequence[Dependence]) -> go.Figure:
    """Friedman's H of every pair, one panel per model; a star marks pairs that interact more than by chance."""
    figure = panels([dependence.study for dependence in dependences], 360)
    for index, dependence in enumerate(dependences):
        assert dependence.answer is not None
        names = [c.name for c in dependence.answer.coordinates]
        titles = [_two_lines(name) for name in names]
        strengths: dict[tuple[int, int], tuple[float, str]] = {}
        for pair in dependence.answer.pairs:
            a, b = names.index(pair.a), names.index(pair.b)
            text = f"{pair.h:.2f}{'*' if pair.clear else ''}<br>p {pair.p_holm or 0:.2g}"
            strengths[a, b] = strengths[b, a] = (round(pair.h, 3), text)
        both = [[strengths.get((i, j)) for j in range(len(names))] for i in range(len(names))]
        figure.add_trace(
            go.Heatmap(
                x=titles,
                y=titles,
                z=[[None if x is None else x[0] for x in row] for row in both],
                text=[["" if x is None else x[1] for x in row] for row in both],
                texttemplate="%{text}",
                textfont={"color": INK, "size": 12},
                zmin=0,
                zmax=1,
                colorscale=_STRENGTHS,
                showscale=False,  # the numbers are in the cells
                hovertemplate="%{y}, %{x}: H %{z}<extra></extra>",
                xgap=2,
                ygap=2,
            ),
            **cell(index),
        )
        axis = "x" if index == 0 else f"x{index + 1}"
        figure.update_yaxes(scaleanchor=axis, constrain="domain", **cell(index))  # square cells
    figure.update_xaxes(showgrid=False, tickangle=0, constrain="domain")
    figure.update_yaxes(showgrid=False, autorange="reversed", automargin=True)
    return figure


def contours_chart(dependences: Sequence[Dependence], models: Sequence[str] = ()) -> go.Figure:
    """The strongest pair of each model, all of one metric: the surrogate's prediction, the trials, and the tuned
    configurations."""
    colours = _colours(dependences, models)
    shown = [
        (dependence, dependence.answer, dependence.answer.contour)
        for dependence in dependences
        if dependence.answer and dependence.answer.contour
    ]
    figure = panels([dependence.study for dependence, _, _ in shown], 380, across=2)
    for index, (dependence, answer, contour) in enumerate(shown):
        at, first = cell(index, 2), index == 0
        figure.add_trace(_surface(contour, answer.coordinates, Scale(dependence.metric)), **at)
        search = answer.coordinate_search
        places = [
            ("random trials", [(a, b) for a, b, _ in contour.trials], "circle-open", colours[dependence.model], 7)
        ]
        if search is not None:
            for name, place, symbol, size in (
                (values_of(dependence.reference_label), search.reference, "star", 13),
                ("one at a time, one pass", search.once, "square-open", 15),
                ("joint optimum", search.joint, "x", 9),
            ):
                places.append((name, [(place.params[contour.a], place.params[contour.b])], symbol, INK, size))
        for name, points, symbol, colour, size in places:
            figure.add_trace(
                go.Scatter(
                    x=[_rounded(x) for x, _ in points],
                    y=[_rounded(y) for _, y in points],
                    mode="markers",
                    marker={"symbol": symbol, "size": size, "color": colour, "line": {"width": 1.8}},
                    name=name,
                    legendgroup=name,
                    showlegend=first,
                    cliponaxis=False,
                    hovertemplate=f"{name}<br>%{{x}}, %{{y}}<extra></extra>",
                ),
                **at,
            )
        for name, axis in ((contour.a, "x"), (contour.b, "y")):
            coordinate = next(c for c in answer.coordinates if c.name == name)
            _axis(figure, coordinate, at, axis)
            (figure.update_xaxes if axis == "x" else figure.update_yaxes)(title=coordinate_title(name), **at)
    return with_legend(figure)


def _surface(contour: Contour, coordinates: Sequence[Coordinate], scale: Scale) -> go.Contour | go.Heatmap:
    """Contour lines between numbers; fields where one of the two is a choice, between whose values is nothing."""
    x, y = ([_rounded(at) for at in places] for places in (contour.at_a, contour.at_b))
    hover = f"%{{x}}, %{{y}}: %{{z:{scale.short_hover}<extra></extra>"
    if any(c.choices for c in coordinates if c.name in (contour.a, contour.b)):
        z = [scale.drawn(row) for row in contour.values]
        return go.Heatmap(x=x, y=y, z=z, colorscale=_HEIGHTS, colorbar={"thickness": 12}, hovertemplate=hover)
    values = [x for row in contour.values for x in row]
    steps = (max(values) - min(values)) / 9
    steps = max(100 * steps, 0.02) if scale.is_percent else steps or 1.0
    return go.Contour(
        x=x,
        y=y,
        z=[[round(100 * v, 2) for v in row] if scale.is_percent else scale.drawn(row) for row in contour.values],
        colorscale=_HEIGHTS,
        contours={"showlabels": True, "size": float(f"{steps:.1g}"), "labelfont": {"color": INK, "size": 11}},
        autocontour=False,
        line={"color": "#555555", "width": 1},
        showscale=False,
        hovertemplate=hover.replace("{x}", "{x:.3g}").replace("{y}", "{y:.3g}"),
    )


def _colours(dependences: Sequence[Dependence], models: Sequence[str]) -> dict[str, str]:
    return colours_of([*models, *(dependence.model for dependence in dependences)])


def _axis(figure: go.Figure, coordinate: Coordinate, at: dict[str, int], axis: str) -> None:
    update = figure.update_xaxes if axis == "x" else figure.update_yaxes
    if coordinate.choices:
        order = [str(_rounded(choice)) for choice in coordinate.choices]
        update(type="category", categoryorder="array", categoryarray=order, **at)
    if coordinate.log:
        update(type="log", exponentformat="power", dtick=1, tickfont={"size": 10}, **at)


def _two_lines(name: str) -> str:
    """A title in two lines, so that panels side by side do not overlap."""
    return coordinate_title(name).replace(" : ", ":").replace(" ", "<br>", 1)


def _rounded(x: Value) -> float | str:
    return safe(str(x)) if isinstance(x, str | bool) else float(f"{x:.4g}")
