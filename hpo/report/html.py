"""The report's page: HTML from records. Everything that is put in is escaped here, nothing comes from outside.

The file holds plotly.js, the figures' data and the text: it opens without a network.
"""

import json
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from string import Template
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    number: bool = False  # aligned to the right
    long: bool = False  # text that may be broken into lines


def texts(*titles: str) -> tuple[Column, ...]:
    """Columns of text."""
    return tuple(Column(title=title) for title in titles)


def numbers(*titles: str) -> tuple[Column, ...]:
    """Columns of numbers."""
    return tuple(Column(title=title, number=True) for title in titles)


@dataclass(frozen=True, kw_only=True, slots=True)
class PageTable:
    """A table as it stands on the page; cells are text already."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    groups: tuple[str, ...] = ()  # one a row: a line is drawn where it changes
    folded: bool = False  # only its caption until it is clicked; unfolded on paper


@dataclass(frozen=True, kw_only=True, slots=True)
class PageFigure:
    """A figure with its caption."""

    name: str  # unique on the page
    caption: str
    spec: dict[str, Any]  # plotly's data and layout


def drawn(name: str, caption: str, figure: Any) -> PageFigure:
    """A figure of plotly's for the page."""
    return PageFigure(name=name, caption=caption, spec=figure.to_plotly_json())


@dataclass(frozen=True, kw_only=True, slots=True)
class PageImage:
    """A small picture with a line above it and one below."""

    png: bytes
    above: str
    below: tuple[tuple[str, str], ...]  # texts, each with its colour (CSS)


