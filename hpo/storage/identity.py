"""What tells this database from any other at the same place, and the key of what its workers keep in files."""

from sqlalchemy import ColumnElement, Engine, select

from hpo.errors import SchemaError
from hpo.storage.engine import begin_read, display_url
from hpo.storage.schema import database


def identity_of(engine: Engine) -> str:
    """The database's identity; SchemaError where it has none."""
    return _read(engine, database.c.identity)


def key_of(engine: Engine) -> bytes:
    """The key that seals what workers of this database keep in files, 32 bytes; SchemaError where it has none."""
    return bytes.fromhex(_read(engine, database.c.key))


def _read(engine: Engine, column: ColumnElement[str]) -> str:
    with begin_read(engine) as connection:
        value: str | None = connection.scalar(select(column))
    if value is None:
        raise SchemaError(f"{display_url(engine)}: hpo_database has no row; restore a backup that has one")
    return value
