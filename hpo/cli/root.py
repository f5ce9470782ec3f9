"""The `hpo` command itself: global options, where the commands are, errors as one line."""

import functools
import importlib
import logging
import os
import re
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

import hpo
from hpo.api.known_errors import known_error, system_error
from hpo.api.sources import url_in
from hpo.cli import logs
from hpo.cli.context import Context, print_message
from hpo.errors import HpoError

logger = logging.getLogger(__name__)

COMMANDS = {  # name -> module and function; read on use alone
    "study": "hpo.cli.study:study",
    "experiment": "hpo.cli.experiment:experiment",
    "worker": "hpo.cli.worker:worker",
    "workers": "hpo.cli.workers:workers",
    "top": "hpo.cli.top:top",
    "launch": "hpo.cli.launch:launch",
    "evaluate": "hpo.cli.evaluate:evaluate",
    "run": "hpo.cli.run:run",
    "report": "hpo.cli.report:report",
    "ledger": "hpo.cli.ledger:ledger",
    "trial": "hpo.cli.trial:trial",
    "dashboard": "hpo.cli.dashboard:dashboard",
    "user": "hpo.cli.user:user",
    "token": "hpo.cli.token:token",
    "data": "hpo.digits.command:data",
    "db": "hpo.cli.db:db",
    "doctor": "hpo.cli.doctor:doctor",
}
_PASSWORD = re.compile(r"://[^/@]*:[^/]*@|[?&]password=")  # in a database's URL
INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class Root(click.Group):
    """Commands by name, imported when first asked for; what goes wrong is one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line and exit: 0 done, 1 cannot, 2 wrong usage, 130 interrupted."""
        try:
            code = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(error.exit_code)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "hpo"
            print_message(f"hpo: {_in_a_line(error.format_message())}; `{path} --help` shows how")
            sys.exit(error.exit_code)
        except click.ClickException as error:
            print_message(f"hpo: {_in_a_line(error.format_message())}")
            sys.exit(error.exit_code)
        except HpoError as error:
            print_message(f"hpo: {_in_a_line(str(error))}")
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            print_message("hpo: interrupted")
            sys.exit(INTERRUPTED)
        except UnicodeEncodeError as error:  # of an argument, that became part of what is written or asked for
            print_message(f"hpo: {error.object[error.start : error.end]!r} is not UTF-8: names and texts are")
            sys.exit(click.UsageError.exit_code)
        except OSError as error:  # help, which click prints before it invokes anything, did not fit
            print_message(f"hpo: {system_error(error)}")
            sys.exit(1)
        sys.exit(code if isinstance(code, int) else 0)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what the database or the system refuses becomes an HpoError."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.Abort from None  # here, for click would print an empty line first
        except BrokenPipeError:  # `hpo study list | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise click.exceptions.Exit(1) from None
        except HpoError:
            raise
        except Exception as error:
            known = known_error(error, None if ctx.obj is None else ctx.obj.opened)
            if known is None:
                raise
            raise known from error


def _in_a_line(message: str) -> str:
    return " ".join(message.split()).removesuffix(".")


@click.group(cls=Root, name="hpo", context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--db",
    metavar="URL",
    envvar="HPO_DATABASE_URL",
    default="sqlite:///hpo.db",
    show_envvar=True,
    help="The database: sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/NAME; where neither this nor the "
    "variable is given, HPO_DATABASE_URL_FILE may name a file that holds it; it is read again when the password fails.",
)
@click.option(
    "--data",
    "data_dir",
    metavar="DIR",
    envvar="HPO_DATA_DIR",
    show_envvar=True,
    help="A folder with MNIST's four IDX files (gz or not); without it the 5,000 bundled digits.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log more: claims, stored epochs, checkpoints.")
@click.option("-q", "--quiet", count=True, help="Log warnings alone; twice: errors alone.")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "plain", "json"]),
    default="auto",
    envvar="HPO_LOG_FORMAT",
    show_envvar=True,
    help="How log lines look on stderr: auto is in colour on a terminal and plain elsewhere.",
)
@click.version_option(hpo.__version__, prog_name="hpo")
@click.pass_context
def root(
    ctx: click.Context, db: str, data_dir: str | None, verbose: bool, quiet: int, log_format: logs.LogFormat
) -> None:
    """Compare neural architectures fairly: tune each one jointly, confirm without luck, test once.

    \b
    Example, everything on this machine:
      hpo run --quick
    Example, step by step:
      hpo study create --model ws
      hpo worker --drain
      hpo report
    """
    url_file, reread = None, None
    if ctx.get_parameter_source("db") is ParameterSource.DEFAULT and (file := os.environ.get("HPO_DATABASE_URL_FILE")):
        url_file = Path(file)
        reread = functools.partial(url_in, url_file)
        db = reread()
    ctx.obj = Context(
        db, data_dir, reread_url=reread, url_file=url_file, log_format=log_format, verbosity=verbose - quiet
    )
    ctx.obj.log()
    if url_file is not None and url_file.stat().st_mode & stat.S_IROTH and _PASSWORD.search(db):
        logger.warning("HPO_DATABASE_URL_FILE=%s: every user of this machine may read it; `chmod 600` it", url_file)
