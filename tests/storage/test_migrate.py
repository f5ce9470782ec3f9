"""Both schemas: made once, checked, upgraded only on demand; both databases."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from optuna.storages._rdb import models
from sqlalchemy import Engine, inspect, text

from hpo.errors import DatabaseUpgraded, SchemaError
from hpo.storage import identity, migrate
from hpo.storage.claims import claim
from hpo.storage.engine import begin_read, begin_write, is_missing, of_any_revision
from hpo.storage.ledger import read_ledger
from hpo.storage.optuna_storage import make_storage
from hpo.storage.schema import metadata
from hpo.storage.slots import NewSlot, add_slots, finish, record_opening
from hpo.storage.studies import NewStudy, create_study, delete_study, list_studies
from tests.support.commandline import PATIENCE, wait_until
from tests.support.fixtures import OpenDatabase, Postgres, Watch
from tests.support.outcomes import outcome as outcome_of
from tests.support.versions import HEAD, MIGRATION, REVISION

NEW = NewStudy(
    name="ws",
    model="ws",
    spec="{}",
    spec_digest="",
    data_digest="",
    seed=1,
    in_flight=1,
    trial_seeds=[1, 2],
    adaptive_from=0,
    reference={},
    open_early=True,
)


@pytest.fixture
def empty(empty_url: str, open_database: OpenDatabase) -> Engine:
    return open_database(empty_url)


def change(engine: Engine, *statements: str) -> None:
    with begin_write(engine) as connection:
        for statement in statements:
            connection.execute(text(statement))


def stand(engine: Engine) -> dict[str, bool]:
    """Which of the two schemas are those of this version."""
    return {owner: actual == head for owner, (actual, head) in migrate.versions(engine).items()}


def test_the_migrations_end_at_the_schema(empty: Engine) -> None:
    """Tables, columns, types, constraints and indexes are those of schema.py."""
    migrate.create_or_check(empty)
    options = {
        "compare_type": True,
        "include_object": lambda thing, name, kind, reflected, other: kind != "table" or name in metadata.tables,
    }
    with begin_read(empty) as connection:
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
        action = inspect(connection)
        for table in metadata.tables.values():
            expected = {c.name for c in table.constraints if c.name and str(c.name).startswith("ck_")}
            assert {c["name"] for c in action.get_check_constraints(table.name)} == expected
        indexes = {index["name"]: index for index in action.get_indexes("hpo_slots")}
        partial = {index.name for index in metadata.tables["hpo_slots"].indexes}
        assert partial <= set(indexes)
        dialect = empty.dialect.name
        assert all(indexes[str(name)]["dialect_options"].get(f"{dialect}_where") is not None for name in partial)


def test_optunas_tables_are_optunas(empty: Engine) -> None:
    """They are what Optuna itself would have made, at its newest version."""
    migrate.create_or_check(empty)
    with begin_read(empty) as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_object": lambda t, name, kind, *_: kind != "table" or not name.startswith("hpo_")},
        )
        assert compare_metadata(context, models.BaseModel.metadata) == []
        row = connection.execute(text("SELECT schema_version FROM version_info")).one()
    assert row.schema_version == models.SCHEMA_VERSION


def test_an_empty_database_is_filled_and_then_left_alone(empty: Engine, statements: Watch) -> None:
    """Made once; the second time it only looks."""
    with pytest.raises(SchemaError, match="hpo study create"):
        migrate.check(empty)
    if empty.dialect.name == "sqlite":
        assert is_missing(empty), "checking does not make the file"
    migrate.create_or_check(empty)
    migrate.check(empty)
    with statements(empty) as sent:
        migrate.create_or_check(empty)
        assert migrate.upgrade(empty) == []
    writing = ("CREATE", "INSERT", "UPDATE", "DELETE", "ALTER", "DROP")
    assert not [statement for statement, _ in sent if statement.lstrip().upper().startswith(writing)]


def test_upgrade_makes_an_empty_database_too(empty: Engine) -> None:
    """`hpo db upgrade` is also how an administrator prepares one."""
    done = migrate.upgrade(empty)
    assert [line.split(":")[0] for line in done] == ["Optuna", "hpo"]
    migrate.check(empty)


def test_a_database_of_optunas_alone(empty: Engine) -> None:
    """Somebody's own Optuna database is not changed unless they ask for it."""
    migrate.create_or_check(empty)
    change(empty, *(f"DROP TABLE {table}" for table in [*reversed(metadata.sorted_tables), "hpo_alembic_version"]))
    for action in (migrate.check, migrate.create_or_check):
        with pytest.raises(SchemaError, match="has no tables of hpo's; run `hpo db upgrade`"):
            action(empty)
    assert migrate.upgrade(empty) == [f"hpo: nothing -> {migrate.versions(empty)['hpo'][1]}"]
    migrate.check(empty)


