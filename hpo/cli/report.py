"""`hpo report`, `hpo trial`, `hpo dashboard`."""

import threading
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.context import Context, format_option, pass_context, print_json, print_table, say

if TYPE_CHECKING:
    from sqlalchemy import Engine


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="report", help="The folder to write to.")
@format_option
@pass_context
def report(context: Context, out: Path, form: str) -> None:
    """Write the comparison and show its table.

    One HTML file that opens offline, the same as JSON, and tables as CSV. The studies' pages in the dashboard get
    notes and small figures; a note that somebody else has written stays.

    \b
    Example:
      hpo report --out report
    """
    write_report(context, context.engine(), out, form)


def write_report(
    context: Context, engine: "Engine", out: Path, form: str, names: Collection[str] | None = None
) -> None:
    """Write the report; show its table, of the named studies alone, or print it as JSON."""
    from hpo.report import terminal
    from hpo.report import write as reports
    from hpo.report.contents import gather
    from hpo.server import notes

    report = gather(engine, context.digits)
    files = reports.write(report, out)
    if form == "json":
        click.echo(files.json.read_text(encoding="utf-8"), nl=False)
    else:
        found = [one for one in report.results if names is None or one.name in names]
        same = len(found) == len(report.results)
        print_table(terminal.comparison_table(found, report.comparison if same else None))
    say(f"report: {files.html.resolve()}")
    notes.quietly(lambda: notes.keep_all(engine, report.results, report.comparison), say)


@click.group()
def trial() -> None:
    """Look at single trials.

    \b
    Example:
      hpo trial show ws 17
    """


@trial.command(name="show")
@click.argument("name")
@click.argument("number", type=int)
@format_option
@pass_context
def show(context: Context, name: str, number: int, form: str) -> None:
    """Show one trial.

    Its parameters, what came of it, and why it failed where it did. NAME means the study's search, NAME:confirm
    and NAME:final its rounds; `hpo study show` has the numbers of those that failed.

    \b
    Example:
      hpo trial show ws 17 --format json
      hpo trial show ws:final 3
    """
    from hpo.report import terminal
    from hpo.results import queries

    found = queries.trial(context.engine(), name, number)
    if form == "json":
        print_json(found)
    else:
        print_table(terminal.trial_detail(found))


@click.command()
@click.option("--host", default="127.0.0.1", help="The address to listen on: this machine's own alone.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, help="The port to listen on.")
@pass_context
def dashboard(context: Context, host: str, port: int) -> None:
    """Browse the studies in optuna-dashboard.

    It listens on this machine alone, for it asks nobody for a password.

    \b
    Example:
      hpo dashboard --port 8081
    """
    from hpo.server import notes
    from hpo.server import optuna_app as server

    engine = context.engine()

    def ready(url: str) -> None:
        say(f"dashboard: {url} (Ctrl-C ends it)")
        meanwhile.start()

    # Beside the first answers, for it takes seconds; not a daemon: what ends the process waits for it.
    meanwhile = threading.Thread(target=lambda: notes.quietly(lambda: notes.keep_everything(engine), say))
    server.serve(engine, host=host, port=port, ready=ready)
    if meanwhile.ident is not None:
        meanwhile.join()  # it needs the database, which is closed next
