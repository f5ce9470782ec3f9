"""Tables that plain Optuna made in SQLite: `hpo db upgrade` rebuilds them, loses nothing, and no id is given twice."""

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.storages import RDBStorage
from sqlalchemy import Engine, text

from hpo.errors import SchemaError
from hpo.storage import migrate, studies
from hpo.storage.engine import begin_change, begin_read, begin_write
from hpo.storage.optuna_storage import make_storage
from hpo.storage.row_ids import giving_ids_again
from tests.support import crash
from tests.support.commandline import PATIENCE
from tests.support.fixtures import OpenDatabase
from tests.support.handmade import create, make, small_spec

THEIRS = "theirs"
EXTRAS = (  # what somebody may have made around Optuna's tables
    "CREATE VIEW best AS SELECT max(value) FROM trial_values JOIN trials USING (trial_id)",
    "CREATE TABLE log (trial_id INTEGER)",
    "CREATE TRIGGER logged AFTER INSERT ON trials BEGIN INSERT INTO log VALUES (new.trial_id); END",
    "CREATE INDEX mine ON trials (state, number) WHERE state = 'COMPLETE'",
)


def path_of(engine: Engine) -> Path:
    return Path(str(engine.url.database))


def by_optuna(path: Path) -> None:
    """A study of Optuna's own, with trials, in tables that Optuna makes."""
    storage = RDBStorage(f"sqlite:///{path}")
    study = optuna.create_study(study_name=THEIRS, storage=storage)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    storage.remove_session()
    storage.engine.dispose()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        for statement in EXTRAS:
            connection.execute(statement)
        connection.commit()


