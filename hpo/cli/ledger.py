"""`hpo ledger`: every opening of a test pool."""

import click

from hpo.cli.context import Context, format_option, pass_context, print_json, print_table


@click.command()
@format_option
@pass_context
def ledger(context: Context, form: str) -> None:
    """Show all that was tested on the test pools.

    Deleted studies are in it too. A line for each configuration of a study; as JSON every single opening with its
    round, worker and time. No command erases anything here.

    \b
    Example:
      hpo ledger
      hpo ledger --format json
    """
    from dataclasses import asdict

    from hpo.report import terminal
    from hpo.storage.ledger import read_ledger

    engine = context.engine()
    entries = read_ledger(engine)
    if form == "json":
        plain = [asdict(entry) for entry in entries]
        print_json([{name: value for name, value in of_entry.items() if name != "spec"} for of_entry in plain])
    else:
        print_table(terminal.ledger_table(entries))
