"""Charts of `dependence.py`'s records, in the look of all the others: importance, effects, interactions, contour."""

from collections.abc import Sequence

import plotly.graph_objects as go  # type: ignore[import-untyped]  # has no types

from hpo.analysis.dependence.encoding import RELATIVE_DECAY, WEIGHT_RATIO, Coordinate
from hpo.analysis.dependence.interactions import Dependence
from hpo.report.charts.theme import COLOURS, INK, PARAMETER_TITLES, cell, left_axes, panels, percents, with_legend

TITLES = {**PARAMETER_TITLES, WEIGHT_RATIO: "main : aux weight", RELATIVE_DECAY: "relative decay"}
_STRENGTHS = [[0, "#ffffff"], [0.5, "#8fb8d8"], [1, "#1c6ea4"]]
_HEIGHTS = [[0, "#f7f7f7"], [0.5, "#c9d9e6"], [1, "#7aa5c4"]]  # pale: lines, labels and points stand on it


def importance_chart(found: Sequence[Dependence]) -> go.Figure:
    """Three measures a coordinate, told apart by hatching too, and what PED-ANOVA gives by chance."""
    figure = panels([one.study for one in found], 300)
    for index, one in enumerate(found):
        assert one.answer is not None
        importances, colour, at = one.answer.importances[::-1], COLOURS[one.model], cell(index)  # first on top
        names = [_broken(i.name) for i in importances]
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


def effects_chart(one: Dependence) -> go.Figure:
    """Each coordinate's own effect, the others averaged, through the trials; dashed where the fit is poor."""
    assert one.answer is not None
    effects, good = one.answer.effects, one.answer.quality.good
    figure = panels([TITLES.get(effect.name, effect.name) for effect in effects], 260)
    for index, (effect, coordinate) in enumerate(zip(effects, one.answer.coordinates, strict=True)):
        at, first = cell(index), index == 0
        figure.add_trace(
            go.Scatter(
                x=[_short(x) for x, _ in effect.trials],
                y=percents(y for _, y in effect.trials),
                mode="markers",
                marker={"symbol": "circle-open", "size": 7, "color": COLOURS[one.model]},
                name="random trials",
                legendgroup="trials",
                showlegend=first,
                hovertemplate="%{x}: %{y:.1f}%<extra></extra>",
            ),
            **at,
        )
        figure.add_trace(
            go.Scatter(
                x=[_short(x) for x in effect.at],
                y=percents(effect.accuracy),
                mode="lines",
                line={"color": INK, "width": 2, "dash": "solid" if good else "dash"},
                name="the surrogate, others averaged" if good else "the surrogate's guess (poor fit), others averaged",
                legendgroup="line",
                showlegend=first,
                hovertemplate="%{x}: %{y:.1f}%<extra></extra>",
            ),
            **at,
        )
        _axis(figure, coordinate, at, "x")
    left_axes(figure, len(effects), "validation accuracy (%)")
    return with_legend(figure)


def interactions_chart(found: Sequence[Dependence]) -> go.Figure:
    """Friedman's H of every pair, one panel a model; a star where it is more than chance gives."""
    figure = panels([one.study for one in found], 360)
    for index, one in enumerate(found):
        assert one.answer is not None
        names = [c.name for c in one.answer.coordinates]
        titles = [_broken(name) for name in names]
        strengths: dict[tuple[int, int], tuple[float, str]] = {}
        for pair in one.answer.pairs:
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
                showscale=False,  # the numbers stand in the cells
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


def contours_chart(found: Sequence[Dependence]) -> go.Figure:
    """The strongest pair of each model: what the surrogate expects, the trials, and the ways of tuning."""
    shown = [(one, one.answer, one.answer.contour) for one in found if one.answer and one.answer.contour]
    figure = panels([one.study for one, _, _ in shown], 380, across=2)
    for index, (one, answer, contour) in enumerate(shown):
        at, first = cell(index, 2), index == 0
        values = [x for row in contour.accuracy for x in row]
        steps = max((max(values) - min(values)) * 100 / 9, 0.02)
        figure.add_trace(
            go.Contour(
                x=[_short(x) for x in contour.at_a],
                y=[_short(y) for y in contour.at_b],
                z=[[round(100 * v, 2) for v in row] for row in contour.accuracy],
                colorscale=_HEIGHTS,
                contours={"showlabels": True, "size": float(f"{steps:.1g}"), "labelfont": {"color": INK, "size": 11}},
                autocontour=False,
                line={"color": "#555555", "width": 1},
                showscale=False,
                hovertemplate="%{x:.3g}, %{y:.3g}: %{z:.1f}%<extra></extra>",
            ),
            **at,
        )
        walk = answer.coordinate_search
        places = [("random trials", [(a, b) for a, b, _ in contour.trials], "circle-open", COLOURS[one.model], 7)]
        if walk is not None:
            for name, place, symbol, size in (
                ("the paper's values", walk.paper, "star", 13),
                ("one at a time, one pass", walk.once, "square-open", 15),
                ("joint optimum", walk.joint, "x", 9),
            ):
                places.append((name, [(place.params[contour.a], place.params[contour.b])], symbol, INK, size))
        for name, points, symbol, colour, size in places:
            figure.add_trace(
                go.Scatter(
                    x=[_short(x) for x, _ in points],
                    y=[_short(y) for _, y in points],
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
            (figure.update_xaxes if axis == "x" else figure.update_yaxes)(title=TITLES.get(name, name), **at)
    return with_legend(figure)


def _axis(figure: go.Figure, coordinate: Coordinate, at: dict[str, int], axis: str) -> None:
    if coordinate.log:
        update = figure.update_xaxes if axis == "x" else figure.update_yaxes
        update(type="log", exponentformat="power", dtick=1, tickfont={"size": 10}, **at)


def _broken(name: str) -> str:
    """In two lines, so that panels side by side keep apart."""
    return TITLES.get(name, name).replace(" : ", ":").replace(" ", "<br>", 1)


def _short(x: float) -> float:
    return float(f"{x:.4g}")
