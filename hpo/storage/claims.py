"""Giving slots to workers: which slot is next, under which lease, and what happens when leases expire.

The database's clock alone judges leases. `slots.py` has what the holder of a lease may do.
"""

from collections.abc import Collection

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    String,
    case,
    cast,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    union_all,
    update,
)

from hpo.storage.engine import begin_read, begin_write, new_token, now
from hpo.storage.schema import slots, studies
from hpo.storage.slots import PRIORITY, RUNNING, WAITING, Slot, columns, from_row

MAX_ATTEMPTS = 3  # leases that may expire without any new epoch before the slot fails

_expired = RUNNING & (slots.c.lease_expires < now())
_fruitless = case((slots.c.epoch > slots.c.lease_epoch, 0), else_=1)  # this lease brought no new epoch
_used_up = slots.c.expiries + _fruitless >= MAX_ATTEMPTS
_other = slots.alias("other")
_in_flight = (  # how many adaptive search slots of the study run now
    select(func.count())
    .where(
        _other.c.study_id == studies.c.id,
        _other.c.state == literal_column("'running'"),
        _other.c.adaptive,
    )
    .correlate(studies)
    .scalar_subquery()
)
_unpaused = (studies.c.id == slots.c.study_id) & ~studies.c.paused
_open = union_all(  # what waits or runs: two partial indexes, which one condition over both would not use
    *(
        select(
            slots.c.study_id,
            slots.c.adaptive,
            literal(int(state is RUNNING)).label("running"),
            case((_expired & ~_used_up, 1), else_=0).label("expired"),
        ).where(state)
        for state in (WAITING, RUNNING)
    )
).subquery("open")


def claim(
    engine: Engine,
    n: int,
    *,
    worker: str,
    lease_seconds: float,
    model: str,
    study_ids: Collection[int] | None = None,
) -> list[Slot]:
    """Take up to `n` slots of the model in one transaction, each under a lease and a token of its own.

    Expired leases first (their attempt counts one more), then what waits: final, confirm, search, by index,
    so that repeats interleave; adaptive search slots last, and only while fewer than their study's
    `in_flight` of them run. Paused studies are left out, and slots whose attempts are used up (see `sweep`).
    """
    wanted = [slots.c.model == model, *_among(slots.c.study_id, study_ids)]
    claimed: list[Slot] = []
    with begin_write(engine) as connection:
        for pick in (_pick_expired, _pick_waiting, _pick_adaptive):
            left = n - len(claimed)
            if left > 0 and (picked := pick(connection, wanted, left)) is not None:
                claimed += _lease(connection, picked, worker, lease_seconds)
    return claimed


def sweep(engine: Engine) -> list[int]:
    """Fail the running slots whose lease has expired with their attempts used up; returns their ids."""
    times = cast(slots.c.expiries + _fruitless, String)
    reason = literal("the lease expired ") + times + " times without a new epoch; last worker: " + slots.c.worker
    # Two sweeps at once share the work: neither waits for the other's rows.
    hopeless = select(slots.c.id).where(_expired, _used_up).with_for_update(skip_locked=True).cte("hopeless")
    given_up = (
        update(slots)
        .where(slots.c.id.in_(select(hopeless.c.id)), _expired)
        .values(
            state="failed",
            expiries=slots.c.expiries + _fruitless,
            error=reason,
            token=None,
            lease_expires=None,
            finished_at=now(),
        )
        .returning(slots.c.id)
    )
    with begin_write(engine) as connection:
        return sorted(connection.scalars(given_up))


def next_models(engine: Engine, study_ids: Collection[int] | None = None) -> list[str]:
    """The models with something to claim, first the one whose study has the fewest running slots."""
    a = _open
    running = func.sum(a.c.running)
    ready = func.sum(case((a.c.expired == 1, 1), (a.c.adaptive | (a.c.running == 1), 0), else_=1))
    adaptive_waiting = func.sum(case((a.c.adaptive & (a.c.running == 0), 1), else_=0))
    adaptive_running = func.sum(case((a.c.adaptive & (a.c.running == 1), 1), else_=0))
    has_room = (adaptive_waiting > 0) & (adaptive_running < studies.c.in_flight)
    per_study = (
        select(studies.c.model)
        .join(a, a.c.study_id == studies.c.id)
        .where(~studies.c.paused, *_among(a.c.study_id, study_ids))
        .group_by(studies.c.id, studies.c.model, studies.c.in_flight)
        .having(or_(ready > 0, has_room))
        .order_by(running, studies.c.id)
    )
    with begin_read(engine) as connection:
        return list(dict.fromkeys(connection.scalars(per_study)))


