"""Engines for the two databases; whatever differs between SQLite and PostgreSQL is in this module.

A transaction declares in advance whether it may write: on SQLite `begin_write` takes the write lock at once
(a reader that becomes a writer half-way cannot wait for it), `begin_read` takes none.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool
from sqlalchemy.sql.functions import FunctionElement

from hpo.errors import DatabaseError, DatabaseReplaced, DatabaseUnreachable, DatabaseUpgraded, SchemaError
from hpo.storage import sqlite_file
from hpo.storage.driver_errors import is_missing_table, is_transient_dbapi, reason, remedy_of
from hpo.storage.refusals import is_password
from hpo.storage.urls import parse, set_by_user, shown

if TYPE_CHECKING:
    import psycopg  # loaded with a PostgreSQL database alone, as SQLAlchemy's dialect of it is

BUSY_TIMEOUT = 30.0  # seconds a SQLite connection waits for another writer, unless the URL has `timeout`
CONNECT_TIMEOUT = 10  # seconds to reach PostgreSQL
LIMITS = {  # of PostgreSQL, in seconds, wherever neither the user nor the server's administrator has set another
    "statement_timeout": 60,
    "lock_timeout": 20,
    "idle_in_transaction_session_timeout": 60,  # of a frozen client that holds its locks
}
SQLITE_LEAST = (3, 35)  # RETURNING

MOST_LISTED = 500  # ids that a statement lists one by one

READ_ONLY = {"hpo_read_only": True}  # execution option of connections that only read
_IDENTITY, _FILE, _REVISIONS = "hpo_identity", "hpo_file", "hpo_revisions"  # options of an engine held to its database
_UNTOUCHED = "; nothing was written to that one, start again to use it"


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


def hold_to(engine: Engine, identity: str, revisions: Mapping[str, str]) -> None:
    """From now on a transaction raises, and does nothing, where the database or its tables are others than these.

    DatabaseReplaced where another database is in its place; DatabaseUpgraded where one of the `revisions`, by the table
    that keeps it, is another.
    """
    there = sqlite_file.which(str(engine.url.database)) if engine.dialect.name == "sqlite" else None
    engine.update_execution_options(**{_IDENTITY: identity, _FILE: there, _REVISIONS: dict(revisions)})


def of_any_revision(engine: Engine) -> Engine:
    """The same database, held to its identity alone: for the little that is right in tables of later versions too."""
    return engine.execution_options(**{_REVISIONS: {}})


def held_to(engine: Engine) -> str | None:
    """The identity of the database that the engine is held to, None where it is not."""
    identity: str | None = engine.get_execution_options().get(_IDENTITY)
    return identity


def _check_held(connection: Connection, *beside: str) -> None:
    """Raise where the database is another than the engine is held to, or its tables are; `beside` is selected too.

    One question, for each takes a journey. On PostgreSQL nobody can change tables any more until the transaction ends:
    who wants to, waits for all that have read the revisions (`migrate.upgrade`).
    """
    revisions: Mapping[str, str] = connection.get_execution_options()[_REVISIONS]
    asked = ["SELECT identity FROM hpo_database", *(f"SELECT version_num FROM {table}" for table in revisions)]
    columns = [*(f"({query})" for query in asked), *beside]
    try:
        identity, *rest = connection.exec_driver_sql(f"SELECT {', '.join(columns)}").one()
    except DBAPIError as error:
        if not is_missing_table(error):
            raise
        identity, rest = None, []
    where = display_url(connection.engine)
    if identity != held_to(connection.engine):
        raise DatabaseReplaced(f"{where}: another database took its place while this process used it{_UNTOUCHED}")
    for expected, actual in zip(revisions.values(), rest, strict=False):
        if actual != expected:
            raise DatabaseUpgraded(
                f"{where}: its tables were brought from version {expected} to {actual} while this process used them; "
                "install the hpo that did it (`hpo --version` there) and start again"
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
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table).on_conflict_do_nothing()


def insert_or_replace(dialect: Dialect, table: Table, key: Sequence[str], replaced: Sequence[str]) -> Insert:
    """An INSERT that replaces these columns of rows whose unique key already exists."""
    from sqlalchemy.dialects import postgresql

    inserted = sqlite.insert(table) if dialect.name == "sqlite" else postgresql.insert(table)
    values = {name: inserted.excluded[name] for name in replaced}
    replacing: Insert = inserted.on_conflict_do_update(index_elements=list(key), set_=values)
    return replacing


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
            return is_transient_dbapi(error)
        error = error.__cause__  # Optuna wraps what SQLAlchemy raised
    return False


def why_transient(error: BaseException) -> str:
    """The driver's message, in one line, of an error that `is_transient`."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, DBAPIError | PoolTimeout):
            return reason(inner)
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
                f"{display_url(engine)}: {reason(error)}; check that the database runs, has room and takes writes, "
                "then try again"
            ) from error
        if is_missing_table(error):
            raise SchemaError(
                f"{display_url(engine)} lacks a table or column of hpo's; run `hpo db upgrade`"
            ) from error
        if (action := remedy_of(error)) is not None:
            raise DatabaseError(f"{display_url(engine)}: {reason(error)}; {action}") from error
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
    sqlite_file.check_place(path)
    arguments = {"timeout": float(str(url.query.get("timeout", BUSY_TIMEOUT))), "check_same_thread": False}
    engine = create_engine(url, poolclass=QueuePool, connect_args=arguments)
    event.listen(engine, "do_connect", lambda *_: _check_file(engine))  # before it, for it would make a missing file
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    if path.exists():
        with begin_read(engine) as connection:
            connection.exec_driver_sql("SELECT count(*) FROM sqlite_master")
    return engine


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
    _check_file(connection.engine)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
    if connection.get_execution_options().get(_IDENTITY) is not None:
        _check_held(connection)


def _check_file(engine: Engine) -> None:
    """Raise DatabaseReplaced where the engine is held to another file than the one that is there."""
    held = engine.get_execution_options().get(_FILE)
    if held is None or (there := sqlite_file.which(str(engine.url.database))) == held:
        return
    how = "another file was put in its place" if there else "the file was moved or removed"
    what_next = _UNTOUCHED if there else "; put it back, or start again"
    raise DatabaseReplaced(f"{display_url(engine)}: {how} while this process used it{what_next}")


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
        pool_size=1,  # a worker at rest has one; where its threads ask at once, others are opened and closed
        max_overflow=4,
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
    event.listen(engine, "begin", _begin_postgresql)
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
        from psycopg import OperationalError

        tried = self._url  # another thread may put a newer one in its place meanwhile
        try:
            return dialect.connect(*arguments, **{**parameters, **_credentials(tried)})
        except OperationalError as error:
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


def _note_limits(connection: "psycopg.Connection[Any]", record: ConnectionPoolEntry) -> None:
    """Keep beside the connection the SQL that sets each of the limits which nobody else has set."""
    query = "SELECT name FROM pg_settings WHERE source = 'default' AND name = ANY(%s)"
    unset = [name for (name,) in connection.execute(query, [list(LIMITS)])]
    connection.rollback()
    record.info["hpo_limits"] = [f"set_config('{name}', '{LIMITS[name]}s', true)" for name in unset]


def _begin_postgresql(connection: Connection) -> None:
    # For the transaction alone: PgBouncer refuses limits when connecting, and a session may be anybody's there; nor
    # does a connection to it end when its database is replaced.
    limits = connection.info["hpo_limits"]
    if connection.get_execution_options().get(_IDENTITY) is not None:
        _check_held(connection, *limits)
    elif limits:
        connection.exec_driver_sql(f"SELECT {', '.join(limits)}")
