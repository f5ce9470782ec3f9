"""`hpo report`, `hpo trial`, `hpo dashboard`."""

from pathlib import Path

import click

from hpo.cli.context import Context, format_option, pass_context, print_json, print_table, say


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="report", help="The folder to write to.")
@format_option
@pass_context
def report(context: Context, out: Path, form: str) -> None:
    """Write the comparison as one HTML file, JSON and CSV, and show its table.

    \b
    Example:
      hpo report --out report
    """
    from hpo.analysis import report as reports
    from hpo.analysis import results, terminal

    engine = context.engine()
    files = reports.write_report(engine, out)
    if form == "json":
        click.echo(Path(files.json).read_text(), nl=False)
    else:
        print_table(terminal.comparison_table(results.all_results(engine)))
    say(f"report: {files.html}")


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
    """Show one search trial: parameters, what came of it, why.

    \b
    Example:
      hpo trial show ws 17 --format json
    """
    from hpo.analysis import results, terminal

    found = results.trial(context.engine(), name, number)
    if form == "json":
        print_json(found)
    else:
        print_table(terminal.trial_detail(found))


@click.command()
@click.option("--host", default="127.0.0.1", help="The address to listen on: this machine's own alone.")
@click.option("--port", type=click.IntRange(1, 65535), default=8080, help="The port to listen on.")
@pass_context
def dashboard(context: Context, host: str, port: int) -> None:
    """Browse the studies in optuna-dashboard, on this machine alone.

    \b
    Example:
      hpo dashboard --port 8081
    """
    from hpo import dashboard as server

    engine = context.engine()
    server.serve(engine, host=host, port=port, ready=lambda url: say(f"dashboard: {url} (Ctrl-C ends it)"))