@pytest.fixture
def adopted(tmp_path: Path, open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Such a database, upgraded by an hpo of before, with a whole study and half a one in it."""
    by_optuna(tmp_path / "hpo.db")
    engine = open_database(f"sqlite:///{tmp_path / 'hpo.db'}")
    with monkeypatch.context() as patched:
        patched.setattr(migrate, "giving_ids_again", lambda connection: [])
        migrate.upgrade(engine)
    make(engine, small_spec("simple"))
    make(engine, small_spec("ws"), limit=5)
    return engine


def contents(path: Path) -> tuple[dict[str, list[tuple[object, ...]]], set[str]]:
    """All rows by table, and the SQL of everything but tables."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'sqlite_sequence'"
        rows = {name: connection.execute(f"SELECT * FROM {name}").fetchall() for (name,) in connection.execute(names)}
        around = "SELECT sql FROM sqlite_master WHERE type <> 'table' AND sql IS NOT NULL"
        return rows, {sql for (sql,) in connection.execute(around)}


def again(engine: Engine) -> list[str]:
    with begin_read(engine) as connection:
        return [table.name for table in giving_ids_again(connection)]


def test_every_row_and_index_stays(adopted: Engine) -> None:
    """Slots, openings, trials and what hangs on them; views and triggers of others too."""
    before = contents(path_of(adopted))
    assert all(before[0][name] for name in ("hpo_slots", "hpo_openings", "trials", "trial_params", "study_directions"))
    assert again(adopted) == ["studies", "trials"]
    for action in (migrate.check, migrate.create_or_check):
        with pytest.raises(SchemaError, match=r"studies and trials would give.*make a backup.*`hpo db upgrade`"):
            action(adopted)
    assert migrate.upgrade(adopted) == ["studies: no id will be given twice", "trials: no id will be given twice"]
    assert contents(path_of(adopted)) == before
    migrate.check(adopted)
    assert migrate.upgrade(adopted) == []
    with begin_read(adopted) as connection:
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1, "the others have them as ever"


def test_no_id_is_given_twice(adopted: Engine) -> None:
    """Not even one that stands in a row of ours alone, because Optuna's was deleted past us."""
    optuna.delete_study(study_name="ws:final", storage=make_storage(adopted))
    used = {getattr(row, name) for row in studies.list_studies(adopted) for name in OPTUNAS_IDS}
    with begin_write(adopted) as connection:
        connection.execute(text("UPDATE hpo_slots SET trial_id = 999 WHERE id = 1"))
    migrate.upgrade(adopted)
    for name in ("simple", "ws"):
        studies.delete_study(adopted, name)
    row = create(adopted, small_spec("ws"))
    assert {getattr(row, name) for name in OPTUNAS_IDS}.isdisjoint(used)
    with begin_read(adopted) as connection:
        trials = connection.scalars(
            text("SELECT trial_id FROM trials WHERE study_id = :id"), {"id": row.search_study_id}
        )
        assert min(trials) == 1000


OPTUNAS_IDS = ("search_study_id", "confirm_study_id", "final_study_id")


@pytest.mark.parametrize(
    "point",
    [
        "after.alembic.ddl.impl:DefaultImpl.create_table",
        "after.alembic.ddl.impl:DefaultImpl.drop_table",
        "before.alembic.ddl.impl:DefaultImpl.create_index",
        "after.hpo.storage.row_ids:make_ids_last",
    ],
)
def test_killed_in_the_middle(adopted: Engine, point: str) -> None:
    """The database is the one of before, and the next upgrade does it all."""
    before = contents(path_of(adopted))
    adopted.dispose()
    upgrade = [sys.executable, crash.__file__, point, "1", "--db", str(adopted.url), "db", "upgrade"]
    died = subprocess.run(upgrade, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert died.returncode == -9, died.stderr
    assert contents(path_of(adopted)) == before
    assert again(adopted) == ["studies", "trials"]
    migrate.upgrade(adopted)
    assert contents(path_of(adopted)) == before
    assert again(adopted) == []


def lose_a_slot(engine: Engine) -> None:
    with begin_change(engine) as connection:
        connection.execute(text("DELETE FROM hpo_slots WHERE id = (SELECT slot_id FROM hpo_openings WHERE id = 2)"))


def test_a_change_that_loses_rows_is_taken_back(adopted: Engine) -> None:
    """Whoever refers to a row that is gone; what had lost it before is no reason."""
    with contextlib.closing(sqlite3.connect(path_of(adopted))) as connection:
        connection.execute("INSERT INTO hpo_openings SELECT 999, 999, 1, 'w', 0")
        connection.commit()
    with begin_change(adopted) as connection:
        connection.execute(text("DELETE FROM hpo_openings WHERE id = 1"))
    before = contents(path_of(adopted))
    with pytest.raises(SchemaError, match="nothing was changed, for row 2 of hpo_openings"):
        lose_a_slot(adopted)
    assert contents(path_of(adopted)) == before


def test_an_old_optunas_rows_stay(tmp_path: Path, open_database: OpenDatabase) -> None:
    """Optuna's own steps rebuild tables too: those of 2020, through all of them."""
    by_optuna(tmp_path / "old.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "old.db")) as connection:
        connection.executescript(OF_2020)
    engine = open_database(f"sqlite:///{tmp_path / 'old.db'}")
    assert migrate.upgrade(engine)[0] == "Optuna: v1.3.0.a -> v3.2.0.a"
    migrate.check(engine)
    study = optuna.load_study(study_name=THEIRS, storage=make_storage(engine))
    assert [(trial.value, set(trial.params)) for trial in study.trials] == [
        (number + 0.5, {"x"}) for number in range(3)
    ]
    assert study.direction.name == "MAXIMIZE"


OF_2020 = """
DROP VIEW best;
ALTER TABLE studies ADD COLUMN direction VARCHAR(8) NOT NULL DEFAULT 'MAXIMIZE';
ALTER TABLE trials ADD COLUMN value FLOAT;
UPDATE trials SET value = number + 0.5;
DROP TABLE study_directions;
DROP TABLE trial_intermediate_values;
DROP TABLE trial_values;
CREATE TABLE trial_values (
  trial_value_id INTEGER NOT NULL PRIMARY KEY, trial_id INTEGER, step INTEGER, value FLOAT,
  UNIQUE (trial_id, step), FOREIGN KEY(trial_id) REFERENCES trials (trial_id)
);
UPDATE alembic_version SET version_num = 'v1.3.0.a';
"""
