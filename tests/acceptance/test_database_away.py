"""The database stops, comes back, cuts its connections: training goes on, and nothing is lost or done twice."""

import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from hpo.storage.engine import open_engine
from tests.support.commandline import DRAIN, PATIENCE, Hpo, Said, finish, on_this_machine, wait_until
from tests.support.exact import check_exact
from tests.support.server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server, its database with the schema."""
    with tempfile.TemporaryDirectory(prefix="hpo-pg-", ignore_cleanup_errors=True) as folder:
        restartable = Server(Path(folder))
        yield restartable
        restartable.close()


@pytest.fixture
def lab(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hpo]:
    """`hpo` on the server."""
    monkeypatch.setenv("HPO_ARTIFACTS", str(tmp_path / "artifacts"))
    hpo = Hpo(tmp_path, server.url)
    yield hpo
    hpo.close()


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


@pytest.mark.long
def test_postgresql_stopped_and_started_again(server: Server, lab: Hpo) -> None:
    """Trials are trained to their end while it is away; afterwards every slot has its one result, at first attempt."""
    lab.create(trials=4, epochs=120, training_pairs=400, pruner="none", confirm_rounds=1, rounds=1)
    worker = lab.start(*DRAIN, "--population", "2", "--lease", "600")
    said = Said(worker)
    wait_until(lambda: said.count("trial 0: complete"))
    wait_until(
        lambda: any(epoch > 0 for epoch in column(lab.url, "SELECT epoch FROM hpo_slots WHERE state = 'running'"))
    )
    completed = said.count(": complete")
    server.stop()
    wait_until(lambda: said.count("does not answer") and said.count(": complete") > completed)
    assert worker.poll() is None
    server.start()
    finish(worker)
    actual = check_exact(lab.url, "ws", search=4, confirm=2, rounds=1)
    assert said.count(": complete") == sum(map(len, actual.values()))
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
    assert "stored the result that an earlier worker left on disk" in err
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
    assert time.monotonic() - begun < on_this_machine(60)  # it takes ten where nothing else runs
    assert said.count("results that it has not taken are kept in")
    server.start()
    err = lab(*DRAIN).stderr
    assert "resumes after epoch" in err or "that an earlier worker left on disk" in err
    check_exact(lab.url, "ws", search=2, confirm=2, rounds=1)


@pytest.mark.long
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
    assert worker.wait(PATIENCE) == 0, "".join(said.lines)
    assert cut >= 3
    check_exact(lab.url, "ws", search=6, confirm=2, rounds=1)
    assert attempts(lab.url) == {1}
