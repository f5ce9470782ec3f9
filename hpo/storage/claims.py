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
    or_,
    select,
    update,
)

from hpo.storage.engine import begin_read, begin_write, new_token, now
from hpo.storage.schema import slots, studies
from hpo.storage.slots import PRIORITY, Slot, columns, from_row

MAX_ATTEMPTS = 3  # leases that may expire without any new epoch before the slot fails

_expired = (slots.c.state == "running") & (slots.c.lease_expires < now())
_fruitless = case((slots.c.epoch > slots.c.lease_epoch, 0), else_=1)  # this lease brought no new epoch
_used_up = slots.c.expiries + _fruitless >= MAX_ATTEMPTS
_adaptive_running = slots.alias("adaptive_running")
_in_flight = (  # how many adaptive search slots of the study run now
    select(func.count())
    .where(
        _adaptive_running.c.study_id == studies.c.id,
        _adaptive_running.c.state == "running",
        _adaptive_running.c.adaptive,
    )
    .correlate(studies)
    .scalar_subquery()
)


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
    wanted = [*_wanted(study_ids), slots.c.model == model]
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
    given_up = (
        update(slots)
        .where(_expired, _used_up)
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
    running = func.count().filter(slots.c.state == "running")
    adaptive_running = func.count().filter(slots.c.state == "running", slots.c.adaptive)
    ready = func.count().filter(or_((slots.c.state == "waiting") & ~slots.c.adaptive, _expired & ~_used_up))
    adaptive_ready = func.count().filter(slots.c.state == "waiting", slots.c.adaptive)
    per_study = (
        select(studies.c.model, running.label("running"), studies.c.id)
        .where(*_wanted(study_ids), or_(slots.c.state == "waiting", slots.c.state == "running"))
        .group_by(studies.c.id, studies.c.model, studies.c.in_flight)
        .having(or_(ready > 0, (adaptive_ready > 0) & (adaptive_running < studies.c.in_flight)))
        .order_by("running", studies.c.id)
    )
    with begin_read(engine) as connection:
        return list(dict.fromkeys(row.model for row in connection.execute(per_study)))


def any_running(engine: Engine, study_ids: Collection[int] | None = None) -> bool:
    """Whether some slot runs, or is said to by a lease that has not been taken up again; paused or not."""
    return _any(engine, slots.c.state == "running", study_ids)


def any_open(engine: Engine, study_ids: Collection[int] | None = None) -> bool:
    """Whether something is left to do: a slot waits in a study that is not paused, or runs."""
    unpaused = (slots.c.state == "waiting") & ~studies.c.paused
    return _any(engine, or_(unpaused, slots.c.state == "running"), study_ids)


def _any(engine: Engine, which: ColumnElement[bool], study_ids: Collection[int] | None) -> bool:
    there = exists().where(which, studies.c.id == slots.c.study_id, *_of(study_ids))
    with begin_read(engine) as connection:
        return bool(connection.scalar(select(there)))


def _of(study_ids: Collection[int] | None) -> list[ColumnElement[bool]]:
    return [] if study_ids is None else [slots.c.study_id.in_(list(study_ids))]


def _wanted(study_ids: Collection[int] | None) -> list[ColumnElement[bool]]:
    return [studies.c.id == slots.c.study_id, ~studies.c.paused, *_of(study_ids)]


def _pick_expired(connection: Connection, wanted: list[ColumnElement[bool]], n: int) -> Select[int]:
    expired = select(slots.c.id).where(*wanted, _expired, ~_used_up)
    return expired.order_by(slots.c.lease_expires).limit(n).with_for_update(of=slots, skip_locked=True)


def _pick_waiting(connection: Connection, wanted: list[ColumnElement[bool]], n: int) -> Select[int]:
    waiting = select(slots.c.id).where(*wanted, slots.c.state == "waiting", ~slots.c.adaptive)
    order = (slots.c.priority, slots.c.idx, slots.c.study_id)
    return waiting.order_by(*order).limit(n).with_for_update(of=slots, skip_locked=True)


def _pick_adaptive(connection: Connection, wanted: list[ColumnElement[bool]], n: int) -> Select[int] | None:
    """Adaptive slots of the studies with room; these studies' rows stay locked, so the room is exact."""
    waiting = [*wanted, slots.c.state == "waiting", slots.c.adaptive]
    roomy = select(studies.c.id).where(exists().where(*waiting), studies.c.in_flight > _in_flight)
    locked = connection.scalars(roomy.order_by(studies.c.id).with_for_update(key_share=True)).all()
    if not locked:
        return None
    # Counted in a later statement, which on PostgreSQL sees what the last holder of the lock has claimed.
    place = func.row_number().over(partition_by=slots.c.study_id, order_by=slots.c.idx)
    queue = (
        select(slots.c.id, slots.c.idx, slots.c.study_id, place.label("place"))
        .add_columns((studies.c.in_flight - _in_flight).label("room"))
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
        .where(slots.c.id.in_(select(chosen.c.id)), or_(slots.c.state == "waiting", _expired))
        .values(
            state="running",
            attempt=slots.c.attempt + 1,
            expiries=slots.c.expiries + case((slots.c.state == "running", _fruitless), else_=0),
            lease_epoch=slots.c.epoch,
            worker=worker,
            token=new_token(),
            lease_expires=now() + seconds,
            started_at=func.coalesce(slots.c.started_at, now()),
        )
        .returning(*columns())
    )
    claimed = [from_row(row) for row in connection.execute(given)]
    return sorted(claimed, key=lambda slot: (PRIORITY[slot.kind], slot.idx, slot.study_id))
