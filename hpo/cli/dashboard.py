"""`hpo dashboard`."""

import threading

import click

from hpo.cli.context import Context, pass_context, print_message


@click.command()
@click.option("--host", default="127.0.0.1", help="The address to listen on; only loopback addresses are allowed.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, help="The port to listen on.")
@pass_context
def dashboard(context: Context, host: str, port: int) -> None:
    """Browse the studies in optuna-dashboard.

    It listens on this machine only, because it has no password protection.

    \b
    Example:
      hpo dashboard --port 8081
    """
    from hpo.server import notes
    from hpo.server import optuna_app as server

    engine = context.engine()

    def ready(url: str) -> None:
        print_message(f"dashboard: {url} (Ctrl-C ends it)")
        notes_thread.start()

    # In the background, because it takes seconds; not a daemon, so that the end of the process waits for it.
    notes_thread = threading.Thread(target=lambda: notes.update_all_pages(engine))
    server.serve(engine, host=host, port=port, ready=ready)
    if notes_thread.ident is not None:
        notes_thread.join()  # it needs the database, which is closed next
