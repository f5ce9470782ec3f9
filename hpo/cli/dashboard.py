"""`hpo dashboard`."""

import threading
from typing import TYPE_CHECKING

import click

from hpo.cli.context import Context, experiments_option, pass_context, print_message

if TYPE_CHECKING:
    from hpo.report.shipped import ShippedReport


@click.command()
@click.option("--host", default="127.0.0.1", help="The address to listen on; only loopback addresses are allowed.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, help="The port to listen on.")
@experiments_option
@pass_context
def dashboard(context: Context, host: str, port: int, locators: tuple[str, ...]) -> None:
    """Browse the studies in optuna-dashboard, and the report.

    The report of all studies is at /report. It is made when it is asked for; with --experiment it has that experiment's
    own sections too, whose code runs in a process of its own.

    It listens on this machine only, because it has no password protection.

    \b
    Example:
      hpo dashboard --port 8081
      hpo dashboard --experiment cancer.py
    """
    from hpo.experiment.prepare import prepared
    from hpo.server import notes
    from hpo.server import optuna_app as server
    from hpo.server.report_page import PATH, ReportPage

    engine = context.engine()
    experiments = [prepared(locator) for locator in locators]

    def shipped_report() -> "ShippedReport":
        from hpo.report.contents import shipped_report_of

        return shipped_report_of(context.digits)

    def ready(url: str) -> None:
        print_message(f"dashboard: {url} (Ctrl-C ends it), report: {url.rstrip('/')}{PATH}")
        notes_thread.start()

    # In the background, because it takes seconds; not a daemon, so that the end of the process waits for it.
    notes_thread = threading.Thread(target=lambda: notes.update_all_pages(engine, lambda: context.digits))
    report = ReportPage(engine, shipped_report, experiments)
    server.serve(engine, host=host, port=port, report=report, ready=ready)
    if notes_thread.ident is not None:
        notes_thread.join()  # it needs the database, which is closed next