def test_a_database_of_ours_alone(empty: Engine) -> None:
    """The other way round: a restored backup may lack Optuna's half."""
    migrate.create_or_check(empty)
    with begin_write(empty) as connection:
        models.BaseModel.metadata.drop_all(connection)
        connection.execute(text("DROP TABLE alembic_version"))
    with pytest.raises(SchemaError, match="has no tables of Optuna's"):
        migrate.check(empty)
    assert len(migrate.upgrade(empty)) == 1
    migrate.check(empty)


@pytest.mark.parametrize(("owner", "table"), [("hpo", "hpo_alembic_version"), ("Optuna", "alembic_version")])
def test_a_newer_schema_is_refused(empty: Engine, owner: str, table: str) -> None:
    """Neither used nor touched: an older program would damage it."""
    migrate.create_or_check(empty)
    change(empty, f"UPDATE {table} SET version_num = 'v999'")
    for action in (migrate.check, migrate.create_or_check, migrate.upgrade):
        with pytest.raises(SchemaError, match=f"tables of {owner} are at version v999.*newer") as error:
            action(empty)
        assert "\n" not in str(error.value)
    assert not stand(empty)[owner]


@pytest.mark.parametrize("table", ["hpo_alembic_version", "alembic_version"])
def test_an_upgrade_is_noticed_at_the_next_transaction(empty: Engine, table: str, statements: Watch) -> None:
    """By our transactions and Optuna's, for no statement more; what is right in any version still goes."""
    migrate.create_or_check(empty)
    identity.hold(empty)
    with statements(empty) as sent, begin_read(empty):
        pass
    assert [statement for statement, _ in sent if "SELECT" in statement] == [
        statement for statement, _ in sent if "hpo_database" in statement and table in statement
    ]
    with begin_write(of_any_revision(empty)) as connection:
        connection.execute(text(f"UPDATE {table} SET version_num = 'v999'"))
    for begin in (begin_read, begin_write):
        with (
            pytest.raises(DatabaseUpgraded, match=r"its tables were brought from version \S+ to v999") as error,
            begin(empty),
        ):
            pass
        assert "\n" not in str(error.value)
    storage = make_storage(empty)
    with pytest.raises(DatabaseUpgraded):
        storage.get_all_studies()
    with pytest.raises(DatabaseUpgraded):
        storage.create_new_study([])
    with begin_read(of_any_revision(empty)) as connection:
        assert connection.scalar(text("SELECT count(*) FROM studies")) == 0


