"""What tells this database from any other at the same place, and the key of what its workers keep in files."""

import re
import secrets

from sqlalchemy import ColumnElement, Engine, insert, select, update

from hpo.errors import SchemaError
from hpo.storage import migrate
from hpo.storage.engine import begin_read, begin_write, display_url, held_to, hold_to
from hpo.storage.schema import IDENTITY_LENGTH, KEY_LENGTH, database

_HEXADECIMAL = re.compile(r"[0-9a-f]+")


def hold(engine: Engine) -> None:
    """From now on the engine is of this database alone, with tables of this version: another is not touched.

    A transaction raises DatabaseReplaced there, or DatabaseUpgraded.
    Raises SchemaError where the database has no identity.
    """
    hold_to(engine, identity_of(engine), migrate.heads())


def identity_of(engine: Engine) -> str:
    """The database's identity; SchemaError where it has none."""
    return held_to(engine) or _read(engine, database.c.identity)


def key_of(engine: Engine) -> bytes:
    """The key that signs what workers of this database keep in files, 32 bytes; SchemaError where it has none."""
    return bytes.fromhex(_read(engine, database.c.key))


def renew(engine: Engine) -> str:
    """Give the database a new identity, and a key where it has none: to who used it or its original it is another."""
    identity = secrets.token_hex(IDENTITY_LENGTH // 2)
    with begin_write(engine) as connection:
        if connection.execute(update(database).values(identity=identity)).rowcount == 0:
            row = {"id": 1, "identity": identity, "key": secrets.token_hex(KEY_LENGTH // 2)}
            connection.execute(insert(database).values(row))
    return identity


def _read(engine: Engine, column: ColumnElement[str]) -> str:
    with begin_read(engine) as connection:
        value: str | None = connection.scalar(select(column))
    if value is None or not _HEXADECIMAL.fullmatch(value):  # the first is part of a folder's name
        raise SchemaError(f"{display_url(engine)} has no identity; `hpo db new-identity` gives it one")
    return value
