"""`hpo db`: the database's schema."""

import click

from hpo.cli.context import Context, format_option, pass_context, print_json, print_table, say


@click.group()
def db() -> None:
    """Upgrade or check the database's schema, ours and Optuna's.

    \b
    Example:
      hpo db upgrade
    """


@db.command()
@pass_context
def upgrade(context: Context) -> None:
    """Bring the schema to this version; make it where there is none.

    \b
    Example:
      hpo --db postgresql+psycopg://hpo@db/hpo db upgrade
    """
    from hpo.storage import migrate

    done = migrate.upgrade(context.connect())
    for line in done or ["nothing to do, the schema is this version's"]:
        say(f"database: {line}")


@db.command()
@format_option
@pass_context
def check(context: Context, form: str) -> None:
    """Say whether the schema is this version's.

    Exit code 1 where it is not: one line says what to do.

    \b
    Example:
      hpo db check
    """
    from hpo.storage import migrate

    found = migrate.versions(context.engine())
    if form == "json":
        print_json({owner: {"found": there, "needed": needed} for owner, (there, needed) in found.items()})
        return
    from rich.table import Table

    table = Table("tables of", "version found", "version needed")
    for owner, (there, needed) in found.items():
        table.add_row(owner, there or "-", needed)
    print_table(table)
    say("database: the schema is this version's")
