"""What the two drivers raise: whether waiting may help, and what a user is told."""

import sqlite3

import psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from hpo.storage.refusals import remedy

_TRANSIENT_POSTGRESQL = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,  # a standby, which takes over or is left again
)
_TRANSIENT_SQLITE = ("locked", "busy", "disk is full", "disk i/o error", "unable to open", "readonly")


def is_transient_dbapi(error: DBAPIError) -> bool:
    """Whether waiting may help."""
    if error.connection_invalidated:
        return True
    original = error.orig
    if isinstance(original, psycopg.Error):
        return remedy(original) is None and isinstance(original, _TRANSIENT_POSTGRESQL)
    if isinstance(original, sqlite3.OperationalError):
        return any(word in str(original).lower() for word in _TRANSIENT_SQLITE)
    return False


def remedy_of(error: DBAPIError | PoolTimeout) -> str | None:
    """What a user can do about what PostgreSQL or libpq refuses; None where it is something else."""
    original = getattr(error, "orig", None)
    if not isinstance(original, psycopg.Error):
        return None
    connecting = isinstance(error, DBAPIError) and error.statement is None
    return remedy(original) or ("correct the URL or libpq's variables" if connecting else None)


def is_missing_table(error: BaseException) -> bool:
    """Whether a table or column is not there."""
    original = getattr(error, "orig", None)
    return isinstance(original, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn) or (
        isinstance(original, sqlite3.OperationalError) and str(original).startswith(("no such table", "no such column"))
    )


def reason(error: DBAPIError | PoolTimeout) -> str:
    """What the driver says, in one line."""
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
