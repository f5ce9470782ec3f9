"""`hpo db`: the database's schema."""

import click

from hpo.cli.context import Context, pass_context, say


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
    """Bring the schema to this version; makes it where there is none.

    \b
    Example:
      hpo --db postgresql+psycopg://hpo@db/hpo db upgrade
    """
    from hpo.storage import migrate
    from hpo.storage.engine import open_engine

    say(f"database: {migrate.upgrade(open_engine(context.url))}")


@db.command()
@pass_context
def check(context: Context) -> None:
    """Say whether the schema is this version's; exit code 1 where it is not.

    \b
    Example:
      hpo db check
    """
    context.engine()
    say("database: the schema is this version's")