def any_running(engine: Engine, study_ids: Collection[int] | None = None) -> bool:
    """Whether some slot runs, or is said to by a lease that has not been taken up again; paused or not."""
    with begin_read(engine) as connection:
        return _exists(connection, RUNNING, study_ids)


def any_open(engine: Engine, study_ids: Collection[int] | None = None) -> bool:
    """Whether something is left to do: a slot waits in a study that is not paused, or runs."""
    unpaused = WAITING & exists().where(studies.c.id == slots.c.study_id, ~studies.c.paused)
    with begin_read(engine) as connection:
        return _exists(connection, RUNNING, study_ids) or _exists(connection, unpaused, study_ids)


def _exists(connection: Connection, which: ColumnElement[bool], study_ids: Collection[int] | None) -> bool:
    there = select(slots.c.id).where(which, *_among(slots.c.study_id, study_ids)).limit(1)
    return connection.scalar(there) is not None


def _among(column: ColumnElement[int], study_ids: Collection[int] | None) -> list[ColumnElement[bool]]:
    # A sum, not the column: SQLite would take the index of all the study's slots, finished ones too, for a partial one.
    return [] if study_ids is None else [(column + 0).in_(list(study_ids))]


def _pick_expired(connection: Connection, wanted: list[ColumnElement[bool]], n: int) -> Select[int]:
    expired = select(slots.c.id).where(*wanted, _unpaused, _expired, ~_used_up)
    return expired.order_by(slots.c.lease_expires).limit(n).with_for_update(of=slots, skip_locked=True)


def _pick_waiting(connection: Connection, wanted: list[ColumnElement[bool]], n: int) -> Select[int]:
    waiting = select(slots.c.id).where(*wanted, _unpaused, WAITING, ~slots.c.adaptive)
    order = (slots.c.priority, slots.c.idx, slots.c.study_id)
    return waiting.order_by(*order).limit(n).with_for_update(of=slots, skip_locked=True)


def _pick_adaptive(connection: Connection, wanted: list[ColumnElement[bool]], n: int) -> Select[int] | None:
    """Adaptive slots of the studies with room; these studies' rows stay locked, so the room is exact."""
    waiting = [*wanted, WAITING, slots.c.adaptive]
    roomy = select(studies.c.id).where(
        studies.c.id.in_(select(slots.c.study_id).where(*waiting)),
        ~studies.c.paused,
        studies.c.in_flight > _in_flight,
    )
    locked = connection.scalars(roomy.order_by(studies.c.id).with_for_update(key_share=True)).all()
    if not locked:
        return None
    # Counted in a later statement, which on PostgreSQL sees what the last holder of the lock has claimed.
    place = func.row_number().over(partition_by=slots.c.study_id, order_by=slots.c.idx)
    queue = (
        select(slots.c.id, slots.c.idx, slots.c.study_id, place.label("place"))
        .add_columns((studies.c.in_flight - _in_flight).label("room"))
        .join_from(slots, studies, studies.c.id == slots.c.study_id)
        .where(*waiting, slots.c.study_id.in_(locked))
        .subquery()
    )
    chosen = select(queue.c.id).where(queue.c.place <= queue.c.room)
    return chosen.order_by(queue.c.idx, queue.c.study_id).limit(n)


def _lease(connection: Connection, picked: Select[int], worker: str, seconds: float) -> list[Slot]:
    """Give the picked slots to the worker: the claim's one conditional statement."""
    chosen = picked.cte("picked")  # a WITH, for PostgreSQL may evaluate a plain subquery more than once
    given = (
        update(slots)
        .where(slots.c.id.in_(select(chosen.c.id)), or_(WAITING, _expired))
        .values(
            state="running",
            attempt=slots.c.attempt + 1,
            expiries=slots.c.expiries + case((RUNNING, _fruitless), else_=0),
            lease_epoch=slots.c.epoch,
            worker=worker[:200],  # host names may be long
            token=new_token(),
            lease_expires=now() + seconds,
            started_at=func.coalesce(slots.c.started_at, now()),
        )
        .returning(*columns())
    )
    claimed = [from_row(row) for row in connection.execute(given)]
    return sorted(claimed, key=lambda slot: (PRIORITY[slot.kind], slot.idx, slot.study_id))
