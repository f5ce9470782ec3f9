"""Both schemas in one database: hpo's and Optuna's, each with its own line of alembic migrations.

Creating and upgrading are one transaction each, so a database is never left half-way. Nothing is upgraded except by
`hpo db upgrade`: a worker that meets an older or newer schema reports it and stops, at its start or in its midst
(`engine.hold_to`).
"""

import ast
import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.storages._rdb import models
from sqlalchemy import Connection, Engine, MetaData, column, insert, inspect, select, table, text, update

from hpo.errors import SchemaError
from hpo.storage.engine import begin_change, begin_read, display_url, is_missing
from hpo.storage.row_ids import giving_ids_again, make_ids_last, with_lasting_ids
from hpo.storage.schema import metadata

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

_LOCK = 0x68706F  # PostgreSQL's advisory lock: only one process at a time creates or changes tables

_HOW = "make a backup, run `hpo db upgrade`"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Line:
    """One line of migrations."""

    owner: str  # whose tables, for messages
    scripts: Path
    version_table: str
    metadata: MetaData


_OURS = _Line(
    owner="hpo",
    scripts=Path(__file__).parent / "migrations",
    version_table="hpo_alembic_version",
    metadata=metadata,
)
_OPTUNAS = _Line(
    owner="Optuna",
    scripts=Path(models.__file__).parent / "alembic",
    version_table="alembic_version",
    metadata=models.BaseModel.metadata,
)
_LINES = (_OPTUNAS, _OURS)


def create_or_check(engine: Engine) -> None:
    """Create both schemas in an empty database, check them in any other; safe for two processes at once.

    Raises SchemaError where the tables are not those of this version.
    """
    if not is_missing(engine):
        with begin_read(engine) as connection:
            if not _is_empty(connection):
                _check(connection, display_url(engine))
                return
    with begin_change(engine) as connection, _alone(connection):
        if _is_empty(connection):
            _create(connection)
        else:  # another process has just created them
            _check(connection, display_url(engine))


def check(engine: Engine) -> None:
    """Raise SchemaError, one line, unless both schemas are those of this version."""
    if is_missing(engine):
        raise SchemaError(f"{display_url(engine)}: no database there yet; `hpo study create` creates it")
    with begin_read(engine) as connection:
        if _is_empty(connection):
            raise SchemaError(f"{display_url(engine)} is empty; `hpo study create` or `hpo db upgrade` fills it")
        _check(connection, display_url(engine))


def upgrade(engine: Engine) -> list[str]:
    """Bring both schemas to this version, from nothing too; returns what was done, a line each.

    Raises SchemaError where a schema is newer than this version knows.
    """
    done = []
    with begin_change(engine) as connection, _alone(connection):
        if _is_empty(connection):
            _create(connection)
            return [f"{line.owner}: created at {_head(line)}" for line in _LINES]
        outdated = [line for line in _LINES if _version(connection, line) != _head(line)]
        if outdated:
            _let_others_end(connection)
        for line in outdated:
            before, head = _version(connection, line), _head(line)
            _refuse_newer(line, before, display_url(engine))
            if line is _OPTUNAS and before is None:
                _create_optunas(connection)
            else:
                _migrate(connection, line)
            done.append(f"{line.owner}: {before or 'nothing'} -> {head}")
        for table in giving_ids_again(connection):
            make_ids_last(connection, table)
            done.append(f"{table.name}: no id will be given twice")
    return done


def versions(engine: Engine) -> dict[str, tuple[str | None, str]]:
    """For both owners the version in the database (None: no tables) and the one of this installation."""
    with begin_read(engine) as connection:
        return {line.owner: (_version(connection, line), _head(line)) for line in _LINES}


def heads() -> dict[str, str]:
    """The versions that this installation needs, by the table in which a database says its own."""
    return {line.version_table: _head(line) for line in _LINES}


def _check(connection: Connection, where: str) -> None:
    for line in _LINES:
        version, head = _version(connection, line), _head(line)
        if version == head:
            continue
        if version is None:
            raise SchemaError(f"{where} has no tables of {line.owner}'s; run `hpo db upgrade`")
        _refuse_newer(line, version, where)
        raise SchemaError(
            f"{where}: the tables of {line.owner} are at version {version}, this hpo needs {head}; {_HOW}"
        )
    if tables := giving_ids_again(connection):
        names = " and ".join(table.name for table in tables)
        raise SchemaError(f"{where}: {names} would give the ids of deleted rows again, which mixes studies up; {_HOW}")


def _let_others_end(connection: Connection) -> None:
    """On PostgreSQL wait for all who have read the versions (`engine.hold_to`); whoever comes now will read the new.

    On SQLite nobody else writes now anyway.
    """
    if connection.dialect.name == "postgresql":
        there = set(inspect(connection).get_table_names())
        for line in _LINES:
            if line.version_table in there:
                connection.execute(text(f"LOCK TABLE {line.version_table}"))  # in its strictest mode


def _refuse_newer(line: _Line, version: str | None, where: str) -> None:
    if version is not None and version not in _revisions(line):
        raise SchemaError(
            f"{where}: the tables of {line.owner} are at version {version}, which this hpo does not know; "
            "install the newer hpo that made them"
        )


def _is_empty(connection: Connection) -> bool:
    tables = set(inspect(connection).get_table_names())
    return not any(tables & (set(line.metadata.tables) | {line.version_table}) for line in _LINES)


def _create(connection: Connection) -> None:
    _create_optunas(connection)
    _migrate(connection, _OURS)


def _create_optunas(connection: Connection) -> None:
    tables = _OPTUNAS.metadata
    if connection.dialect.name == "sqlite":
        tables = with_lasting_ids(tables)
    tables.create_all(connection)
    connection.execute(
        insert(models.VersionInfoModel).values(
            version_info_id=1, schema_version=models.SCHEMA_VERSION, library_version=optuna.__version__
        )
    )
    from alembic.runtime.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"version_table": _OPTUNAS.version_table})
    context.stamp(_scripts(_OPTUNAS), "head")


def _migrate(connection: Connection, line: _Line, target: str = "head") -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext

    scripts = _scripts(line)
    with EnvironmentContext(
        Config(), scripts, fn=lambda revision, _: scripts._upgrade_revs(target, revision)
    ) as environment:
        environment.configure(
            connection=connection,
            target_metadata=line.metadata,
            version_table=line.version_table,
            render_as_batch=True,  # SQLite cannot alter most things in place
        )
        environment.run_migrations()
    if line is _OPTUNAS:
        connection.execute(
            update(models.VersionInfoModel).values(
                schema_version=models.SCHEMA_VERSION, library_version=optuna.__version__
            )
        )


def _version(connection: Connection, line: _Line) -> str | None:
    if not inspect(connection).has_table(line.version_table):
        return None
    return connection.scalar(select(column("version_num")).select_from(table(line.version_table)))


def _scripts(line: _Line) -> "ScriptDirectory":
    from alembic.script import ScriptDirectory

    return ScriptDirectory(str(line.scripts))


@functools.cache
def _revisions(line: _Line) -> dict[str, str | None]:
    """Each revision and the one before it, as the files say: for alembic, which runs them, every command would wait."""
    revisions = {}
    for file in (line.scripts / "versions").glob("*.py"):
        said = {
            target.id: ast.literal_eval(statement.value)
            for statement in ast.parse(file.read_text(encoding="utf-8")).body
            if isinstance(statement, ast.Assign)
            for target in statement.targets
            if isinstance(target, ast.Name) and target.id in ("revision", "down_revision")
        }
        if "revision" in said:
            revisions[said["revision"]] = said["down_revision"]
    return revisions


def _head(line: _Line) -> str:
    revisions = _revisions(line)
    (head,) = revisions.keys() - revisions.values()
    return head


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Let no other process create or change tables until the transaction ends; on SQLite none can anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        connection.execute(text("SET LOCAL statement_timeout = 0"))  # rewriting a large table takes long
    logger = logging.getLogger("alembic")
    level = logger.level
    logger.setLevel(logging.WARNING)  # alembic announces each step
    try:
        yield
    finally:
        logger.setLevel(level)