def test_an_upgrade_waits_for_the_transactions_of_now(
    postgres_engine: Engine, open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So none of them meets other tables half-way; on SQLite there is one writer."""
    worker = open_database(postgres_engine.url.render_as_string(hide_password=False))
    identity.hold(worker)
    newer = replace(migrate._OURS, scripts=tmp_path / "migrations")
    shutil.copytree(migrate._OURS.scripts, newer.scripts)
    (newer.scripts / "versions" / "other_9000.py").write_text(MIGRATION)
    monkeypatch.setattr(migrate, "_LINES", (migrate._OPTUNAS, newer))
    with ThreadPoolExecutor(1) as pool:
        with begin_write(worker) as connection:
            upgraded = pool.submit(migrate.upgrade, postgres_engine)
            wait_until(lambda: upgraded.done() or waits_for_a_lock(postgres_engine))
            assert not upgraded.done()
            assert connection.scalar(text("SELECT count(*) FROM hpo_slots")) == 0
        assert upgraded.result() == [f"hpo: {HEAD} -> {REVISION}"]
    with pytest.raises(DatabaseUpgraded), begin_write(worker):
        pass


def waits_for_a_lock(engine: Engine) -> bool:
    """Whether somebody wants the table of versions for itself."""
    query = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
    with begin_read(engine) as connection:
        return bool(connection.scalar(text(query)))


def test_an_older_optuna_is_upgraded_on_demand(empty: Engine) -> None:
    """By Optuna's own steps, on our connection."""
    migrate.create_or_check(empty)
    change(
        empty,
        "UPDATE alembic_version SET version_num = 'v3.0.0.d'",
        "UPDATE version_info SET library_version = '3.0.0'",
    )
    for action in (migrate.check, migrate.create_or_check):
        with pytest.raises(SchemaError, match=r"at version v3\.0\.0\.d.*run `hpo db upgrade`") as error:
            action(empty)
        assert "\n" not in str(error.value)
    assert stand(empty) == {"Optuna": False, "hpo": True}
    assert migrate.upgrade(empty) == ["Optuna: v3.0.0.d -> v3.2.0.a"]
    assert stand(empty) == {"Optuna": True, "hpo": True}
    with begin_read(empty) as connection:
        assert connection.execute(text("SELECT library_version FROM version_info")).scalar() != "3.0.0"


def test_an_older_queue_is_upgraded_on_demand(empty: Engine) -> None:
    """From the first version: what stood in the tables stands there still, and what is newer beside it."""
    migrate.create_or_check(empty)
    made = create_study(empty, NEW)
    with begin_write(empty) as connection:
        add_slots(connection, made.id, "final", [NewSlot(seed=1, label="paper", round=4)])
    (slot,) = claim(empty, 1, worker="w", lease_seconds=60, model="ws")
    assert record_opening(empty, slot.id, slot.token or "", "w")
    known = read_ledger(empty)
    change(
        empty,
        "DROP INDEX ix_hpo_slots_queued",
        "DROP INDEX ix_hpo_slots_failed",
        "DROP TABLE hpo_database",
        "DROP TABLE hpo_workers",
        "DROP TABLE hpo_ledger",
        "DROP TABLE hpo_users",
        "DROP TABLE hpo_tokens",
        "ALTER TABLE hpo_studies DROP COLUMN open_early",
        "ALTER TABLE hpo_slots DROP COLUMN failed_on",
        "ALTER TABLE hpo_slots DROP COLUMN reserved_until",
        "ALTER TABLE hpo_studies DROP COLUMN experiment",
        "ALTER TABLE hpo_studies DROP COLUMN code_digest",
        "ALTER TABLE hpo_studies DROP COLUMN code_changes",
        "UPDATE hpo_alembic_version SET version_num = '0001'",
    )
    for action in (migrate.check, migrate.create_or_check):
        with pytest.raises(SchemaError, match="hpo are at version 0001, this hpo needs 0010; make a backup"):
            action(empty)
    assert migrate.upgrade(empty) == ["hpo: 0001 -> 0010"]
    migrate.check(empty)
    with begin_read(empty) as connection:
        assert "ix_hpo_slots_queued" in {index["name"] for index in inspect(connection).get_indexes("hpo_slots")}
    (study,) = list_studies(empty)
    assert (study.experiment, study.model, study.code_digest) == ("digits", "ws", None)
    assert [slot.idx for slot in claim(empty, 2, worker="w", lease_seconds=60, model="ws")] == [0]
    assert read_ledger(empty) == [replace(entry, early=False, look=None) for entry in known], (
        "no search went on after it"
    )
    assert [(entry.study, entry.label, entry.round) for entry in known] == [("ws", "paper", 4)]


def test_a_failed_creation_leaves_nothing(empty: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both schemas are one transaction."""

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(migrate, "_migrate", fail)
        with pytest.raises(KeyboardInterrupt):
            migrate.create_or_check(empty)
    with begin_read(empty) as connection:
        assert inspect(connection).get_table_names() == []
    migrate.create_or_check(empty)


def test_workers_need_no_right_to_make_tables(
    postgres_engine: Engine, postgres: Postgres, open_database: OpenDatabase
) -> None:
    """A role that may read and write rows, and nothing else, is enough for everything but `hpo db upgrade`."""
    role = f"worker_{os.getpid()}"
    postgres.sql(f"CREATE ROLE {role} LOGIN")
    change(
        postgres_engine,
        "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {role}",
    )
    engine = open_database(postgres_engine.url.set(username=role).render_as_string(hide_password=False))
    migrate.create_or_check(engine)
    create_study(engine, NEW)
    (slot,) = claim(engine, 1, worker="w", lease_seconds=60, model="ws")
    assert make_storage(engine).bind_trial(slot.id, slot.token or "").number == 0
    assert finish(engine, slot.id, slot.token or "", outcome_of())
    delete_study(engine, "ws")
    change(postgres_engine, f"DROP OWNED BY {role}")
    postgres.sql(f"DROP ROLE {role}")


def test_many_may_be_the_first(empty_url: str, open_database: OpenDatabase) -> None:
    """On both databases, each with an engine of its own."""
    engines = [open_database(empty_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate.create_or_check, engines))
    migrate.check(engines[0])


CREATE = """
import sys
from hpo.storage import migrate
from hpo.storage.claims import claim
from hpo.storage.engine import open_engine
engine = open_engine(sys.argv[1])
sys.stdin.readline()
migrate.create_or_check(engine)
migrate.check(engine)
"""


def test_two_processes_may_be_the_first(tmp_path: Path) -> None:
    """Neither fails, whoever is faster."""
    command = [sys.executable, "-W", "error", "-c", CREATE, f"sqlite:///{tmp_path}/hpo.db"]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:  # loading takes longer than creating, so let all start from here
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, problems = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, problems
