"""An engine that is held to its database touches no other one in its place; both databases."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from hpo.errors import DatabaseReplaced, SchemaError
from hpo.storage import identity, migrate
from hpo.storage.engine import begin_read, begin_write
from hpo.storage.optuna_storage import make_storage
from hpo.storage.studies import list_studies
from hpo.worker.spool import Spool
from tests.support.checkpoints import SIGNER
from tests.support.fixtures import MakeStudy, OpenDatabase, Postgres, Watch
from tests.support.pgbouncer import PROGRAM, pgbouncer

REPLACED = "while this process used it"


def refuses(engine: Engine) -> None:
    """Neither read nor written, by us or by Optuna."""
    for begin in (begin_read, begin_write):
        with pytest.raises(DatabaseReplaced, match=REPLACED) as error, begin(engine):
            pass
        assert "\n" not in str(error.value)
    storage = make_storage(engine)
    with pytest.raises(DatabaseReplaced, match=REPLACED):
        storage.get_all_studies()
    with pytest.raises(DatabaseReplaced, match=REPLACED):
        storage.create_new_study([])


def path_of(engine: Engine) -> Path:
    return Path(str(engine.url.database))


def restored(path: Path) -> None:
    """A copy of the same database, with the same identity."""
    shutil.copy(path, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)


def emptied(path: Path) -> None:
    path.with_suffix(".new").touch()
    path.with_suffix(".new").rename(path)


def other(path: Path) -> None:
    path.with_suffix(".new").write_text("not a database")
    path.with_suffix(".new").rename(path)


REPLACEMENTS: tuple[Callable[[Path], None], ...] = (restored, emptied, other, Path.unlink)


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("replace", REPLACEMENTS)
def test_another_file(sqlite_engine: Engine, replace: Callable[[Path], None], connected: bool) -> None:
    """By a connection to the first that is still open, and by a new one; where there is none now none is made."""
    identity.hold(sqlite_engine)
    assert list_studies(sqlite_engine) == []
    path = path_of(sqlite_engine)
    if not connected:
        sqlite_engine.dispose()
    replace(path)
    before = path.read_bytes() if path.exists() else None
    refuses(sqlite_engine)
    assert (path.read_bytes() if path.exists() else None) == before


def test_the_file_put_back(sqlite_engine: Engine, make_study: MakeStudy) -> None:
    """It is the same one."""
    make_study(on=sqlite_engine)
    identity.hold(sqlite_engine)
    path = path_of(sqlite_engine)
    path.rename(path.with_suffix(".aside"))
    refuses(sqlite_engine)
    path.with_suffix(".aside").rename(path)
    assert [study.name for study in list_studies(sqlite_engine)] == ["ws"]


def test_another_identity(engine: Engine, database_url: str, open_database: OpenDatabase) -> None:
    """As where a backup is restored into the same file or database: whoever opens it afterwards is of the new one."""
    identity.hold(engine)
    assert list_studies(engine) == []
    later = open_database(database_url)
    before, key = identity.identity_of(later), identity.key_of(later)
    assert identity.renew(later) == identity.identity_of(later) != before
    assert identity.key_of(later) == key, "checkpoints can still be read"
    refuses(engine)
    identity.hold(later)
    assert list_studies(later) == []


def test_no_identity(engine: Engine, database_url: str, open_database: OpenDatabase) -> None:
    """A database whose row is gone, or is none that we made, says what to do, and that helps."""
    for damage in ("DELETE FROM hpo_database", "UPDATE hpo_database SET identity = '../../elsewhere'"):
        with begin_write(engine) as connection:
            connection.execute(text(damage))
        with pytest.raises(SchemaError, match=r"has no identity; `hpo db new-identity` gives it one"):
            identity.hold(engine)
        assert len(identity.renew(engine)) == 32
        assert len(identity.key_of(engine)) == 32
        identity.hold(open_database(database_url))


def test_no_tables(postgres_engine: Engine) -> None:
    """A database that was emptied is not the one of before either."""
    identity.hold(postgres_engine)
    with begin_write(postgres_engine) as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    refuses(postgres_engine)


def test_the_question_costs_no_journey(postgres_engine: Engine, postgres_url: str, statements: Watch) -> None:
    """It goes along with the limits of the transaction, which still hold."""
    with statements(postgres_engine) as before:
        list_studies(postgres_engine)
    identity.hold(postgres_engine)
    with statements(postgres_engine) as held:
        list_studies(postgres_engine)
    assert len(held) == len(before)
    with begin_read(postgres_engine) as connection:
        assert connection.scalar(text("SHOW lock_timeout")) == "20s"


def test_limits_of_the_users(postgres_url: str, open_database: OpenDatabase) -> None:
    """Where hpo has none to set it is asked for the identity alone."""
    limits = "-cstatement_timeout=1h -clock_timeout=1h -cidle_in_transaction_session_timeout=1h"
    url = make_url(postgres_url).update_query_dict({"options": limits})
    engine = open_database(url.render_as_string(hide_password=False))
    identity.hold(engine)
    assert list_studies(engine) == []
    identity.renew(open_database(postgres_url))
    refuses(engine)


@pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")
@pytest.mark.parametrize("mode", ["session", "transaction"])
def test_behind_pgbouncer(postgres: Postgres, open_database: OpenDatabase, mode: str) -> None:
    """Its clients stay connected while the database behind it is replaced."""
    url, aside = postgres.prepared(), ""
    name = make_url(url).database
    with pgbouncer(url, mode, 4) as through:
        engine = open_database(through)
        identity.hold(engine)
        assert list_studies(engine) == []
        aside = f"{name}_aside"
        postgres.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        postgres.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
        postgres.sql(f"ALTER DATABASE {name} RENAME TO {aside}")
        postgres.sql(f"CREATE DATABASE {name}")
        fresh = open_database(url)
        migrate.create_or_check(fresh)
        refuses(engine)
        fresh.dispose()
        engine.dispose()
    postgres.drop(url)
    postgres.sql(f"DROP DATABASE {aside} WITH (FORCE)")


def test_a_database_that_moved_is_the_same(sqlite_engine: Engine, open_database: OpenDatabase, tmp_path: Path) -> None:
    """Its results on disk are its own wherever it is; those of another database at its place are not."""
    folder = Spool(tmp_path, sqlite_engine, SIGNER).folder
    path = path_of(sqlite_engine)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM INTO ?", (str(tmp_path / "moved.db"),))
    moved = open_database(f"sqlite:///{tmp_path / 'moved.db'}")
    assert Spool(tmp_path, moved, SIGNER).folder == folder
    identity.renew(moved)
    assert Spool(tmp_path, moved, SIGNER).folder != folder
