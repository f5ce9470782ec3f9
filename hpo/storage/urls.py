"""A database's URL: which are possible, what may stand in it, and how it is shown."""

import math

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from hpo.errors import UsageError

_SCHEMES = "sqlite:///hpo.db (a file on this machine) or postgresql+psycopg://user@host/name"
_LONGEST_TIMEOUT = 86_400.0  # seconds; SQLite counts them as milliseconds in an int
_OFTEN = {"host", "port"}  # SQLAlchemy joins several of them, for libpq to try one after the other


def parse(url: str) -> URL:
    """The URL's parts; raises UsageError for one that hpo cannot use, with the parameter that it does not know."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The text is not repeated: a slip in it may put the password anywhere.
        raise UsageError(f"the database URL cannot be read; write {_SCHEMES}") from None
    if parsed.drivername in ("sqlite", "sqlite+pysqlite"):
        _check_sqlite(parsed)
    elif parsed.drivername == "postgresql+psycopg":
        _check_postgresql(parsed)
    else:
        raise UsageError(f"databases of scheme {parsed.drivername!r} are not supported; write {_SCHEMES}")
    return parsed


def shown(url: URL) -> str:
    """The URL for display: without passwords."""
    secret = [name for name in url.query if "password" in name.lower()]  # libpq accepts them there too
    return url.difference_update_query(secret).render_as_string(hide_password=True)


def set_by_user(url: URL) -> set[str]:
    """Names of libpq's parameters that the URL, the environment (PGOPTIONS, ...) or PGSERVICE's file sets."""
    environment = {name for name, (value, compiled) in _libpqs().items() if value not in (None, compiled)}
    return environment | set(url.query)


def _libpqs() -> dict[str, tuple[bytes | None, bytes | None]]:
    """The value and the built-in default of each of libpq's parameters; loads psycopg, which SQLite needs not."""
    from psycopg import pq

    return {parameter.keyword.decode(): (parameter.val, parameter.compiled) for parameter in pq.Conninfo.get_defaults()}


def _check_sqlite(url: URL) -> None:
    in_memory = url.database in (None, "", ":memory:")
    if in_memory or str(url.database).startswith("file:") or url.host or url.username:
        raise UsageError("a SQLite database must be a plain file, workers share it; write sqlite:///hpo.db")
    for name, value in url.query.items():
        if name != "timeout":
            raise UsageError(f"{shown(url)}: SQLite's parameter {name!r} is not supported, only timeout; leave it out")
        if not _is_timeout(value):
            raise UsageError(f"{shown(url)}: timeout is the seconds to wait for another writer; write timeout=30")


def _is_timeout(value: str | tuple[str, ...]) -> bool:
    try:
        seconds = float(value)  # type: ignore[arg-type]  # of a tuple, where it is given twice, it is no number either
    except (TypeError, ValueError):
        return False
    return math.isfinite(seconds) and 0 <= seconds <= _LONGEST_TIMEOUT


def _check_postgresql(url: URL) -> None:
    if "@" in (url.host or ""):  # the rest of a password, which must not be shown
        raise UsageError("the database URL has more than one '@'; write one that is part of the password as %40")
    if not url.database:
        raise UsageError(f"{shown(url)} names no database; write postgresql+psycopg://user@host/name")
    known = _libpqs()
    for name, value in url.query.items():
        if name not in known:
            raise UsageError(f"{shown(url)}: PostgreSQL knows no parameter {name!r} of a connection; leave it out")
        if isinstance(value, tuple) and name not in _OFTEN:
            raise UsageError(f"{shown(url)}: {name} is given {len(value)} times; write it once")
    encoding = str(url.query.get("client_encoding", "utf8"))
    if encoding.lower().replace("-", "") not in ("utf8", "unicode"):
        raise UsageError(f"{shown(url)}: hpo reads and writes utf8 alone; leave client_encoding out")
