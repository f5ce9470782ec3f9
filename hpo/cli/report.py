"""`hpo report`, `hpo trial`, `hpo dashboard`."""

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.context import Context, format_option, pass_context, print_table, say

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
