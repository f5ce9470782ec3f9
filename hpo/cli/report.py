"""`hpo report`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.context import Context, experiments_option, format_option, pass_context, print_message, print_table

if TYPE_CHECKING:
    from hpo.api.report import WrittenReport


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="report", help="The folder to write to.")
@experiments_option
@format_option
@pass_context
def report(context: Context, out: Path, locators: tuple[str, ...], form: str) -> None:
    """Write the comparison and show its table.

    One HTML file that opens offline, the same as JSON, and tables as CSV. The studies' pages in the dashboard get
    notes and small figures; a note that somebody has written or changed stays. With --experiment the report has that
    experiment's own sections too; their code runs in a process of its own.

    \b
    Example:
      hpo report --out report
      hpo report --experiment cancer.py
    """
    from hpo.api.report import write_report

    print_report(write_report(context, context.engine(), out, locators=locators), form)


def print_report(written: "WrittenReport", form: str) -> None:
    """Show the table of a written report, or print the whole of it as JSON."""
    if form == "json":
        click.echo(written.files.json.read_text(encoding="utf-8"), nl=False)
    else:
        print_table(written.table)
    print_message(f"report: {written.files.html.resolve()}")
