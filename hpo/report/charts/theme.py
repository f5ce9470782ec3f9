"""The theme that all charts share: colours, titles, size, fonts, grid, legend, panels side by side.

The colours are Okabe and Ito's, which colour-blind readers can distinguish; what matters also differs in shape or
dash, so that it survives printing in grey. Everything is SVG: WebGL prints poorly and is often missing.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]  # has no types
from plotly.subplots import make_subplots  # type: ignore[import-untyped]

from hpo.report.formats import configuration
from hpo.study.spec import MODELS

GREY, INK = "#767676", "#222222"
BLUE, DARK_BLUE = "#1c6ea4", "#08306b"  # the strong ends of scales
ACROSS = 3  # panels in a row
_COLOURS = {
    "#0072B2": "blue",
    "#D55E00": "orange",
    "#009E73": "green",
    "#CC79A7": "pink",
    "#B8860B": "gold",  # darker than theirs: it must be seen on white
    "#56B4E9": "sky blue",
    "#7F4F24": "brown",
}
_ORDER: dict[str, int] = {model: place for place, model in enumerate(MODELS)}  # they keep theirs in every report
_LONG_TITLE = 28  # characters


def title(label: str) -> str:
    """The name of a configuration in a chart."""
    return safe(configuration(label))


def colours_of(models: Iterable[str]) -> dict[str, str]:
    """A colour for each model, in their order; more than seven share some."""
    distinct, palette = list(dict.fromkeys(models)), list(_COLOURS)
    free = [place for place in range(len(palette)) if not any(_ORDER.get(model) == place for model in distinct)]
    others = [model for model in distinct if model not in _ORDER]
    places = {model: (free or [0])[i % len(free or [0])] for i, model in enumerate(others)}
    return {model: palette[places.get(model, _ORDER.get(model, 0))] for model in distinct}


def colour_name(model: str, models: Iterable[str]) -> str:
    """The name of a model's colour among these."""
    return _COLOURS[colours_of(models)[model]]


def parameter_title(name: str) -> str:
    """A hyperparameter's name in tables and charts."""
    return name.replace("_", " ")


def empty_figure(height: int) -> go.Figure:
    """A figure without data; height in pixels."""
    return _themed(go.Figure(), height)


def with_legend(figure: go.Figure) -> go.Figure:
    """Make room for the legend below."""
    figure.update_layout(height=figure.layout.height + 36, margin={"b": 86})
    return figure


def panels(titles: Sequence[str], height: int, across: int = ACROSS) -> go.Figure:
    """Small panels side by side, `across` in a row; height in pixels of one row."""
    across = max(1, min(across, len(titles)))
    rows = max(1, -(-len(titles) // across))
    figure = make_subplots(
        rows=rows,
        cols=across,
        subplot_titles=[safe(title) for title in titles],
        horizontal_spacing=0.24 / across,
        vertical_spacing=0.34 / rows,
    )
    figure.update_annotations(font={"size": 13}, yshift=4)
    return _themed(figure, height * rows)


def cell(index: int, across: int = ACROSS) -> dict[str, int]:
    """The position of the index-th panel, as plotly's row and col."""
    return {"row": index // across + 1, "col": index % across + 1}


def _themed(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        template="none",
        height=height,
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin={"l": 60, "r": 20, "t": 56, "b": 50},
        legend={"orientation": "h", "y": 0, "yanchor": "bottom", "yref": "container", "x": 0},
        hoverlabel={"font": {"family": "system-ui, sans-serif"}},
        modebar={"remove": ["select2d", "lasso2d", "autoScale2d"]},
    )
    axis: dict[str, Any] = {"gridcolor": "#e6e6e6", "linecolor": GREY, "showline": True, "zeroline": False}
    figure.update_xaxes(**axis, ticks="outside")
    figure.update_yaxes(**axis, ticks="outside")
    return figure


def two_lines(title: str) -> str:
    """A long title of an axis with its unit below it: a small panel has no room for one line."""
    return title.replace(" (", "<br>(") if len(title) > _LONG_TITLE else title


def left_axes(figure: go.Figure, panels: int, title: str, across: int = ACROSS) -> None:
    """Title the y axes of the leftmost panels only."""
    for index in range(0, panels, across):
        figure.update_yaxes(title=two_lines(title), **cell(index))


def percents(values: Iterable[float]) -> list[float]:
    """Fractions as percent, rounded to keep the page small."""
    return [round(100 * value, 3) for value in values]


def translucent(colour: str, opacity: float) -> str:
    """A hexadecimal colour as rgba; `opacity` from 0 to 1."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def safe(text: str) -> str:
    """Text escaped for plotly, which interprets some HTML tags."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
