"""The table of workers: who lives, what each serves, and why those left that are gone.

A worker's row is written with the renewals of its leases; while it holds none, once a minute.
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Engine, Row, insert, select, update

from hpo.errors import HpoError
from hpo.storage.engine import begin_read, begin_write, now
from hpo.storage.schema import HOST_LENGTH, WORKER_LENGTH, workers
from hpo.text import listed

WORK_DONE = "its work was done"  # why a worker left that ended by itself
STOPPED = "stopped by `hpo workers stop`"
NOT_NEEDED = "nothing could be claimed for"  # ... so many minutes
_IN_ORDER = re.compile(rf"{WORK_DONE}|{STOPPED}|{NOT_NEEDED} .*|SIG[A-Z]+")

ALIVE = workers.c.left_at.is_(None) & (workers.c.alive_until > now())


MOST_NAMED = 5  # workers that an error names


class WorkerNotFound(HpoError):
    """No worker of that name lives, or several begin so; the message names them."""


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
    code_digest: str | None  # of the sources that train; None: of a worker of before it was recorded
    version: str
    completed: int  # trainings that ended with a result
    failed: int  # trainings that raised
    started_at: float
    seen_at: float
    alive_until: float  # taken for dead from then on
    stop_requested: bool  # it is to end as on SIGTERM
    left_at: float | None
    left_why: str | None

    def serves(self, study: str, data_digest: str) -> bool:
        """Whether it trains the study of that name and data, as far as it shows."""
        return data_digest == self.data_digest and (not self.study_names or study in self.study_names)


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """A sign of life: a worker, and what it has done so far."""

    name: str
    host: str
    device: str
    study_names: Sequence[str]  # that it serves; none: all
    data_digest: str
    code_digest: str | None = None  # of the sources that train
    version: str  # of hpo
    lanes: int | None
    completed: int
    failed: int


def record_beat(connection: Connection, beat: Beat, alive_seconds: float, *, left_why: str | None = None) -> bool:
    """Store a sign of life, in a transaction that the worker makes anyway; the first one makes the row.

    Returns whether somebody has asked the worker to end (`request_stop`).
    """
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
    changed = update(workers).where(workers.c.name == name).values(changing).returning(workers.c.stop_requested)
    if (there := connection.execute(changed).one_or_none()) is not None:
        return bool(there.stop_requested)
    lasting = {
        "name": name,
        "host": beat.host[:HOST_LENGTH],
        "device": beat.device[:HOST_LENGTH],
        "study_names": json.dumps(list(beat.study_names)) if beat.study_names else None,
        "data_digest": beat.data_digest,
        "code_digest": beat.code_digest,
        "version": beat.version,
        "started_at": now(),
        "stop_requested": False,
    }
    connection.execute(insert(workers).values(**lasting, **changing))
    return False


def beat_alone(engine: Engine, beat: Beat, alive_seconds: float, *, left_why: str | None = None) -> bool:
    """Store a sign of life while no lease is held, with `left_why` the last one; returns as `record_beat`."""
    with begin_write(engine) as connection:
        return record_beat(connection, beat, alive_seconds, left_why=left_why)


def living_worker(engine: Engine, name: str) -> RegisteredWorker:
    """The worker that lives of that name, or the only one whose name begins so.

    Raises WorkerNotFound where there is none, or several.
    """
    living = list_workers(engine, alive=True)
    fitting = [worker for worker in living if worker.name == name] or [
        worker for worker in living if name and worker.name.startswith(name)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = listed([worker.name for worker in fitting], MOST_NAMED)
        raise WorkerNotFound(f"{len(fitting)} workers begin with {name!r}: {names}; give more of the name")
    raise WorkerNotFound(f"no worker that lives is called {name!r}; `hpo workers list` shows those that do")


def request_stop(engine: Engine, names: Collection[str]) -> list[str]:
    """Ask the living ones among these workers to end; each does so when it shows the next time that it is alive.

    Returns the names of those that were asked, in the order they began. Whoever may write to the database may ask.
    """
    asked = update(workers).where(ALIVE, workers.c.name.in_(names)).values(stop_requested=True)
    with begin_write(engine) as connection:
        rows = connection.execute(asked.returning(workers.c.id, workers.c.name)).all()
    return [row.name for row in sorted(rows, key=lambda row: row.id)]


def list_workers(engine: Engine, *, alive: bool = False) -> list[RegisteredWorker]:
    """All workers in the order they began, or those that are alive."""
    query = select(workers).order_by(workers.c.id)
    with begin_read(engine) as connection:
        return [_row(row) for row in connection.execute(query.where(ALIVE) if alive else query)]


def recent_workers(connection: Connection, seconds: float) -> list[RegisteredWorker]:
    """Those that are alive, or were so many seconds ago, in the order they began."""
    query = select(workers).where(workers.c.alive_until > now() - seconds).order_by(workers.c.id)
    return [_row(row) for row in connection.execute(query)]


def served_by_others(engine: Engine, name: str, data_digest: str, studies: Collection[tuple[int, str]]) -> set[int]:
    """Which of these studies, as id and name, a living worker other than `name` serves too; all use that data."""
    others = [worker for worker in list_workers(engine, alive=True) if worker.name != name[:WORKER_LENGTH]]
    return {id_ for id_, study in studies if any(worker.serves(study, data_digest) for worker in others)}


def left_in_order(why: str | None) -> bool:
    """Whether a worker that left for this reason ended as it should: by itself, by a signal, or as it was asked."""
    return why is not None and _IN_ORDER.fullmatch(why) is not None


def another_lives(name: ColumnElement[Any], data_digest: ColumnElement[Any]) -> ColumnElement[bool]:
    """As SQL: whether a worker with the same data lives beside the one called `name`."""
    return select(workers.c.id).where(ALIVE, workers.c.name != name, workers.c.data_digest == data_digest).exists()


def _row(row: Row[*tuple[Any, ...]]) -> RegisteredWorker:
    values = {field.name: getattr(row, field.name) for field in fields(RegisteredWorker)}
    values["study_names"] = tuple(json.loads(values["study_names"] or "[]"))
    return RegisteredWorker(**values)