@dataclass(frozen=True, kw_only=True, slots=True)
class PageImages:
    """Small pictures side by side, as many in a row as the page is wide."""

    caption: str
    images: tuple[PageImage, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Callout:
    """A line that must not be overlooked."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Bullets:
    """A list of sentences."""

    lines: tuple[str, ...]
    lead: bool = False  # larger: the headline's


Part = str | Callout | Bullets | PageTable | PageFigure | PageImages  # a str is a paragraph


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A heading and what stands below it, in order."""

    title: str
    parts: tuple[Part, ...]


def render(title: str, subtitle: str, sections: Sequence[Section], plotly_js: str) -> str:
    """The whole page."""
    figures = any(isinstance(part, PageFigure) for section in sections for part in section.parts)
    return _PAGE.substitute(
        title=escape(title),
        subtitle=escape(subtitle),
        style=_STYLE,
        contents="".join(f'<a href="#s{i}">{escape(s.title)}</a>' for i, s in enumerate(sections)),
        body="\n".join(_section(i, section) for i, section in enumerate(sections)),
        plotly=f"<script>{plotly_js}</script>" if figures else "",
        draw=f"<script>{_DRAW}</script>" if figures else "",
    )


def _section(index: int, section: Section) -> str:
    parts = "\n".join(_part(part) for part in section.parts)
    return f'<section id="s{index}"><h2>{escape(section.title)}</h2>\n{parts}\n</section>'


def _part(part: Part) -> str:
    match part:
        case str():
            return f"<p>{escape(part)}</p>"
        case Callout():
            return f'<p class="callout">{escape(part.text)}</p>'
        case Bullets():
            lines = "".join(f"<li>{escape(line)}</li>" for line in part.lines)
            return f"<ul{' class=lead' if part.lead else ''}>{lines}</ul>"
        case PageTable():
            return _table(part)
        case PageFigure():
            return _figure(part)
        case PageImages():
            return _images(part)


def _table(table: PageTable) -> str:
    head = "".join(f"<th{_align(c)}>{escape(c.title)}</th>" for c in table.columns)
    groups = table.groups or ("",) * len(table.rows)
    body = []
    for before, group, row in zip((groups[:1] + groups), groups, table.rows, strict=False):
        cells = "".join(f"<td{_align(c)}>{escape(cell)}</td>" for c, cell in zip(table.columns, row, strict=True))
        body.append(f"<tr{'' if before == group else ' class=first'}>{cells}</tr>")
    caption = escape(table.caption)
    inside = f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    if table.folded:
        return f'<details><summary>{caption}</summary><div class="wide"><table>{inside}</details>'
    return f'<div class="wide"><table><caption>{caption}</caption>{inside}'


def _align(column: Column) -> str:
    return " class=n" if column.number else " class=long" if column.long else ""


def _figure(figure: PageFigure) -> str:
    name = escape(figure.name, quote=True)
    height = int(figure.spec.get("layout", {}).get("height", 400))
    return (
        f'<figure><div class="plot" id="{name}" style="height:{height}px"></div>'
        f"<figcaption>{escape(figure.caption)}</figcaption>"
        f'<script type="application/json" id="{name}-data">{script_json(figure.spec)}</script></figure>'
    )


def _images(images: PageImages) -> str:
    shown = "".join(_image(image) for image in images.images)
    return f'<figure><div class="images">{shown}</div><figcaption>{escape(images.caption)}</figcaption></figure>'


def _image(image: PageImage) -> str:
    source = f"data:image/png;base64,{b64encode(image.png).decode()}"
    below = " ".join(
        f'<span style="color:{escape(colour, quote=True)}">{escape(text)}</span>' for text, colour in image.below
    )
    above = escape(image.above, quote=True)
    return f'<div class="image">{above}<br><img src="{source}" alt="{above}"><br>{below}</div>'


def script_json(tree: object) -> str:
    """JSON that can stand in a script element: nothing in it ends the element or starts a comment."""
    text = json.dumps(tree, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


_STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 1160px;
  margin: 0 auto; padding: 24px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 19px; margin: 40px 0 10px; padding-top: 10px; border-top: 2px solid #222; }
.sub { color: #555; margin: 0 0 12px; }
nav a { margin-right: 16px; color: #0050a0; }
ul { padding-left: 20px; } li { margin: 4px 0; }
ul.lead { font-size: 17px; } ul.lead li { margin: 8px 0; }
.callout { border-left: 5px solid #d55e00; background: #fdf1e7; padding: 10px 14px; }
.wide { overflow-x: auto; margin: 16px 0; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: 6px; }
summary { font-size: 13.5px; font-weight: 600; cursor: pointer; }
th, td { padding: 4px 11px 4px 0; text-align: left; vertical-align: top; }
th { border-bottom: 1.5px solid #222; font-weight: 600; }
td { border-bottom: 1px solid #e4e4e4; }
tr.first td { border-top: 2px solid #777; }
td, th { white-space: nowrap; }
th.n, td.n { text-align: right; }
th.long, td.long { white-space: normal; overflow-wrap: anywhere; }
figure { margin: 20px 0; break-inside: avoid; }
figcaption { color: #444; font-size: 13.5px; max-width: 75ch; }
.images { display: flex; flex-wrap: wrap; gap: 12px 18px; margin-bottom: 8px; }
.image { font-size: 12.5px; line-height: 1.35; text-align: center; break-inside: avoid; }
.image img { height: 76px; image-rendering: pixelated; border: 1px solid #bbb; }
.image span { margin: 0 3px; }
.error { color: #b00020; }
@media print {
  @page { size: A4; margin: 14mm; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  h2 { break-after: avoid; }
  tr, .callout { break-inside: avoid; }
  .wide { overflow: visible; break-inside: avoid; }
  table { font-size: 7.5pt; } th, td { padding: 2px 5px 2px 0; }
  .image img { height: 66px; }
  .modebar { display: none !important; }
}
"""

_DRAW = """
(function () {
  var plots = Array.prototype.slice.call(document.querySelectorAll('.plot'));
  var options = {displaylogo: false, responsive: true};
  plots.forEach(function (plot) {
    var spec = JSON.parse(document.getElementById(plot.id + '-data').textContent);
    Plotly.newPlot(plot, spec.data, spec.layout, options).then(
      function () { plot.setAttribute('data-drawn', 'yes'); },
      function (error) { plot.className += ' error'; plot.textContent = 'not drawn: ' + error; });
  });
  function fit(width) {
    plots.forEach(function (plot) { Plotly.relayout(plot, {width: width, autosize: width === null}); });
  }
  window.addEventListener('beforeprint', function () {
    document.querySelectorAll('details').forEach(function (table) { table.open = true; });
    fit(680);
  });
  window.addEventListener('afterprint', function () { fit(null); });
})();
"""

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:; font-src data:">
<title>$title</title>
<style>$style</style>
</head>
<body>
<header><h1>$title</h1><p class="sub">$subtitle</p><nav>$contents</nav></header>
<main>
$body
</main>
<noscript><p class="callout">The figures need JavaScript; all numbers stand in the tables.</p></noscript>
$plotly
$draw
</body>
</html>
""")
