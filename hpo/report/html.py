"""The report's page: the one HTML file that the templates in `page/` make of its sections.

The file holds plotly.js, the figures' data and the text, so it opens without a network. Everything put in is escaped.
"""

from collections.abc import Sequence
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from hpo.experiment.page import PageFigure, Section


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
