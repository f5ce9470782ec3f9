"""`hpo dashboard`."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.context import Context, experiments_option, pass_context, print_message

if TYPE_CHECKING:
    from hpo.report.shipped import ShippedReport


@click.command()
@click.option("--host", default="127.0.0.1", help="The address to listen on; any but loopback demands users.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, help="The port to listen on.")
@click.option(
    "--public-url",
    metavar="URL",
    envvar="HPO_PUBLIC_URL",
    show_envvar=True,
    help="How browsers reach it through a proxy, as https://lab.example: the only host and origin that is then served.",
)
@click.option(
    "--proxy-header",
    metavar="NAME",
    help="A header in which a proxy that logs users in says who they are, as X-Forwarded-User.",
)
@click.option(
    "--proxy-secret-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file with the secret that this proxy sends as X-Hpo-Proxy-Secret.",
)
@experiments_option
@pass_context
def dashboard(
    context: Context,
    host: str,
    port: int,
    public_url: str | None,
    proxy_header: str | None,
    proxy_secret_file: Path | None,
    locators: tuple[str, ...],
) -> None:
    """Serve the lab's site, and optuna-dashboard in it.

    An overview of all studies, a page for each, the workers and the report.

    Whoever opens it logs in: as a user that `hpo user` knows, or, while there are none, with the token in the address
    that this command prints. The report of all studies is at /report, made when it is asked for; with --experiment it
    has that experiment's own sections too, whose code runs in a process of its own. /metrics is for Prometheus, which
    sends a token of `hpo token`.

    \b
    Example:
      hpo dashboard --port 8081
      hpo dashboard --public-url https://lab.example
      hpo dashboard --experiment cancer.py
    """
    from hpo.experiment.prepare import prepared
    from hpo.server import notes
    from hpo.server.report_page import ReportPage
    from hpo.server.site import SiteOptions, serve_site

    engine = context.engine()
    experiments = [prepared(locator) for locator in locators]

    def shipped_report() -> "ShippedReport":
        from hpo.report.contents import shipped_report_of

        return shipped_report_of(context.digits)

    def ready(url: str) -> None:
        print_message(f"dashboard: {url} (Ctrl-C ends it)")
        notes_thread.start()

    # In the background, because it takes seconds; not a daemon, so that the end of the process waits for it.
    notes_thread = threading.Thread(target=lambda: notes.update_all_pages(engine, lambda: context.digits))
    options = SiteOptions(
        host=host,
        port=port,
        public_url=public_url,
        proxy_header=proxy_header,
        proxy_secret_file=proxy_secret_file,
    )
    serve_site(engine, options, ReportPage(engine, shipped_report, experiments), ready)
    if notes_thread.ident is not None:
        notes_thread.join()  # it needs the database, which is closed next
