"""What the commands share: the database, the data, how data is printed."""

import functools
import json
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import click

from hpo.cli import logs
from hpo.text import visible

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment
    from rich.text import Text
    from sqlalchemy import Engine

    from hpo.experiment.shipped import ShippedData
    from hpo.study.requests import Requests

PIPE_WIDTH = 140  # columns where the output is no terminal


class Context:
    """The global options, opened on demand."""

    def __init__(
        self,
        url: str,
        data_dir: str | None,
        *,
        reread_url: Callable[[], str] | None = None,
        url_file: Path | None = None,
        log_format: logs.LogFormat = "auto",
        verbosity: int = 0,
    ) -> None:
        self.url, self.data_dir = url, Path(data_dir) if data_dir else None
        self.reread_url = reread_url  # where the URL is in a file: what it holds by now
        self.url_file = url_file  # that holds the URL: HPO_DATABASE_URL_FILE
        self.log_format, self.verbosity = log_format, verbosity
        self.opened: Engine | None = None  # for the words of an error

    @property
    def url_to_pass(self) -> str | None:
        """What other processes must be given to open this database; None where HPO_DATABASE_URL_FILE says it."""
        return None if self.url_file else self.url

    @property
    def log_options(self) -> list[str]:
        """The global options with which other processes log as this one does."""
        flag = "--verbose" if self.verbosity > 0 else "--quiet"
        return ["--log-format", self.log_format, *[flag] * abs(self.verbosity)]

    def log(self, worker: str = "") -> None:
        """Install the log as the global options ask; `worker` is a short name that stands in every line."""
        logs.install(self.log_format, self.verbosity, worker)

    def connect(self) -> "Engine":
        """The database as it is, its schema unchecked; closed when the command ends."""
        from hpo.storage.engine import open_engine

        self.opened = open_engine(self.url, reread=self.reread_url)
        click.get_current_context().call_on_close(self.opened.dispose)
        return self.opened

    def engine(self, *, create: bool = False) -> "Engine":
        """The database, its schema checked, and held to it; with `create`, a brand-new one gets its tables."""
        from hpo.storage import identity, migrate

        engine = self.connect()
        if create:
            migrate.create_or_check(engine)
        else:
            migrate.check(engine)
        identity.hold(engine)
        return engine

    def engine_if_made(self) -> "Engine | None":
        """The database, its schema checked, or None where there are no tables yet; makes nothing."""
        from hpo.storage import identity, migrate
        from hpo.storage.engine import is_missing

        engine = self.connect()
        if is_missing(engine) or all(version is None for version, _ in migrate.versions(engine).values()):
            return None
        migrate.check(engine)
        identity.hold(engine)
        return engine

    @functools.cached_property
    def digits(self) -> "ShippedData":
        """The images: bundled, or from --data."""
        from hpo.experiment import shipped

        return shipped.load_data(self.data_dir)

    @functools.cached_property
    def requests(self) -> "Requests":
        """What turns models, files and experiments into studies."""
        from hpo.study.requests import Requests

        return Requests(lambda: self.digits)


class FiniteRange(click.FloatRange):
    """A range of numbers; NaN is in none, though no comparison excludes it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number; refused where it is outside the range or none."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


class AutoOrCount(click.ParamType):  # type: ignore[type-arg]  # older click has no such argument
    """`auto`, which is None, or a number from 1 to a limit."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.name = f"auto|1..{most}"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """How the help shows it."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """The number; refused where it is neither."""
        if value is None or value == "auto":
            return None
        text = str(value)
        if text.isdecimal() and len(text) <= len(str(self.most)) and 1 <= int(text) <= self.most:
            return int(text)
        return self.fail(f"{shorten(text, 40)!r} is neither auto nor a number from 1 to {self.most}.", param, ctx)


pass_context = click.make_pass_decorator(Context)
format_option = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", help="How to print."
)
experiment_option = click.option(
    "--experiment",
    metavar="FILE[:NAME]",
    help="An experiment of your own: FILE.py, FILE.py:NAME where it holds several, or MODULE:NAME.",
)
experiments_option = click.option(
    "--experiment",
    "locators",
    metavar="FILE[:NAME]",
    multiple=True,
    help="An experiment whose own sections to add: FILE.py, FILE.py:NAME or MODULE:NAME; may be repeated.",
)
accept_option = click.option(
    "--accept-changes", is_flag=True, help="Go on with a study though the experiment's code has changed."
)


def print_message(text: str) -> None:
    """A line for people, on stderr, so that stdout holds data alone."""
    click.echo(visible(text), err=True)


def print_json(data: object) -> None:
    """JSON alone on stdout."""
    click.echo(json.dumps(data, indent=2, allow_nan=False))


def console(*, err: bool = False) -> "Console":
    """Where tables (stdout) and progress (stderr) are drawn; a pipe gets wide lines without colours."""
    from rich.console import Console

    class VisibleConsole(Console):
        """A console that shows what is in its tables, and obeys none of it."""

        def render_str(self, text: str, **options: Any) -> "Text":
            return super().render_str(visible(text), **options)  # here, so that columns are wide enough

        def render(self, renderable: "RenderableType", options: "ConsoleOptions | None" = None) -> "Iterable[Segment]":
            for segment in super().render(renderable, options):
                yield segment if segment.control else segment._replace(text=visible(segment.text))

    terminal = os.isatty(2 if err else 1) or os.environ.get("COLUMNS")
    return VisibleConsole(stderr=err, width=None if terminal else PIPE_WIDTH, highlight=False)


def print_table(table: "RenderableType") -> None:
    """A rich table on stdout."""
    console().print(table)
