"""Where tables and progress are drawn for people."""

import io
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from hpo.text import visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text

PIPE_WIDTH = 140  # columns where the output is no terminal
TEXT_WIDTH = 100  # columns of a table that is kept as text


def console(*, err: bool = False, file: io.StringIO | None = None) -> "Console":
    """One for tables (stdout), for progress (stderr), or into a text; a pipe gets wide lines without colours.

    `:100:` is a process's number in a worker's name, and no emoji.
    """
    from rich.console import Console

    class VisibleConsole(Console):
        """A console that shows what is in its tables, and obeys none of it."""

        def render_str(self, text: str, **options: Any) -> "Text":
            return super().render_str(visible(text), **options)  # here, so that columns are wide enough

        def render(self, renderable: "RenderableType", options: "ConsoleOptions | None" = None) -> "Iterable[Segment]":
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=visible(segment.text))

    if file is not None:
        return VisibleConsole(file=file, width=TEXT_WIDTH, highlight=False, emoji=False, force_jupyter=False)
    terminal = os.isatty(2 if err else 1) or os.environ.get("COLUMNS")
    width = None if terminal else PIPE_WIDTH
    return VisibleConsole(stderr=err, width=width, highlight=False, emoji=False, force_jupyter=False)


def as_text(renderable: "RenderableType") -> str:
    """What would be drawn, as lines without colours."""
    text = io.StringIO()
    console(file=text).print(renderable)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines()).strip("\n")
