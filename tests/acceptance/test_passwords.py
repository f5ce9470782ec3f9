"""A role's password is wrong, or changed while a worker trains: no outage, and a file with the new one is read."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from hpo.storage.engine import begin_write, open_engine
from tests.support.commandline import DRAIN, Hpo, Said, finish, wait_until
from tests.support.exact import check_exact
from tests.support.server import Server

Alter = Callable[[str], None]  # gives the role this password and cuts its connections


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that asks the role `lab` for its password."""
    with tempfile.TemporaryDirectory(prefix="hpo-pg-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder))
        rules = Path(folder) / "data" / "pg_hba.conf"
        rules.write_text(f"local all lab scram-sha-256\n{rules.read_text()}")
        yield server
        server.close()


@pytest.fixture
def rotate(server: Server) -> Iterator[Alter]:
    """Changes the password of `lab`, which owns the database's tables."""
    engine = open_engine(server.url)

    def alter(password: str) -> None:
        with begin_write(engine) as connection:
            connection.execute(text(f"ALTER ROLE lab PASSWORD '{password}'"))
        with begin_write(engine) as connection:
            connection.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'lab'"))

    with begin_write(engine) as connection:
        connection.execute(text("SELECT pg_reload_conf()"))
        connection.execute(text("CREATE ROLE lab LOGIN PASSWORD 'first'"))
        connection.execute(text("GRANT CREATE ON SCHEMA public TO lab"))
    yield alter
    engine.dispose()


@pytest.fixture
def lab(server: Server, rotate: Alter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hpo]:
    """`hpo` as the role `lab`."""
    monkeypatch.setenv("HPO_ARTIFACTS", str(tmp_path / "artifacts"))
    hpo = Hpo(tmp_path, with_password(server, "first"))
    hpo.create(trials=3, epochs=40, training_pairs=50, confirm_rounds=1, rounds=1)
    yield hpo
    hpo.close()


def with_password(server: Server, password: str) -> str:
    return make_url(server.url).set(username="lab", password=password).render_as_string(hide_password=False)


def test_a_wrong_password_is_no_outage(server: Server, lab: Hpo) -> None:
    """One line, which does not ask whether the database runs."""
    for url in (with_password(server, "wrong"), with_password(server, "")):
        line = Hpo(lab.folder, url).refused("study", "list")
        assert "give the role and its password" in line
        assert "check that the database runs" not in line
        assert "wrong" not in line


@pytest.mark.long
def test_a_changed_password_ends_a_worker(server: Server, rotate: Alter, lab: Hpo) -> None:
    """With the reason in one line, at once; what it has trained is kept for the next."""
    worker = lab.start(*DRAIN)
    said = Said(worker)
    wait_until(lambda: said.count("trial 0: complete"))
    rotate("second")
    finish(worker, 1)
    assert said.count("password authentication failed") == 1
    assert not said.count("Traceback")
    lab.url = with_password(server, "second")
    lab(*DRAIN)
    check_exact(lab.url, "ws", search=3, confirm=2, rounds=1)


@pytest.mark.long
def test_a_changed_password_is_read_from_the_file(
    server: Server, rotate: Alter, lab: Hpo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker goes on with what HPO_DATABASE_URL_FILE's file holds by now, again and again."""
    file = lab.folder / "url"
    file.write_text(lab.url)
    monkeypatch.setenv("HPO_DATABASE_URL_FILE", str(file))
    url, lab.url = lab.url, ""  # an empty variable is none
    worker = lab.start(*DRAIN)
    said = Said(worker)
    for trial, password in enumerate(("second", "third")):
        wait_until(lambda trial=trial: said.count(f"trial {trial}: complete"))  # type: ignore[misc]
        url = with_password(server, password)
        file.write_text(url)
        rotate(password)
    finish(worker)
    check_exact(url, "ws", search=3, confirm=2, rounds=1)


def test_a_file_that_names_another_database_is_not_followed(
    server: Server, rotate: Alter, lab: Hpo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker stays with the database that it began with."""
    file = lab.folder / "url"
    file.write_text(lab.url)
    monkeypatch.setenv("HPO_DATABASE_URL_FILE", str(file))
    lab.url = ""
    worker = lab.start(*DRAIN)
    said = Said(worker)
    wait_until(lambda: said.count("trial 0: complete"))
    file.write_text(make_url(with_password(server, "second")).set(database="other").render_as_string(False))
    rotate("second")
    finish(worker, 1)
    assert said.count("names another database by now") == 1
    assert not said.count("second")
