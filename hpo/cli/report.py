"""`hpo report`."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.context import Context, experiments_option, format_option, pass_context, print_message, print_table

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.results.records import StudyResult


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
    write_report(context, context.engine(), out, form, locators=locators)


def write_report(
    context: Context,
    engine: "Engine",
    out: Path,
    form: str,
    names: Collection[str] | None = None,
    locators: Sequence[str] = (),
) -> None:
    """Write the report; show its table, of the named studies alone, or print it as JSON.

    `locators` are of experiments whose own sections it has.
    """
    from hpo.analysis.comparison import compare
    from hpo.experiment.prepare import prepared
    from hpo.report import terminal
    from hpo.report import write as reports
    from hpo.report.contents import gather, shipped_report_of
    from hpo.report.sentences import conclusions_of
    from hpo.server import notes

    contents = gather(engine, shipped_report_of(context.digits), [prepared(locator) for locator in locators])
    files = reports.write(contents, out)
    if form == "json":
        click.echo(files.json.read_text(encoding="utf-8"), nl=False)
    else:
        results: Sequence[StudyResult] = contents.results
        comparison, conclusions = contents.comparison, contents.conclusions
        if names is not None and any(result.name not in names for result in results):
            results = [result for result in results if result.name in names]
            comparison = compare(results, scores=contents.scores)
            conclusions = conclusions_of(results, comparison)
        print_table(terminal.comparison_table(results, comparison, conclusions))
    print_message(f"report: {files.html.resolve()}")
    notes.update_pages(engine, contents.results, contents.comparison)
