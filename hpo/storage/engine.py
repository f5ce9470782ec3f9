"""Engines for the two databases; whatever differs between SQLite and PostgreSQL is in this module.

A transaction declares in advance whether it may write: on SQLite `begin_write` takes the write lock at once
(a reader that becomes a writer half-way cannot wait for it), `begin_read` takes none.
"""

import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import (
    ColumnElement,
    Connection,
    DateTime,
    Engine,
    Float,
    Insert,
    String,
    Table,
    create_engine,
    event,
    func,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlalchemy.sql.functions import FunctionElement

from hpo.errors import DatabaseError, DatabaseUnreachable, SchemaError
from hpo.storage.refusals import is_password, remedy
from hpo.storage.urls import parse, set_by_user, shown

BUSY_TIMEOUT = 30.0  # seconds a SQLite connection waits for another writer, unless the URL has `timeout`
CONNECT_TIMEOUT = 10  # seconds to reach PostgreSQL
LIMITS = {  # of PostgreSQL, in seconds, wherever neither the user nor the server's administrator has set another
    "statement_timeout": 60,
    "lock_timeout": 20,
    "idle_in_transaction_session_timeout": 60,  # of a frozen client that holds its locks
}
SQLITE_LEAST = (3, 35)  # RETURNING

READ_ONLY = {"hpo_read_only": True}  # execution option of connections that only read

_NETWORK_FILE_SYSTEMS = re.compile(
    r"9p|afs|beegfs|ceph|cifs|davfs|glusterfs|gpfs|lustre|ncpfs|nfs4?|ocfs2|smb[23]|smbfs"
    r"|fuse\.(ceph|gcsfuse|glusterfs|goofys|juicefs|mount\.davfs2|rclone|s3fs|s3ql|smbnetfs|sshfs)"
)
_TRANSIENT_POSTGRESQL = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,  # a standby, which takes over or is left again
)
_TRANSIENT_SQLITE = ("locked", "busy", "disk is full", "disk i/o error", "unable to open", "readonly")


def open_engine(url: str, *, application_name: str = "hpo", reread: Callable[[], str] | None = None) -> Engine:
    """Open the database at `url`: every connection of the engine is safe for several processes at once.

    `reread` gives the URL anew where PostgreSQL no longer takes the password of `url`.

    Raises UsageError for an unsupported URL, DatabaseError where the place cannot hold a database,
    DatabaseUnreachable where the server does not answer. A missing SQLite file is created by the first statement.
    """
    parsed = parse(url)
    if parsed.get_backend_name() == "sqlite":
        return _open_sqlite(parsed)
    return _open_postgresql(parsed, application_name, reread)


@contextmanager
def begin_write(engine: Engine) -> Iterator[Connection]:
    """One transaction that may write; raises DatabaseUnreachable where the database does not answer."""
    with translated(engine), engine.begin() as connection:
        yield connection


@contextmanager
def begin_read(engine: Engine) -> Iterator[Connection]:
    """One transaction that only reads; raises DatabaseUnreachable where the database does not answer."""
    with translated(engine), engine.execution_options(**READ_ONLY).begin() as connection:
        yield connection


@contextmanager
def begin_change(engine: Engine) -> Iterator[Connection]:
    """One transaction that may change tables; raises DatabaseUnreachable where the database does not answer.

    Where SQLite cannot alter a table it is made anew, and dropping the old one would delete the rows that refer to it.
    So foreign keys hold no more until the end, when no row may lack what it refers to but those that did before.
    """
    with translated(engine), engine.connect() as connection:
        connection.detach()  # closed at the end: no other transaction gets it
        if engine.dialect.name == "sqlite":
            _without_foreign_keys(connection)
        with connection.begin():
            broken = _broken_references(connection)
            yield connection
            if new := _broken_references(connection) - broken:
                table, row, parent = min(new)
                raise SchemaError(
                    f"{display_url(engine)}: nothing was changed, for row {row} of {table} would have lost its row of "
                    f"{parent}; please report it"
                )


