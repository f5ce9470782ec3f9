"""Opening the two databases: safe for several processes, and one clear line where it cannot be."""

import os
import re
import socket
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy import Engine, literal, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.pool import QueuePool

from hpo.errors import DatabaseError, DatabaseUnreachable, HpoError, SchemaError, UsageError
from hpo.storage import engine as engine_module
from hpo.storage import migrate, sqlite_file
from hpo.storage.engine import (
    READ_ONLY,
    begin_read,
    begin_write,
    display_url,
    eight_hex_digits,
    is_missing,
    is_transient,
    now,
    open_engine,
)
from hpo.storage.optuna_storage import make_storage
from hpo.storage.sqlite_file import file_system
from tests.support.fixtures import OpenDatabase, Postgres, Watch


def line_of(error: pytest.ExceptionInfo[HpoError]) -> str:
    text = str(error.value)
    assert text
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    "url",
    [
        "mysql://user:secret@host/name",
        "postgresql://user:secret@host/name",
        "postgresql+psycopg2://user:secret@host/name",
        "postgresql+psycopg://user:secret@host",
        "user:secret@host",
        "postgresql+psycopg//user:secret@host/name",
        "postgresql+psycopg://user:secret@host:port/name",
        "hpo.db",
        "",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:hpo.db?uri=true",
    ],
)
def test_a_wrong_url_is_wrong_usage(url: str) -> None:
    """The message says what to write, and never the password."""
    with pytest.raises(UsageError) as error:
        open_engine(url)
    assert "secret" not in line_of(error)
    assert "sqlite:///hpo.db" in str(error.value) or "postgresql+psycopg://user@host/name" in str(error.value)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///hpo.db?mode=ro&uri=true",
        "sqlite:///hpo.db?cache=shared",
        "sqlite:///hpo.db?isolation_level=IMMEDIATE",
        "sqlite:///hpo.db?timeout=abc",
        "sqlite:///hpo.db?timeout=nan",
        "sqlite:///hpo.db?timeout=-1",
        "sqlite:///hpo.db?timeout=1&timeout=2",
        "sqlite://user@host/hpo.db",
        "postgresql+psycopg://user:secret@host/name?autocommit=true",
        "postgresql+psycopg://user:secret@host/name?row_factory=x",
        "postgresql+psycopg://user:secret@host/name?prepare_threshold=0",
        "postgresql+psycopg://user:secret@host/name?no_such=1",
        "postgresql+psycopg://user:secret@host/name?options=-cgeqo%3Doff&options=-cjit%3Doff",
        "postgresql+psycopg://user:secret@host/name?client_encoding=latin1",
    ],
)
def test_what_a_url_may_not_ask_for_is_refused_by_name(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is dropped silently, no file is made under another name, and no password shown."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        open_engine(url)
    query = make_url(url).query
    assert not query or any(name in line_of(error) for name in query)
    assert "secret" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_sqlite_url_may_have_another_patience(sqlite_url: str) -> None:
    """`timeout` is in seconds, as the driver has it."""
    engine = open_engine(f"{sqlite_url}?timeout=2.5")
    with begin_read(engine) as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 2_500
    engine.dispose()


def test_a_missing_folder(tmp_path: Path) -> None:
    """The folder is named; the file is not made."""
    with pytest.raises(DatabaseError) as error:
        open_engine(f"sqlite:///{tmp_path}/missing/hpo.db")
    assert f"folder {tmp_path}/missing does not exist" in line_of(error)


def test_a_folder_instead_of_a_file(tmp_path: Path) -> None:
    """A file in it is proposed."""
    with pytest.raises(DatabaseError, match=r"is a folder; name a file in it, such as .*hpo\.db"):
        open_engine(f"sqlite:///{tmp_path}")


def test_an_unwritable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked of the system, for the superuser may write anywhere."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(DatabaseError, match="is not writable"):
        open_engine(f"sqlite:///{tmp_path}/hpo.db")


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, for the file itself."""
    path = tmp_path / "hpo.db"
    path.touch()
    monkeypatch.setattr(os, "access", lambda where, mode: Path(where) != path)
    with pytest.raises(DatabaseError, match="is not readable and writable"):
        open_engine(f"sqlite:///{path}")


def test_some_other_file(tmp_path: Path) -> None:
    """What is no SQLite database is said to be none, and stays as it was."""
    path = tmp_path / "notes.txt"
    path.write_text("not a database " * 100)
    with pytest.raises(DatabaseError, match="is not a SQLite database; name another file") as error:
        open_engine(f"sqlite:///{path}")
    line_of(error)
    assert path.read_text().startswith("not a database")


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "9p", "fuse.sshfs"])
def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """With the way out."""
    monkeypatch.setattr(sqlite_file, "file_system", lambda folder: kind)
    with pytest.raises(DatabaseError, match=rf"network file system \({kind}\).*PostgreSQL"):
        open_engine(f"sqlite:///{tmp_path}/hpo.db")


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    """The longest mount point counts, of two on one place the later; blanks are written in octal."""
    mounts = tmp_path / "mounts"
    where = (tmp_path / "a b").resolve()
    escaped = str(where).replace(" ", r"\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nhost:/x {escaped} nfs4 rw 0 0\nhost:/y {escaped}/c xfs rw 0 0\n")
    assert file_system(tmp_path, mounts) == "ext4"
    assert file_system(where, mounts) == "nfs4"
    assert file_system(where / "d", mounts) == "nfs4"
    assert file_system(where / "c" / "d", mounts) == "xfs"
    mounts.write_text(f"{mounts.read_text()}tmpfs {escaped} tmpfs rw 0 0\n")
    assert file_system(where, mounts) == "tmpfs"
    assert file_system(tmp_path, tmp_path / "none") is None


def test_nobody_listens() -> None:
    """One line with the address and without the password."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(DatabaseUnreachable) as error:
            open_engine(f"postgresql+psycopg://user:secret@127.0.0.1:{port}/name")
    assert f"127.0.0.1:{port}" in line_of(error)
    assert "secret" not in repr(error.value)


@pytest.mark.parametrize(
    ("parts", "query", "reason", "action"),
    [
        ({"database": "nowhere"}, {}, 'database "nowhere" does not exist', "name of a database that exists"),
        ({"username": "nobody_here"}, {}, 'role "nobody_here" does not exist', "name of a role"),
        ({}, {"options": "-cno_such=1"}, 'parameter "no_such"', "leave out that parameter"),
        ({}, {"options": "-clock_timeout=abc"}, 'parameter "lock_timeout": "abc"', "leave out that parameter"),
        ({}, {"options": "rubbish"}, "rubbish", "leave out that parameter"),
        ({}, {"sslmode": "often"}, 'sslmode value: "often"', "leave out that parameter"),
        ({}, {"connect_timeout": "abc"}, "connect_timeout: 'abc'", "leave out that parameter"),
        ({}, {"load_balance_hosts": "abc"}, 'load_balance_hosts value: "abc"', "leave out that parameter"),
        ({}, {"service": "none"}, 'definition of service "none" not found', "leave out that parameter"),
    ],
)
def test_what_the_server_refuses_is_no_outage(
    parts: dict[str, Any], query: dict[str, str], reason: str, action: str, postgres: Postgres
) -> None:
    """Its reason is passed on, with what to do about it rather than a question whether the server runs."""
    url = postgres.server.set(**parts).update_query_dict(query)
    with pytest.raises(DatabaseError, match=re.escape(reason)) as error:
        open_engine(url.render_as_string(hide_password=False))
    assert not is_transient(error.value)
    assert action in line_of(error)


def test_rights_that_a_role_lacks_are_no_outage(postgres: Postgres, postgres_url: str) -> None:
    """Neither to connect, nor to read a table, nor to make one; in a worker's threads too."""
    role, url = f"hpo_nothing_{os.getpid()}", make_url(postgres_url)
    postgres.sql(f"CREATE ROLE {role} LOGIN")
    try:
        engine = open_engine(url.set(username=role).render_as_string(False))
        for command in ("SELECT * FROM hpo_studies", "CREATE TABLE t (x int)"):
            with pytest.raises(DatabaseError, match=r"permission denied.*grant it to the role") as error:
                _execute(engine, command)
            assert not is_transient(error.value)
            with pytest.raises(ProgrammingError) as raw, engine.begin() as connection:
                connection.execute(text(command))
            assert not is_transient(_raised_by_optuna(raw.value))
        engine.dispose()
        postgres.sql(f"REVOKE CONNECT ON DATABASE {url.database} FROM PUBLIC")
        with pytest.raises(DatabaseError, match=r"permission denied for database.*GRANT CONNECT") as error:
            open_engine(url.set(username=role).render_as_string(False))
        assert not is_transient(error.value)
    finally:
        postgres.sql(f"DROP ROLE {role}")


def test_a_schema_that_does_not_exist(postgres_url: str) -> None:
    """`search_path` names none: that is what the message says."""
    url = make_url(postgres_url).update_query_dict({"options": "-csearch_path=nowhere"})
    engine = open_engine(url.render_as_string(False))
    with pytest.raises(DatabaseError, match="make the schema that search_path names") as error:
        migrate.create_or_check(engine)
    assert not is_transient(error.value)
    engine.dispose()


def test_a_database_that_takes_no_writes_is_waited_for(postgres_url: str) -> None:
    """As a standby is, until it takes over."""
    url = make_url(postgres_url).update_query_dict({"options": "-cdefault_transaction_read_only=on"})
    engine = open_engine(url.render_as_string(False))
    with pytest.raises(DatabaseUnreachable, match=r"read-only transaction; check that the database .* takes writes"):
        _execute(engine, "UPDATE hpo_slots SET attempt = 0")
    engine.dispose()


def _execute(engine: Engine, command: str) -> None:
    with begin_write(engine) as connection:
        connection.execute(text(command))


def test_a_database_without_unicode(postgres: Postgres, open_database: OpenDatabase) -> None:
    """Where the server's default is SQL_ASCII, a text comes back as the text that it was."""
    name = f"ascii_{os.getpid()}"
    postgres.sql(f"CREATE DATABASE {name} ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    engine = open_database(postgres.server.set(database=name).render_as_string(hide_password=False))
    migrate.create_or_check(engine)
    with begin_write(engine) as connection:
        connection.execute(text("CREATE TABLE words (word text)"))
        connection.execute(text("INSERT INTO words VALUES (:word)"), {"word": "Zürich \N{EURO SIGN}"})
        assert connection.scalar(text("SELECT word FROM words")) == "Zürich \N{EURO SIGN}"
    engine.dispose()
    postgres.sql(f"DROP DATABASE {name} WITH (FORCE)")


def test_a_missing_file_is_not_made_by_opening(tmp_path: Path) -> None:
    """Commands that only look leave no empty database behind."""
    engine = open_engine(f"sqlite:///{tmp_path}/hpo.db")
    assert is_missing(engine)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is relative to the working folder."""
    monkeypatch.chdir(tmp_path)
    engine = open_engine("sqlite:///hpo.db")
    with begin_write(engine) as connection:
        connection.execute(text("CREATE TABLE t (x integer)"))
    assert (tmp_path / "hpo.db").exists()
    assert not is_missing(engine)
    engine.dispose()


def test_every_sqlite_connection_is_safe(sqlite_engine: Engine) -> None:
    """Write-ahead log, foreign keys, patience."""
    with begin_read(sqlite_engine) as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000


def test_every_postgres_connection_is_safe(postgres_engine: Engine) -> None:
    """Named, and limited in what it may wait for."""
    with begin_read(postgres_engine) as connection:
        show = {name: connection.exec_driver_sql(f"SHOW {name}").scalar() for name in _LIMITS}
    assert show == _LIMITS


_LIMITS = {
    "application_name": "hpo-test",
    "statement_timeout": "1min",
    "lock_timeout": "20s",
    "idle_in_transaction_session_timeout": "1min",
}


@pytest.mark.parametrize("given", ["URL", "PGOPTIONS", "role"])
def test_the_users_settings_win(
    given: str, postgres: Postgres, postgres_url: str, open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a setting is made, each transaction has it, and the rest as ever."""
    settings = {"search_path": "hyper", "statement_timeout": "7s", "lock_timeout": "0"}
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    url, role = make_url(postgres_url), f"hpo_settings_{os.getpid()}"
    postgres.sql(f"CREATE ROLE {role} LOGIN SUPERUSER")
    try:
        if given == "URL":
            url = url.update_query_dict({"options": options, "application_name": "mine"})
        elif given == "PGOPTIONS":
            monkeypatch.setenv("PGOPTIONS", options)
            monkeypatch.setenv("PGAPPNAME", "mine")
        else:
            for name, value in (settings | {"application_name": "mine"}).items():
                postgres.sql(f"ALTER ROLE {role} SET {name} = '{value}'")
            url = url.set(username=role)
        engine = open_database(url.render_as_string(hide_password=False))
        expected = _LIMITS | settings | ({"application_name": "mine"} if given != "role" else {})
        for _ in range(2):
            with begin_read(engine) as connection:
                show = {name: connection.exec_driver_sql(f"SHOW {name}").scalar() for name in expected}
            assert show == expected
        engine.dispose()
    finally:
        postgres.sql(f"DROP ROLE {role}")


@pytest.mark.parametrize(("name", "variable"), [("connect_timeout", "PGCONNECT_TIMEOUT"), ("keepalives_idle", None)])
def test_the_users_parameters_win(
    name: str, variable: str | None, postgres_url: str, open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that libpq itself reads too, in the URL and in the environment."""

    def used(url: str) -> str:
        with open_database(url).connect() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            return driver.info.get_parameters().get(name, "")

    assert used(postgres_url) in ("10", "30")
    assert used(make_url(postgres_url).update_query_dict({name: "77"}).render_as_string(False)) == "77"
    if variable is not None:
        monkeypatch.setenv(variable, "78")
        assert used(postgres_url) == "78"


def test_all_tables_are_in_the_users_schema(postgres: Postgres, open_database: OpenDatabase) -> None:
    """`search_path` in the URL decides where they are made, and nothing is left in `public`."""
    url = make_url(postgres.empty())
    bare = open_database(url.render_as_string(False))
    with begin_write(bare) as connection:
        connection.execute(text("CREATE SCHEMA hyper"))
    there = open_database(url.update_query_dict({"options": "-csearch_path=hyper"}).render_as_string(False))
    migrate.create_or_check(there)
    migrate.check(there)
    assert migrate.upgrade(there) == []
    with begin_read(bare) as connection:
        kept = connection.execute(text("SELECT DISTINCT schemaname FROM pg_tables WHERE schemaname !~ '^(pg_|inf)'"))
        assert kept.scalars().all() == ["hyper"]
    bare.dispose()
    there.dispose()
    postgres.drop(url.render_as_string(False))


def test_writers_lock_at_once_and_readers_never(sqlite_engine: Engine, statements: Watch) -> None:
    """BEGIN IMMEDIATE for what may write, plain BEGIN for reads: a reader gets by a writer."""
    with statements(sqlite_engine) as sent, begin_write(sqlite_engine) as writer:
        with begin_read(sqlite_engine) as reader:
            assert reader.execute(text("SELECT count(*) FROM hpo_slots")).scalar() == 0
        writer.execute(text("SELECT 1"))
    begins = [statement for statement, _ in sent if statement.startswith("BEGIN")]
    assert begins == ["BEGIN IMMEDIATE", "BEGIN"]


def test_a_second_sqlite_writer_waits(sqlite_engine: Engine) -> None:
    """Two transactions that read and then write do not collide: the second starts after the first."""
    order = []
    inside = threading.Event()

    def second() -> None:
        inside.wait()
        with begin_write(sqlite_engine) as connection:
            order.append(connection.execute(text("SELECT count(*) FROM hpo_openings")).scalar())

    thread = threading.Thread(target=second)
    thread.start()
    with begin_write(sqlite_engine) as connection:
        inside.set()
        connection.execute(text("PRAGMA defer_foreign_keys = ON"))
        order.append("first")
    thread.join()
    assert order == ["first", 0]


def test_the_clock_is_the_databases(engine: Engine) -> None:
    """Seconds since 1970, on both, with fractions; moving on within a transaction."""
    with begin_read(engine) as connection:
        before = time.time() - 0.01  # SQLite counts milliseconds, rounded
        first = connection.execute(select(now())).scalar_one()
        while (second := connection.execute(select(now())).scalar_one()) == first:
            pass
    assert isinstance(first, float)
    assert before < first < second < time.time() + 0.01


def test_eight_hexadecimal_digits(engine: Engine) -> None:
    """The same on both databases, up to the largest number that PostgreSQL's ids may have."""
    with begin_read(engine) as connection:
        for number in (0, 1, 255, 2**31 - 1):
            assert connection.scalar(select(eight_hex_digits(literal(number)))) == f"{number:08x}"


def test_a_locked_database_is_transient(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Busy beyond the timeout: one line, and worth waiting for."""
    monkeypatch.setattr(engine_module, "BUSY_TIMEOUT", 0.01)
    first, two = open_engine(sqlite_url), open_engine(sqlite_url)
    with begin_write(first), pytest.raises(DatabaseUnreachable, match="locked") as error, begin_write(two):
        pass
    assert is_transient(error.value)
    line_of(error)
    first.dispose()
    two.dispose()


def test_a_full_disk_is_transient(sqlite_engine: Engine) -> None:
    """What was written in the transaction is gone, and can be tried again."""
    with begin_write(sqlite_engine) as connection:
        connection.execute(text("CREATE TABLE blobs (x blob)"))
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(OperationalError, match="full") as full:
            connection.execute(text("INSERT INTO blobs VALUES (zeroblob(1000000))"))
        connection.exec_driver_sql("PRAGMA max_page_count = 1000000")
    assert is_transient(full.value)


def test_lost_connections_come_back(postgres_engine: Engine, postgres: Postgres) -> None:
    """Cut while idle: nobody notices. Cut in the middle: transient, and the next transaction works."""
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE datname = '{postgres_engine.url.database}' AND pid <> pg_backend_pid()"
    )
    with begin_read(postgres_engine) as connection:
        connection.execute(text("SELECT 1"))
    postgres.sql(cut)
    with begin_read(postgres_engine) as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1

    def cut_inside() -> None:
        with begin_write(postgres_engine) as connection:
            connection.execute(text("SELECT 1"))
            postgres.sql(cut)
            connection.execute(text("SELECT 2"))

    with pytest.raises(DatabaseUnreachable) as error:
        cut_inside()
    line_of(error)
    with begin_read(postgres_engine) as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1


def test_waiting_for_a_lock_is_limited(postgres_engine: Engine) -> None:
    """The lock timeout ends in a transient error."""
    pool = postgres_engine.pool
    assert isinstance(pool, QueuePool)

    def lock() -> None:
        with begin_write(postgres_engine) as connection:
            connection.execute(text("SET LOCAL lock_timeout = '10ms'"))
            connection.execute(text("LOCK TABLE hpo_studies IN ACCESS EXCLUSIVE MODE"))
            if pool.checkedout() == 1:
                lock()

    with pytest.raises(DatabaseUnreachable, match="lock timeout"):
        lock()


def test_other_errors_are_not_transient(engine: Engine) -> None:
    """A missing table is the schema's fault; a broken constraint is the caller's and stays what it is."""
    with pytest.raises(SchemaError, match="hpo db upgrade"), begin_read(engine) as connection:
        connection.execute(text("SELECT * FROM no_such_table"))
    with pytest.raises(IntegrityError) as broken, begin_write(engine) as connection:
        connection.execute(text("INSERT INTO hpo_openings (slot_id, attempt, worker, opened_at) VALUES (1, 1, 'w', 0)"))
    assert not is_transient(broken.value)
    assert not is_transient(_raised_by_optuna(broken.value))
    assert not is_transient(ValueError())
    assert not is_transient(sqlite3.OperationalError("near x: syntax error"))


def test_transient_through_optunas_wrapping(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optuna makes one general error of all that SQLAlchemy raises; the cause decides."""
    monkeypatch.setattr(engine_module, "BUSY_TIMEOUT", 0.01)
    first, two = open_engine(sqlite_url), open_engine(sqlite_url)
    with begin_write(first), pytest.raises(StorageInternalError) as error:
        make_storage(two).set_study_user_attr(1, "key", "value")
    assert is_transient(error.value)
    first.dispose()
    two.dispose()


def _raised_by_optuna(cause: Exception) -> StorageInternalError:
    wrapped = StorageInternalError()
    wrapped.__cause__ = cause
    return wrapped


def test_the_shown_url_hides_the_password(postgres_engine: Engine, sqlite_engine: Engine) -> None:
    """In messages and reports."""
    url = postgres_engine.url.set(password="secret", host="db")
    shown = display_url(Engine(postgres_engine.pool, postgres_engine.dialect, url))
    assert "secret" not in shown
    assert "***" in shown
    assert display_url(sqlite_engine).startswith("sqlite:////")


def test_read_only_is_an_option_of_the_connection(sqlite_engine: Engine) -> None:
    """So Optuna's sessions can have it too."""
    with sqlite_engine.connect().execution_options(**READ_ONLY) as connection:
        assert connection.get_execution_options()["hpo_read_only"]
