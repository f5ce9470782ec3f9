"""`hpo db`: the database's schema."""

import click

from hpo.cli.context import Context, format_option, pass_context, print_json, print_message, print_table


@click.group()
def db() -> None:
    """Upgrade or check the database's schema, hpo's and Optuna's.

    \b
    Example:
      hpo db upgrade
    """


@db.command()
@pass_context
def upgrade(context: Context) -> None:
    """Upgrade the schema to this version, or create it.

    Workers may be running: those of the former version notice, give their slots back and end with exit code 3.

    \b
    Example:
      hpo --db postgresql+psycopg://hpo@db/hpo db upgrade
    """
    from hpo.storage import migrate

    done = migrate.upgrade(context.connect())
    for line in done or ["nothing to do, the schema is up to date"]:
        print_message(f"database: {line}")


@db.command("new-identity")
@pass_context
def new_identity(context: Context) -> None:
    """Give a restored backup an identity of its own.

    A backup has the identity of the database that it was made of. With another one, workers that still use the
    original, or what was at this place before, end with one line and do not touch it, and results that they left on
    disk are not taken for its own.

    \b
    Example:
      hpo db new-identity
    """
    from hpo.storage import identity, migrate

    engine = context.connect()
    migrate.check(engine)
    print_message(f"database: its identity is now {identity.renew(engine)}")


@db.command()
@format_option
@pass_context
def check(context: Context, form: str) -> None:
    """Check that the schema is the one of this version.

    Exit code 1 where it is not, with one line on what to do.

    \b
    Example:
      hpo db check
    """
    from hpo.storage import migrate

    versions = migrate.versions(context.engine())
    if form == "json":
        print_json({owner: {"found": version, "needed": needed} for owner, (version, needed) in versions.items()})
        return
    from rich.table import Table

    table = Table("tables of", "version found", "version needed")
    for owner, (version, needed) in versions.items():
        table.add_row(owner, version or "-", needed)
    print_table(table)
    print_message("database: the schema is up to date")