class now(FunctionElement[float]):
    """The database's clock as SQL: seconds since 1970, moving on within a transaction."""

    type = Float(53)
    inherit_cache = True


@compiles(now, "sqlite")
def _now_sqlite(element: now, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"  # unixepoch('subsec') is NULL before 3.42


@compiles(now, "postgresql")
def _now_postgresql(element: now, compiler: Any, **options: Any) -> str:
    return "extract(epoch from clock_timestamp())::double precision"  # now() is the transaction's start


def utc_now(dialect: Dialect) -> ColumnElement[datetime] | datetime:
    """The database's clock as Optuna's columns have times, naive and in UTC; SQLite's clock is this machine's."""
    if dialect.name == "sqlite":
        return datetime.now(tz=UTC).replace(tzinfo=None)  # in microseconds, where its SQL counts milliseconds
    return func.timezone("utc", func.clock_timestamp(), type_=DateTime())


class eight_hex_digits(FunctionElement[str]):
    """A whole number as SQL writes it in eight hexadecimal digits."""

    type = String(8)
    inherit_cache = True


@compiles(eight_hex_digits, "sqlite")
def _eight_hex_digits_sqlite(element: eight_hex_digits, compiler: Any, **options: Any) -> str:
    return f"printf('%08x', {compiler.process(element.clauses, **options)})"


@compiles(eight_hex_digits, "postgresql")
def _eight_hex_digits_postgresql(element: eight_hex_digits, compiler: Any, **options: Any) -> str:
    return f"lpad(to_hex({compiler.process(element.clauses, **options)}), 8, '0')"


def insert_if_absent(dialect: Dialect, table: Table) -> Insert:
    """An INSERT that skips rows whose unique key already exists."""
    if dialect.name == "sqlite":
        return sqlite.insert(table).on_conflict_do_nothing()
    return postgresql.insert(table).on_conflict_do_nothing()


def display_url(engine: Engine) -> str:
    """The database's URL for display: without passwords."""
    return shown(engine.url)


def is_missing(engine: Engine) -> bool:
    """Whether the database is a SQLite file that does not exist yet."""
    return engine.dialect.name == "sqlite" and not Path(str(engine.url.database)).exists()


def is_transient(error: BaseException | None) -> bool:
    """Whether waiting may help: the error, or its cause, is that the database does not answer at the moment."""
    while error is not None:
        if isinstance(error, DatabaseUnreachable | PoolTimeout):
            return True
        if isinstance(error, DBAPIError):
            return _is_transient_dbapi(error)
        error = error.__cause__  # Optuna wraps what SQLAlchemy raised
    return False


def why_transient(error: BaseException) -> str:
    """The driver's message, in one line, of an error that `is_transient`."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, DBAPIError | PoolTimeout):
            return _reason(inner)
        inner = inner.__cause__
    return type(error).__name__


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """Turn the drivers' errors about an unreachable, locked or unprepared database into one line."""
    try:
        yield
    except (DBAPIError, PoolTimeout) as error:
        if is_transient(error):
            raise DatabaseUnreachable(
                f"{display_url(engine)}: {_reason(error)}; check that the database runs, has room and takes writes, "
                "then try again"
            ) from error
        if _is_missing_table(error):
            raise SchemaError(
                f"{display_url(engine)} lacks a table or column of hpo's; run `hpo db upgrade`"
            ) from error
        if (action := _remedy(error)) is not None:
            raise DatabaseError(f"{display_url(engine)}: {_reason(error)}; {action}") from error
        if "not a database" in str(error):
            raise DatabaseError(f"{display_url(engine)} is not a SQLite database; name another file") from error
        if "malformed" in str(error):
            raise DatabaseError(
                f"{display_url(engine)}: the file is damaged; put back a copy of it, or save what can be read with "
                "`sqlite3 FILE .recover`"
            ) from error
        raise


# --- SQLite ---------------------------------------------------------------------------------------------


def _open_sqlite(url: URL) -> Engine:
    if sqlite3.sqlite_version_info < SQLITE_LEAST:
        raise DatabaseError(
            f"SQLite {sqlite3.sqlite_version} of this Python is too old, hpo needs 3.35; use a newer Python "
            "or PostgreSQL"
        )
    path = Path(str(url.database))
    _check_place(path)
    arguments = {"timeout": float(str(url.query.get("timeout", BUSY_TIMEOUT))), "check_same_thread": False}
    engine = create_engine(url, poolclass=QueuePool, connect_args=arguments)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    if path.exists():
        with begin_read(engine) as connection:
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
    return engine


def _check_place(path: Path) -> None:
    folder = path.absolute().parent
    if not folder.is_dir():
        raise DatabaseError(f"{path}: the folder {folder} does not exist; make it or name another database")
    if path.is_dir():
        raise DatabaseError(f"{path} is a folder; name a file in it, such as {path / 'hpo.db'}")
    if not os.access(folder, os.W_OK | os.X_OK):  # beside the file stand its -wal and -shm
        raise DatabaseError(f"{path}: the folder {folder} is not writable; change that or name another database")
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise DatabaseError(f"{path} is not readable and writable; change that or name another database")
    kind = file_system(folder)
    if kind is not None and _NETWORK_FILE_SYSTEMS.fullmatch(kind):
        raise DatabaseError(
            f"{path} lies on a network file system ({kind}), where SQLite loses data; use a local folder, or "
            "PostgreSQL for workers on several machines"
        )


def file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """The type of the file system that holds `folder`, or None where the system does not provide it."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:  # not Linux
        return None
    folder, best, kind = folder.resolve(), -1, None
    for line in lines:
        _, where, what, *_ = line.split()
        mount = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), where))
        # Of two mounts on one folder the later hides the earlier.
        if folder.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), what
    return kind


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:
    connection.isolation_level = None  # `_begin_sqlite` begins the transactions, not the driver
    connection.execute("PRAGMA foreign_keys = ON")
    # Two connections that switch a new file at the same time do not wait for each other, whatever the busy timeout.
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
            continue
        break
    if mode != "wal":
        raise DatabaseError("this SQLite file cannot have a write-ahead log; move it to a local folder")


def _without_foreign_keys(connection: Connection) -> None:
    driver = connection.connection.dbapi_connection  # past SQLAlchemy: in a transaction the first is ignored
    assert isinstance(driver, sqlite3.Connection)
    driver.execute("PRAGMA foreign_keys = OFF")
    driver.execute("PRAGMA legacy_alter_table = ON")  # else a view of the table forbids its renaming


def _broken_references(connection: Connection) -> set[tuple[str, int, str]]:
    """Rows that refer to one that is not there, on SQLite: their table, their id, the other table."""
    if connection.dialect.name != "sqlite":
        return set()
    return {(row[0], row[1], row[2]) for row in connection.exec_driver_sql("PRAGMA foreign_key_check")}


def _begin_sqlite(connection: Connection) -> None:
    read_only = connection.get_execution_options().get("hpo_read_only", False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


# --- PostgreSQL -----------------------------------------------------------------------------------------


def _open_postgresql(url: URL, application_name: str, reread: Callable[[], str] | None) -> Engine:
    ours = {
        "fallback_application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT,
        # A cut cable is noticed after about a minute, not after two hours.
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,  # milliseconds
    }
    users = set_by_user(url)
    engine = create_engine(
        url,
        pool_size=2,  # seldom do more than two threads of a worker use the database at once
        max_overflow=3,
        pool_pre_ping=True,
        pool_recycle=1800,
        connect_args={
            **{name: value for name, value in ours.items() if name not in users},
            "client_encoding": "utf8",  # a database of SQL_ASCII would answer in bytes
            "prepare_threshold": None,  # behind PgBouncer the next transaction may run on another server connection
        },
    )
    if reread is not None:
        event.listen(engine, "do_connect", _PasswordReader(url, reread))
    event.listen(engine, "connect", _note_limits)
    event.listen(engine, "begin", _set_limits)
    with translated(engine), engine.connect():
        pass
    return engine


class _PasswordReader:
    """Connects an engine; where the password is refused, with the role and password that the URL's file has by now."""

    def __init__(self, url: URL, reread: Callable[[], str]) -> None:
        self._url, self._reread = url, reread

    def __call__(
        self, dialect: Dialect, record: ConnectionPoolEntry, arguments: Sequence[Any], parameters: Mapping[str, Any]
    ) -> DBAPIConnection:
        tried = self._url  # another thread may put a newer one in its place meanwhile
        try:
            return dialect.connect(*arguments, **{**parameters, **_credentials(tried)})
        except psycopg.OperationalError as error:
            fresh = parse(self._reread()) if is_password(error) else tried
            if fresh == tried:
                raise
            if _place(fresh) != _place(tried):
                raise DatabaseError(
                    f"{shown(tried)} no longer takes the password, and the URL's file names another database by "
                    f"now, {shown(fresh)}; start again to use that"
                ) from error
            self._url = fresh
            return dialect.connect(*arguments, **{**parameters, **_credentials(fresh)})


def _credentials(url: URL) -> dict[str, str]:
    given = {"user": url.username, "password": url.password}
    return {name: value for name, value in given.items() if value is not None}


def _place(url: URL) -> tuple[object, ...]:
    return url.host, url.port, url.database, url.query


def _note_limits(connection: psycopg.Connection[Any], record: ConnectionPoolEntry) -> None:
    """Keep beside the connection the SQL that sets the limits which nobody else has set, None where there are none."""
    query = "SELECT name FROM pg_settings WHERE source = 'default' AND name = ANY(%s)"
    unset = [name for (name,) in connection.execute(query, [list(LIMITS)])]
    connection.rollback()
    calls = [f"set_config('{name}', '{LIMITS[name]}s', true)" for name in unset]
    record.info["hpo_limits"] = f"SELECT {', '.join(calls)}" if calls else None


def _set_limits(connection: Connection) -> None:
    # For the transaction alone: PgBouncer refuses them when connecting, and a session may be anybody's there.
    if (limits := connection.info["hpo_limits"]) is not None:
        connection.exec_driver_sql(limits)


# --- What the drivers raise -------------------------------------------------------------------------------


def _is_transient_dbapi(error: DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    original = error.orig
    if isinstance(original, psycopg.Error):
        return remedy(original) is None and isinstance(original, _TRANSIENT_POSTGRESQL)
    if isinstance(original, sqlite3.OperationalError):
        return any(word in str(original).lower() for word in _TRANSIENT_SQLITE)
    return False


def _remedy(error: DBAPIError | PoolTimeout) -> str | None:
    """What a user can do about what PostgreSQL or libpq refuses; None where it is something else."""
    original = getattr(error, "orig", None)
    if not isinstance(original, psycopg.Error):
        return None
    connecting = isinstance(error, DBAPIError) and error.statement is None
    return remedy(original) or ("correct the URL or libpq's variables" if connecting else None)


def _is_missing_table(error: BaseException) -> bool:
    original = getattr(error, "orig", None)
    return isinstance(original, psycopg.errors.UndefinedTable | psycopg.errors.UndefinedColumn) or (
        isinstance(original, sqlite3.OperationalError) and str(original).startswith(("no such table", "no such column"))
    )


def _reason(error: DBAPIError | PoolTimeout) -> str:
    text = str(getattr(error, "orig", None) or error).strip()
    return text.splitlines()[0] if text else type(error).__name__
