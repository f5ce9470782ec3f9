"""What the two drivers raise: whether waiting may help, and what a user is told.

Loads psycopg only where an error is not SQLite's: a command on a SQLite file starts a tenth of a second sooner.
"""

import sqlite3
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from hpo.storage.refusals import remedy

if TYPE_CHECKING:
    import psycopg

_TRANSIENT_SQLITE = ("locked", "busy", "disk is full", "disk i/o error", "unable to open", "readonly")


def _postgresqls(error: BaseException) -> "psycopg.Error | None":
    """What psycopg has raised; None where it was not psycopg."""
    original = getattr(error, "orig", None)
    if original is None or isinstance(original, sqlite3.Error):
        return None
    import psycopg

    return original if isinstance(original, psycopg.Error) else None


def is_transient_dbapi(error: DBAPIError) -> bool:
    """Whether waiting may help."""
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.OperationalError):
        return any(word in str(error.orig).lower() for word in _TRANSIENT_SQLITE)
    if (original := _postgresqls(error)) is None:
        return False
    from psycopg import InterfaceError, OperationalError
    from psycopg.errors import ReadOnlySqlTransaction  # a standby, which takes over or is left again

    transient = isinstance(original, OperationalError | InterfaceError | ReadOnlySqlTransaction)
    return transient and remedy(original) is None


def remedy_of(error: DBAPIError | PoolTimeout) -> str | None:
    """What a user can do about what PostgreSQL or libpq refuses; None where it is something else."""
    if (original := _postgresqls(error)) is None:
        return None
    connecting = isinstance(error, DBAPIError) and error.statement is None
    return remedy(original) or ("correct the URL or libpq's variables" if connecting else None)


def is_missing_table(error: BaseException) -> bool:
    """Whether a table or column is not there."""
    original = getattr(error, "orig", None)
    if isinstance(original, sqlite3.OperationalError):
        return str(original).startswith(("no such table", "no such column"))
    if _postgresqls(error) is None:
        return False
    from psycopg.errors import UndefinedColumn, UndefinedTable

    return isinstance(original, UndefinedTable | UndefinedColumn)


def reason(error: DBAPIError | PoolTimeout) -> str:
    """What the driver says, in one line."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
