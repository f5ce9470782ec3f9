"""The `hpo` command itself: global options, errors as one line, where the commands are."""

import importlib
import os
import sys
from typing import Any

import click

import hpo
from hpo.errors import HpoError

COMMANDS = {  # name -> module and function; read on use alone
    "study": "hpo.cli.study:study",
    "worker": "hpo.cli.work:worker",
    "evaluate": "hpo.cli.work:evaluate",
    "run": "hpo.cli.run:run",
    "report": "hpo.cli.look:report",
    "trial": "hpo.cli.look:trial",
    "dashboard": "hpo.cli.look:dashboard",
    "data": "hpo.cli.data:data",
    "db": "hpo.cli.db:db",
    "doctor": "hpo.cli.doctor:doctor",
}


class LazyGroup(click.Group):
    """Commands by name, imported when first asked for; an HpoError is one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HpoError as error:
            click.echo(f"hpo: {error}", err=True)
            ctx.exit(error.exit_code)
        except BrokenPipeError:  # `hpo study list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(1)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--db",
    metavar="URL",
    envvar="HPO_DATABASE_URL",
    default="sqlite:///hpo.db",
    show_envvar=True,
    help="The database: sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME.",
)
@click.option(
    "--data",
    "data_dir",
    metavar="DIR",
    envvar="HPO_DATA_DIR",
    show_envvar=True,
    help="A folder with MNIST's four IDX files (gz or not); without it the 5,000 bundled digits.",
)
@click.version_option(hpo.__version__, prog_name="hpo")
@click.pass_context
def main(ctx: click.Context, db: str, data_dir: str | None) -> None:
    """Compare neural architectures fairly: tune each one jointly, confirm without luck, test once.

    \b
    Example, everything on this machine:
      hpo run --quick
    Example, step by step:
      hpo study create --model ws
      hpo worker --drain
      hpo report
    """
    from hpo.cli.context import Context

    ctx.obj = Context(db, data_dir)
