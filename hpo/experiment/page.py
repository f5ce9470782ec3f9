"""What a page of the report is made of: records of paragraphs, tables, figures, pictures, in sections.

An experiment's own sections are made of the same. They cross from the process that runs its code as plain values, and
are checked when they arrive: texts are texts, and nothing in them is executed or loaded from elsewhere.
"""

import json
import math
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hpo.errors import ExperimentError

MOST_PARTS = 1000  # of a section
LARGEST_FIGURE = 20 << 20  # bytes of JSON
LEAST_HEIGHT, MOST_HEIGHT, USUAL_HEIGHT = 50, 10_000, 400  # pixels, of a figure
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_BLACK = "#000000"
_FILE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")

Cell = str | int | float | None  # of a CSV file
CsvRow = Mapping[str, Cell]


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
        return int(self.spec.get("layout", {}).get("height", USUAL_HEIGHT))


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


@dataclass(frozen=True, slots=True)
class Section:
    """A heading and the parts below it, in order; parts of one that the report has already stand at its end.

    `json` is added to report.json, and each table of `csv` is a file: rows with the same keys.
    """

    title: str
    parts: Sequence[Part] = ()
    json: Mapping[str, Any] = field(default_factory=dict)  # plain values by name
    csv: Mapping[str, Sequence[CsvRow]] = field(default_factory=dict)  # by name of the file, without .csv


# --- What users write ---------------------------------------------------------------------------------------


def table(caption: str, rows: Sequence[Mapping[str, Any]], *, folded: bool = False) -> PageTable:
    """A table of rows with the same keys, which are its columns' titles; a column of numbers is aligned to the right.

    A `folded` one shows its caption alone until it is clicked. ExperimentError where rows have other keys.
    """
    titles = list(rows[0]) if rows else []
    for row in rows:
        if list(row) != titles:
            raise ExperimentError(f"table {caption!r}: a row has {', '.join(map(str, row))}, not {', '.join(titles)}")
    columns = tuple(
        Column(title=str(title), number=all(_is_number(row[title]) or row[title] is None for row in rows))
        for title in titles
    )
    cells = tuple(tuple(_shown(row[title]) for title in titles) for row in rows)
    return PageTable(caption=caption, columns=columns, rows=cells, folded=folded)


def figure(caption: str, drawing: Any) -> PageFigure:
    """A Plotly figure, or the dictionary of its data and layout, with a caption."""
    spec = drawing.to_plotly_json() if hasattr(drawing, "to_plotly_json") else drawing
    if not isinstance(spec, Mapping) or "data" not in spec:
        raise ExperimentError(f"figure {caption!r}: give a Plotly figure, or a dictionary with data and layout")
    return PageFigure(name="", caption=caption, spec=dict(spec))


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int | float) or hasattr(cell, "__float__")


def _shown(cell: Any) -> str:
    """A cell as text: whole numbers in full, others to four figures."""
    if cell is None:
        return "\N{EN DASH}"
    if isinstance(cell, bool) or not _is_number(cell):
        return str(cell)
    return f"{int(cell):,}" if float(cell).is_integer() else f"{float(cell):.4g}"


# --- As plain values ----------------------------------------------------------------------------------------


def to_plain(section: Section) -> dict[str, Any]:
    """A section for JSON; ExperimentError names what is no part of a page."""
    if not isinstance(section, Section) or not isinstance(section.title, str):
        raise ExperimentError(f"sections must give hpo.Section, each with a title, not {section!r:.100}")
    return {
        "title": section.title,
        "parts": [_plain_part(part, section.title) for part in section.parts],
        "json": _finite(dict(section.json)),
        "csv": {name: [_finite(dict(row)) for row in rows] for name, rows in section.csv.items()},
    }


