"""What the commands share: the database, the data, how data is printed."""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hpo.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from sqlalchemy import Engine

    from hpo.digits import Digits

F = TypeVar("F", bound=Callable[..., Any])


class Context:
    """The global options, opened on demand."""

    def __init__(self, url: str, data_dir: str | None) -> None:
        self.url, self.data_dir = url, Path(data_dir) if data_dir else None

    def engine(self, *, create: bool = False) -> "Engine":
        """The database, its schema checked; with `create`, a brand-new one gets its tables."""
        from hpo.storage import migrate
        from hpo.storage.engine import open_engine

        engine = open_engine(self.url)
        if create:
            migrate.create_or_check(engine)
        else:
            migrate.check(engine)
        return engine

    @functools.cached_property
    def digits(self) -> "Digits":
        """The images: bundled, or from --data."""
        from hpo import digits

        return digits.load(self.data_dir)


pass_context = click.make_pass_decorator(Context)
format_option = click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", help="How to print."
)


def say(text: str) -> None:
    """A line for people, on stderr, so that stdout holds data alone."""
    click.echo(text, err=True)


def print_json(data: object) -> None:
    """JSON alone on stdout."""
    click.echo(json.dumps(data, indent=2, allow_nan=False))


def console() -> "Console":
    """Where tables are printed; a pipe gets wide lines without colour codes."""
    from rich.console import Console

    width = None if os.isatty(1) or os.environ.get("COLUMNS") else 140
    return Console(width=width, highlight=False)


def print_table(table: "RenderableType") -> None:
    """A rich table on stdout."""
    console().print(table)


def at_least_one(ctx: click.Context, parameter: click.Parameter, value: int | None) -> int | None:
    """Refuse 0 and below with one line."""
    if value is not None and value < 1:
        raise UsageError(f"--{parameter.name} must be at least 1, got {value}")
    return value
