"""`hpo dashboard`."""

import threading

import click

from hpo.cli.context import Context, pass_context, say


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
    meanwhile = threading.Thread(target=lambda: notes.update_all_pages(engine))
    server.serve(engine, host=host, port=port, ready=ready)
    if meanwhile.ident is not None:
        meanwhile.join()  # it needs the database, which is closed next
