"""What the commands share: the database, the data, how data is printed."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

import click

from hpo.api.console import console
from hpo.api.sources import Sources
from hpo.cli import logs
from hpo.text import visible

if TYPE_CHECKING:
    from rich.console import RenderableType
    from sqlalchemy import Engine


class Context(Sources):
    """The global options: where things are, opened on demand, and how to log."""

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
        super().__init__(url, data_dir, reread_url=reread_url, url_file=url_file)
        self.log_format, self.verbosity = log_format, verbosity

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
        engine = super().connect()
        click.get_current_context().call_on_close(engine.dispose)
        return engine


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


def print_table(table: "RenderableType") -> None:
    """A rich table on stdout."""
    console().print(table)
