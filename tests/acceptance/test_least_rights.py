"""A PostgreSQL role with the rights of worker-role.sql, and no more."""

import os
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import click
import psycopg
import pytest
import requests
from sqlalchemy import text
from sqlalchemy.engine import make_url

from hpo.cli.root import root
from hpo.server.passwords import password_hash
from hpo.storage import studies
from hpo.storage.engine import begin_write, open_engine
from hpo.storage.pages import PIECE, Page, keep_pages
from hpo.storage.schema import metadata
from hpo.storage.users import add_user
from tests.support.commandline import DRAIN, PATIENCE, Hpo, Said, wait_until
from tests.support.dashboard import BEARER, TOKEN, dashboard
from tests.support.exact import check_exact
from tests.support.fixtures import Postgres

RIGHTS = Path(__file__).parents[2] / "worker-role.sql"


def libpq(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.fixture
def role(hpo_on_postgres: Hpo, postgres: Postgres) -> Iterator[str]:
    """A role with these rights alone, on a server that lets everybody make tables, as old ones do."""
    name = f"hpo_worker_{os.getpid()}"
    rights = RIGHTS.read_text().replace("hpo_worker", name)
    with psycopg.connect(libpq(hpo_on_postgres.url), autocommit=True) as owner:
        owner.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
        owner.execute(rights.encode())
        owner.execute(rights.encode())  # does no harm
        yield name
        owner.execute(f"DROP OWNED BY {name}".encode())
    postgres.sql(f"DROP ROLE {name}")


@pytest.fixture
def hpo(hpo_on_postgres: Hpo, role: str) -> Hpo:
    """`hpo` as that role."""
    hpo_on_postgres.url = make_url(hpo_on_postgres.url).set(username=role).render_as_string(hide_password=False)
    return hpo_on_postgres


COMMANDS = {  # every command, in an order in which each finds what it needs
    "study create": ("--file", "ws.toml"),
    "study extend": ("ws", "--trials", "4"),
    "study pause": ("ws",),
    "study resume": ("ws",),
    "worker": DRAIN[1:],
    "study list": (),
    "study show": ("ws",),
    "trial show": ("ws", "0"),
    "study export": ("ws", "--out", "tuned.toml"),
    "evaluate": ("tuned.toml", "--study", "ws", "--label", "theirs", "--rounds", "1"),
    "run": ("--file", "other.toml", "--workers", "1"),
    "report": (),
    "ledger": (),
    "study plan": ("--difference", "0.5", "--spread", "1"),
    "user list": (),
    "token list": (),
    "launch slurm": (),
    "launch kubernetes": ("--image", "hpo", "--artifacts", "s3://bucket/hpo"),
    "launch ray": (),
    "launch ssh": ("--host", "gpu1"),
    "workers list": (),
    "workers stop": ("--all",),
    "top": ("--once",),
    "data info": (),
    "db check": (),
    "db upgrade": (),
    "doctor": (),
}
REFUSED = {
    "study delete": ("ws", "--yes"),
    "db new-identity": (),
    "user add": ("ada", "--no-password"),
    "user remove": ("ada",),
    "user role": ("ada", "editor"),
    "token add": ("ci",),
    "token remove": ("ci",),
}
OTHERS = {"dashboard", "user passwd", "data fetch", "experiment new", "experiment check"}
"""Served, asked for a password, and without a database."""


def leaves(group: click.Group, path: str = "") -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from leaves(command, f"{path}{name} ")
        else:
            yield path + name


@pytest.mark.long
def test_every_command_but_a_few(hpo: Hpo, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole study, from its creation to the report and the dashboard, with all that people may do to it meanwhile."""
    assert {*COMMANDS, *REFUSED, *OTHERS} == set(leaves(root))
    hpo.study(trials=3, confirm_rounds=1, rounds=1)
    hpo.study(name="other", trials=1, confirm_rounds=1, rounds=1)
    for name, words in COMMANDS.items():
        hpo(*name.split(), *words)
    check_exact(hpo.url, "other", search=1, confirm=1, rounds=1)
    for name, words in REFUSED.items():
        assert "permission denied" in hpo.refused(*name.split(), *words)
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    monkeypatch.setenv("HPO_DASHBOARD_TOKEN", TOKEN)
    server = hpo.start("dashboard", "--port", str(port))
    said = Said(server)
    wait_until(lambda: said.count(f":{port}") or server.poll() is not None)
    asking = urllib.request.Request(f"http://127.0.0.1:{port}/api/studies", headers={"Authorization": BEARER})
    with urllib.request.urlopen(asking, timeout=PATIENCE) as answer:
        assert b'"ws"' in answer.read()
    server.send_signal(signal.SIGTERM)
    server.wait()


def test_a_note_may_get_shorter(hpo: Hpo) -> None:
    """And a figure: what is left of the longer one is emptied, for the role may not delete it."""
    hpo.create()
    engine = open_engine(hpo.url)
    row = studies.get_study(engine, "ws")
    for note in ("ours" + "." * 3 * PIECE, "ours"):
        page = Page(
            study_id=row.search_study_id, metric="validation accuracy", note=note, figures={"figure": f'"{note}"'}
        )
        keep_pages(engine, [page], lambda note: True)
    engine.dispose()


def test_what_the_role_cannot_do(hpo: Hpo, postgres_url: str) -> None:
    """Delete from any table, make one, change the ledger, or which versions and which identity it is; later ones are
    its too."""
    about = {
        "alembic_version": "version_num",
        "hpo_alembic_version": "version_num",
        "version_info": "schema_version",
        "hpo_database": "identity",
    }
    refused = [
        *(f"DELETE FROM {table}" for table in (*metadata.tables, "studies", "trials", "study_system_attributes")),
        *(f"UPDATE {table} SET {column} = {column}" for table, column in about.items()),
        *(f"INSERT INTO {table} SELECT * FROM {table}" for table in about),
        "UPDATE hpo_ledger SET study = study",
        *(f"UPDATE {table} SET role = 'editor'" for table in ("hpo_users", "hpo_tokens")),
        *(f"INSERT INTO {table} SELECT * FROM {table}" for table in ("hpo_users", "hpo_tokens")),
        "UPDATE hpo_users SET password_hash = NULL",
        *(f"TRUNCATE {table}" for table in metadata.tables),
        "CREATE TABLE mine (x int)",
        "DROP TABLE hpo_slots",
        "ALTER TABLE hpo_slots ADD COLUMN x int",
    ]
    with psycopg.connect(libpq(hpo.url), autocommit=True) as connection:
        for command in refused:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(command.encode())
        for table in about:
            assert connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() == (1,)
        with psycopg.connect(libpq(postgres_url)) as owner:
            owner.execute("CREATE TABLE later (id serial, x int)")
        connection.execute("INSERT INTO later (x) VALUES (1)")
        connection.execute("UPDATE later SET x = 2")
        connection.execute("UPDATE hpo_users SET logouts = logouts + 1")


def test_a_logout_without_the_right_to_end_sessions(hpo: Hpo, postgres: Postgres) -> None:
    """Where the rights are those of an older version: this browser is logged out, and told that others are not."""
    owner = open_engine(make_url(hpo.url).set(username=postgres.server.username).render_as_string(hide_password=False))
    add_user(owner, "ada", "editor", password_hash("correct horse battery"))
    with begin_write(owner) as connection:
        connection.execute(text(f"REVOKE UPDATE ON hpo_users FROM {make_url(hpo.url).username}"))
    owner.dispose()
    with dashboard(hpo.url) as (port, _), requests.Session() as browser:
        site = f"http://127.0.0.1:{port}"
        browser.post(f"{site}/login", {"name": "ada", "password": "correct horse battery"}, timeout=PATIENCE)
        assert browser.get(f"{site}/workers", timeout=PATIENCE).status_code == 200
        page = browser.post(f"{site}/logout", timeout=PATIENCE).text
        assert "only this browser is logged out" in page
        assert browser.get(f"{site}/workers", timeout=PATIENCE).status_code == 401