def _plain_part(part: Any, title: str) -> Any:
    match part:
        case str():
            return {"kind": "text", "text": part}
        case Callout():
            return {"kind": part.kind, "text": part.text}
        case Bullets():
            return {"kind": part.kind, "lines": list(part.lines), "lead": part.lead}
        case PageTable():
            columns = [[column.title, column.number, column.long] for column in part.columns]
            rows = [list(row) for row in part.rows]
            about = {"caption": part.caption, "grouped": part.grouped, "folded": part.folded}
            return {"kind": part.kind, "columns": columns, "rows": rows, **about}
        case PageFigure():
            return {"kind": part.kind, "caption": part.caption, "spec": _finite(part.spec)}
        case PageImages():
            images = [
                [b64encode(one.png).decode(), one.above, [list(text) for text in one.below]] for one in part.images
            ]
            return {"kind": part.kind, "caption": part.caption, "images": images}
    raise ExperimentError(f"section {title!r}: a {type(part).__name__} is no part of a page")


def _finite(value: Any) -> Any:
    """Plain values of what numpy and Plotly hold; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def from_plain(plain: Any, name: str) -> Section:
    """What `to_plain` gave, checked; figures are called after `name`. ExperimentError where it is no section."""
    try:
        parts = plain["parts"][:MOST_PARTS]
        return Section(
            title=_text(plain["title"]),
            parts=tuple(_part(part, f"{name}-{place}") for place, part in enumerate(parts)),
            json={_text(key): value for key, value in plain["json"].items()},
            csv={_file_name(key): [_row(row, rows[0]) for row in rows] for key, rows in plain["csv"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ExperimentError(f"a section is not as hpo.Section makes it: {error!r}") from error


def _part(plain: Mapping[str, Any], name: str) -> Part:
    match plain["kind"]:
        case "text":
            return _text(plain["text"])
        case Callout.kind:
            return Callout(text=_text(plain["text"]))
        case Bullets.kind:
            return Bullets(lines=tuple(map(_text, plain["lines"])), lead=bool(plain["lead"]))
        case PageTable.kind:
            return PageTable(
                caption=_text(plain["caption"]),
                columns=tuple(Column(title=_text(t), number=bool(n), long=bool(w)) for t, n, w in plain["columns"]),
                rows=tuple(tuple(map(_text, row)) for row in plain["rows"]),
                grouped=bool(plain["grouped"]),
                folded=bool(plain["folded"]),
            )
        case PageFigure.kind:
            return PageFigure(name=name, caption=_text(plain["caption"]), spec=_spec(plain["spec"]))
        case PageImages.kind:
            images = tuple(
                PageImage(
                    png=b64decode(png, validate=True),
                    above=_text(above),
                    below=tuple(
                        (_text(text), colour if _COLOUR.fullmatch(colour) else _BLACK) for text, colour in below
                    ),
                )
                for png, above, below in plain["images"]
            )
            return PageImages(caption=_text(plain["caption"]), images=images)
    raise ValueError(f"a part of the kind {plain['kind']!r}")


def _spec(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Plotly's data and layout, and nothing else that Plotly would act on."""
    if len(json.dumps(plain)) > LARGEST_FIGURE:
        raise ValueError(f"a figure of more than {LARGEST_FIGURE >> 20} MB")
    layout = {key: value for key, value in plain.get("layout", {}).items() if key not in ("images", "updatemenus")}
    height = layout.get("height", USUAL_HEIGHT)
    usable = isinstance(height, int | float) and LEAST_HEIGHT <= height <= MOST_HEIGHT
    return {"data": list(plain["data"]), "layout": {**layout, "height": int(height) if usable else USUAL_HEIGHT}}


def _row(row: Mapping[str, Any], first: Mapping[str, Any]) -> CsvRow:
    if list(row) != list(first):
        raise ValueError("rows of a CSV file with different keys")
    return {_text(key): value if isinstance(value, int | float | str) else None for key, value in row.items()}


def _file_name(name: Any) -> str:
    if not isinstance(name, str) or not _FILE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a CSV file's name")
    return name


def _colour(value: Any) -> str:
    return value if isinstance(value, str) and _COLOUR.fullmatch(value) else _BLACK


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is no text")
    return value
