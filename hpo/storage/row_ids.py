"""Ids of rows that are never given again: a worker's cache may still hold those of a study that was deleted.

PostgreSQL's sequences see to it. SQLite does where a table has AUTOINCREMENT, which those that Optuna makes have not.
"""

from collections.abc import Iterator, Mapping

from optuna.storages._rdb import models
from sqlalchemy import Column, Connection, MetaData, Table, func, select, text

from hpo.storage.schema import metadata, slots, studies

_OPTUNAS: Mapping[Table, tuple[Column[int], ...]] = {
    models.StudyModel.__table__: (studies.c.search_study_id, studies.c.confirm_study_id, studies.c.final_study_id),
    models.TrialModel.__table__: (slots.c.trial_id,),
}
"""The tables of Optuna's whose ids workers keep, and where ours have them, which no foreign key says."""


def with_lasting_ids(optunas: MetaData) -> MetaData:
    """Optuna's tables as they are to be made on SQLite."""
    tables = MetaData()
    for table in optunas.sorted_tables:
        copy = table.to_metadata(tables)
        if table in _OPTUNAS:
            copy.dialect_options["sqlite"]["autoincrement"] = True
    return tables


def giving_ids_again(connection: Connection) -> list[Table]:
    """The tables that would give a deleted row's id to another, though workers rely on it that they do not."""
    if connection.dialect.name != "sqlite":
        return []
    ours = [table for table in metadata.sorted_tables if table.dialect_options["sqlite"]["autoincrement"]]
    there = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
    without = {row.name for row in there if "AUTOINCREMENT" not in row.sql.upper()}
    return [table for table in [*_OPTUNAS, *ours] if table.name in without]


def make_ids_last(connection: Connection, table: Table) -> None:
    """Rebuild a table of SQLite's so that it gives no id again that stands in the database; its rows are unchanged.

    Belongs into a transaction of `engine.begin_change`, when all tables are there.
    """
    from alembic.operations import Operations  # nothing else needs them, and they take their time to load
    from alembic.runtime.migration import MigrationContext

    used = max(connection.scalar(select(func.max(column))) or 0 for column in _with_ids_of(table))
    query = text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :name")
    triggers = connection.scalars(query, {"name": table.name}).all()
    operations = Operations(MigrationContext.configure(connection))
    with operations.batch_alter_table(table.name, recreate="always", table_kwargs={"sqlite_autoincrement": True}):
        pass  # columns, constraints and indexes are as they were
    for trigger in triggers:
        connection.exec_driver_sql(trigger)
    connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": table.name})
    counted = text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :used)")
    connection.execute(counted, {"name": table.name, "used": used})


def _with_ids_of(table: Table) -> Iterator[Column[int]]:
    """Every column that has ids of this table; some may be of rows that are gone."""
    (key,) = table.primary_key.columns
    yield key
    yield from _OPTUNAS.get(table, ())
    for other in table.metadata.sorted_tables:
        yield from (column for column in other.columns if column.references(key))
