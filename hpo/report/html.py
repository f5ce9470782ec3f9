"""The report's page: records of what it shows, and the one HTML file that the templates in `page/` make of them.

The file holds plotly.js, the figures' data and the text, so it opens without a network. Everything put in is escaped.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    number: bool = False  # aligned to the right
    long: bool = False  # text that may wrap

    @property
    def css_class(self) -> str | None:
        """The class of its cells; None for plain text."""
        return "number" if self.number else "long" if self.long else None


def texts(*titles: str) -> tuple[Column, ...]:
    """Columns of text."""
    return tuple(Column(title=title) for title in titles)


def numbers(*titles: str) -> tuple[Column, ...]:
    """Columns of numbers."""
    return tuple(Column(title=title, number=True) for title in titles)


@dataclass(frozen=True, kw_only=True, slots=True)
class PageTable:
    """A table; its cells are already text. ValueError where a row has more or fewer cells than there are columns."""

    kind: ClassVar = "table"
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    grouped: bool = False  # a line is drawn where the first cell changes
    folded: bool = False  # shows only its caption until it is clicked; always unfolded in print

    def __post_init__(self) -> None:
        wrong = next((row for row in self.rows if len(row) != len(self.columns)), None)
        if wrong is not None:
            raise ValueError(f"table {self.caption!r} has {len(self.columns)} columns and a row with {len(wrong)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PageFigure:
    """A plotly figure with its caption."""

    kind: ClassVar = "figure"
    name: str  # unique on the page
    caption: str
    spec: dict[str, Any]  # plotly's data and layout

    @property
    def height(self) -> int:
        """Pixels."""
        return int(self.spec.get("layout", {}).get("height", 400))


def plotly_figure(name: str, caption: str, figure: Any) -> PageFigure:
    """A plotly figure as a part of the page."""
    return PageFigure(name=name, caption=caption, spec=figure.to_plotly_json())


@dataclass(frozen=True, kw_only=True, slots=True)
class PageImage:
    """A small picture with a line above it and one below."""

    png: bytes
    above: str
    below: tuple[tuple[str, str], ...]  # texts, each with its colour (CSS)

    @property
    def source(self) -> str:
        """The PNG file as a data URL."""
        return f"data:image/png;base64,{b64encode(self.png).decode()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class PageImages:
    """Small pictures side by side, as many in a row as fit."""

    kind: ClassVar = "images"
    caption: str
    images: tuple[PageImage, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Callout:
    """A sentence that must not be overlooked."""

    kind: ClassVar = "callout"
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bullets:
    """A list of sentences."""

    kind: ClassVar = "bullets"
    lines: tuple[str, ...]
    lead: bool = False  # in larger type, for the headlines


Part = str | Callout | Bullets | PageTable | PageFigure | PageImages  # a str is a paragraph


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A heading and the parts below it, in order."""

    title: str
    parts: tuple[Part, ...]


def render(title: str, subtitle: str, sections: Sequence[Section], plotly_js: str) -> str:
    """The whole page; plotly.js is left out where there is no figure."""
    figures = any(isinstance(part, PageFigure) for section in sections for part in section.parts)
    return (
        _templates()
        .get_template("page.html.j2")
        .render(title=title, subtitle=subtitle, sections=sections, plotly_js=plotly_js if figures else None)
    )


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("hpo.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,  # a name that a template gets wrong is an error, not an empty place
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment
