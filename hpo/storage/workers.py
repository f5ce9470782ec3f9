"""The table of workers: who lives, what each serves, and why those left that are gone.

A worker's row is written with the renewals of its leases; while it holds none, once a minute.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, insert, select, update

from hpo.storage.engine import begin_read, begin_write, now
from hpo.storage.schema import HOST_LENGTH, WORKER_LENGTH, workers

ALIVE = workers.c.left_at.is_(None) & (workers.c.alive_until > now())


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredWorker:
    """A worker as it was when read; times are seconds since 1970 by the database's clock."""

    id: int
    name: str
    host: str
    device: str
    lanes: int | None  # in its population; None before it has one
    study_names: tuple[str, ...]  # that it serves; none: all
    data_digest: str
    version: str
    completed: int  # trainings that ended with a result
    failed: int  # trainings that raised
    started_at: float
    seen_at: float
    alive_until: float  # taken for dead from then on
    left_at: float | None
    left_why: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """A sign of life: a worker, and what it has done so far."""

    name: str
    host: str
    device: str
    study_names: Sequence[str]  # that it serves; none: all
    data_digest: str
    version: str  # of hpo
    lanes: int | None
    completed: int
    failed: int


def record_beat(connection: Connection, beat: Beat, alive_seconds: float, *, left_why: str | None = None) -> None:
    """Store a sign of life, in a transaction that the worker makes anyway; the first one makes the row."""
    changing = {
        "lanes": beat.lanes,
        "completed": beat.completed,
        "failed": beat.failed,
        "seen_at": now(),
        "alive_until": now() + alive_seconds,
        "left_at": None if left_why is None else now(),
        "left_why": left_why,
    }
    name = beat.name[:WORKER_LENGTH]
    if connection.execute(update(workers).where(workers.c.name == name).values(changing)).rowcount:
        return
    lasting = {
        "name": name,
        "host": beat.host[:HOST_LENGTH],
        "device": beat.device[:HOST_LENGTH],
        "study_names": json.dumps(list(beat.study_names)) if beat.study_names else None,
        "data_digest": beat.data_digest,
        "version": beat.version,
        "started_at": now(),
        "stop_requested": False,
    }
    connection.execute(insert(workers).values(**lasting, **changing))


def beat_alone(engine: Engine, beat: Beat, alive_seconds: float, *, left_why: str | None = None) -> None:
    """Store a sign of life while no lease is held; with `left_why` the last one."""
    with begin_write(engine) as connection:
        record_beat(connection, beat, alive_seconds, left_why=left_why)


def list_workers(engine: Engine, *, alive: bool = False) -> list[RegisteredWorker]:
    """All workers in the order they began, or those that are alive."""
    query = select(workers).order_by(workers.c.id)
    with begin_read(engine) as connection:
        return [_row(row) for row in connection.execute(query.where(ALIVE) if alive else query)]


def served_by_others(engine: Engine, name: str, data_digest: str, studies: Collection[tuple[int, str]]) -> set[int]:
    """Which of these studies, as id and name, a living worker other than `name` serves too; all use that data."""
    others = [
        worker.study_names
        for worker in list_workers(engine, alive=True)
        if worker.name != name[:WORKER_LENGTH] and worker.data_digest == data_digest
    ]
    return {id_ for id_, study in studies if any(not names or study in names for names in others)}


def another_lives(name: ColumnElement[Any], data_digest: ColumnElement[Any]) -> ColumnElement[bool]:
    """As SQL: whether a worker with the same data lives beside the one called `name`."""
    return select(workers.c.id).where(ALIVE, workers.c.name != name, workers.c.data_digest == data_digest).exists()


def _row(row: Row[*tuple[Any, ...]]) -> RegisteredWorker:
    values = {field.name: getattr(row, field.name) for field in fields(RegisteredWorker)}
    values["study_names"] = tuple(json.loads(values["study_names"] or "[]"))
    return RegisteredWorker(**values)
