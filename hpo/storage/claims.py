"""Giving slots to workers: which slot is next, under which lease, and what happens when leases expire.

The database's clock alone judges leases. `slots.py` has what the holder of a lease may do.
"""

import secrets
from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    ScalarSelect,
    Select,
    String,
    and_,
    case,
    cast,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningUpdate

from hpo.storage.engine import begin_read, begin_write, eight_hex_digits, now
from hpo.storage.schema import TICKET_LENGTH, WORKER_LENGTH, slots, studies, workers
from hpo.storage.searched import may_open
from hpo.storage.slots import PRIORITY, RUNNING, WAITING, Slot, columns, from_row


class Trained(NamedTuple):
    """What a population trains: models of two experiments may have the same name."""

    experiment: str
    model: str


MAX_ATTEMPTS = 3  # leases that may expire without any new epoch before the slot fails

_expired = RUNNING & (slots.c.lease_expires < now())
_fruitless = case((slots.c.epoch > slots.c.lease_epoch, 0), else_=1)  # this lease brought no new epoch
_used_up = slots.c.expiries + _fruitless >= MAX_ATTEMPTS
_unpaused = (studies.c.id == slots.c.study_id) & ~studies.c.paused


def _of_study(what: ColumnElement[Any], *which: ColumnElement[bool]) -> ScalarSelect[Any]:
    """Something about the slots of the study that the query around it looks at: by a partial index each."""
    return select(what).where(slots.c.study_id == studies.c.id, *which).correlate(studies).scalar_subquery()


_running = _of_study(func.count(), RUNNING)
_expired_ready = _of_study(func.max(slots.c.id), _expired, ~_used_up)
_room = studies.c.in_flight - _of_study(func.count(), RUNNING, slots.c.adaptive)


def _waits_for(worker: str, not_again: Collection[int]) -> ColumnElement[bool]:
    """What waits, but for what failed on this worker a short time ago in these studies, or would open a shut pool."""
    if not not_again:
        return WAITING & may_open
    return (
        WAITING
        & may_open
        & or_(
            slots.c.failed_on.is_(None),
            slots.c.failed_on != worker[:WORKER_LENGTH],
            slots.c.reserved_until <= now(),
            slots.c.study_id.not_in(list(not_again)),
        )
    )


def _first(waiting: ColumnElement[bool], *, adaptive: bool) -> ScalarSelect[Any]:
    """The index of a study's first slot that waits."""
    return _of_study(func.min(slots.c.idx), waiting, slots.c.adaptive if adaptive else ~slots.c.adaptive)


def new_ticket() -> str:
    """A random name for one claim."""
    return secrets.token_hex(TICKET_LENGTH // 2)


def claim(
    engine: Engine,
    n: int,
    *,
    worker: str,
    lease_seconds: float,
    model: str,
    study_ids: Collection[int] | None = None,
    not_again: Collection[int] = (),
    ticket: str | None = None,
    again: bool = False,
) -> list[Slot]:
    """Take up to `n` slots of the model in one transaction, each under a lease with its own token.

    A token is the claim's ticket (see `new_ticket`) and the slot's id. Where the answer to a claim was lost, the
    claim may have been committed all the same: made once more with the same ticket and `again`, it returns what it
    took and still holds, its leases prolonged, and only where that is nothing does it take slots now.

    Expired leases first (their attempt counts one more), then what waits: final, confirm, search, by index,
    so that repeats interleave; adaptive search slots last, and only while fewer than their study's
    `in_flight` of them run. Paused studies are left out, and slots whose attempts are used up (see `sweep`). In
    the studies `not_again`, by their ids, a slot that failed on this worker a short time ago is left to others.
    """
    waiting = _waits_for(worker, not_again)
    these_slots = [slots.c.model == model, *_among(slots.c.study_id, study_ids)]
    these_studies = [studies.c.model == model, *_among(studies.c.id, study_ids)]
    ticket = ticket or new_ticket()
    claimed: list[Slot] = []
    with begin_write(engine) as connection:
        if again and (taken := _taken(connection, ticket, lease_seconds)):
            return taken
        for pick, wanted in (
            (_pick_expired, these_slots),
            (_pick_waiting, [waiting, *these_slots]),
            (partial(_pick_adaptive, waiting=waiting), these_studies),
        ):
            left = n - len(claimed)
            if left > 0 and (picked := pick(connection, wanted, left)) is not None:
                claimed += _lease(connection, picked, ticket, worker, lease_seconds)
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


def next_models(
    engine: Engine,
    study_ids: Collection[int] | None = None,
    *,
    worker: str = "",
    not_again: Collection[int] = (),
) -> list[Trained]:
    """The models with something for `claim` to take, first the one whose study has the fewest running slots."""
    waiting = _waits_for(worker, not_again)
    claimable = or_(
        _first(waiting, adaptive=False).is_not(None),
        _expired_ready.is_not(None),
        and_(_first(waiting, adaptive=True).is_not(None), _room > 0),
    )
    per_study = (
        select(studies.c.experiment, studies.c.model)
        .where(studies.c.phase != "done", ~studies.c.paused, *_among(studies.c.id, study_ids), claimable)
        .order_by(_running, studies.c.id)
    )
    with begin_read(engine) as connection:
        return list(dict.fromkeys(Trained(*row) for row in connection.execute(per_study)))


class Running(NamedTuple):
    """A slot in training."""

    worker: str
    study_id: int
    epoch: int
    lanes: int | None  # of its worker; None: nobody knows


def outlook(engine: Engine, study_ids: Collection[int]) -> tuple[int, list[Running]]:
    """How many slots of these studies are to be taken up, expired ones too, and those that run under a lease."""
    openable = exists().where(studies.c.id == slots.c.study_id, may_open)
    left = or_(and_(WAITING, openable), _expired)
    waiting = select(func.count()).select_from(slots).where(left, *_among(slots.c.study_id, study_ids))
    running = (
        select(slots.c.worker, slots.c.study_id, slots.c.epoch, workers.c.lanes)
        .outerjoin_from(slots, workers, workers.c.name == slots.c.worker)
        .where(RUNNING, slots.c.lease_expires >= now(), *_among(slots.c.study_id, study_ids))
    )
    with begin_read(engine) as connection:
        if not (count := connection.scalar(waiting) or 0):
            return 0, []
        return count, [Running(*row) for row in connection.execute(running)]


def any_open(engine: Engine, study_ids: Collection[int] | None = None) -> bool:
    """Whether something is left to do: a slot waits in a study that is not paused, or runs.

    What a dead worker held in a paused study is not: nobody may take it up, however long one waits. Final rounds that
    wait for a search are not either: the search is what is left, as long as it is served.
    """
    unpaused = exists().where(studies.c.id == slots.c.study_id, ~studies.c.paused)
    claimable = exists().where(studies.c.id == slots.c.study_id, ~studies.c.paused, may_open)
    runs = RUNNING & or_(unpaused, slots.c.lease_expires >= now())
    with begin_read(engine) as connection:
        return _exists(connection, runs, study_ids) or _exists(connection, WAITING & claimable, study_ids)


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
    waiting = select(slots.c.id).where(*wanted, _unpaused, ~slots.c.adaptive)
    order = (slots.c.priority, slots.c.idx, slots.c.study_id)
    return waiting.order_by(*order).limit(n).with_for_update(of=slots, skip_locked=True)


def _pick_adaptive(
    connection: Connection, wanted: list[ColumnElement[bool]], n: int, *, waiting: ColumnElement[bool]
) -> Select[int] | None:
    """The first adaptive slots of studies with room; these studies' rows stay locked, so the room is exact.

    The first `n` slots are of the `n` studies that come first. Those that another claim has locked are left to it,
    unless there are no others.
    """
    first = _first(waiting, adaptive=True)
    roomy = (
        select(studies.c.id)
        .where(*wanted, ~studies.c.paused, first.is_not(None), _room > 0)
        .order_by(first, studies.c.id)
        .limit(n)
    )
    locked = connection.scalars(roomy.with_for_update(key_share=True, skip_locked=True)).all()
    if not locked:
        in_order = select(studies.c.id).where(studies.c.id.in_(roomy)).order_by(studies.c.id)
        locked = connection.scalars(in_order.with_for_update(key_share=True)).all()
    if not locked:
        return None
    # Counted in a later statement, which on PostgreSQL sees what the last holder of the lock has claimed.
    place = func.row_number().over(partition_by=slots.c.study_id, order_by=slots.c.idx)
    queue = (
        select(slots.c.id, slots.c.idx, slots.c.study_id, place.label("place"), _room.label("room"))
        .join_from(slots, studies, studies.c.id == slots.c.study_id)
        .where(waiting, slots.c.adaptive, slots.c.study_id.in_(locked))
        .subquery()
    )
    chosen = select(queue.c.id).where(queue.c.place <= queue.c.room)
    return chosen.order_by(queue.c.idx, queue.c.study_id).limit(n)


def _lease(connection: Connection, picked: Select[int], ticket: str, worker: str, seconds: float) -> list[Slot]:
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
            worker=worker[:WORKER_LENGTH],
            token=literal(ticket) + eight_hex_digits(slots.c.id),
            lease_expires=now() + seconds,
            started_at=func.coalesce(slots.c.started_at, now()),
        )
        .returning(*columns())
    )
    return _in_order(connection, given)


def _taken(connection: Connection, ticket: str, seconds: float) -> list[Slot]:
    """The slots that an earlier claim with this ticket took, as far as they still run under it."""
    taken = (
        update(slots)
        .where(RUNNING, func.substr(slots.c.token, 1, TICKET_LENGTH) == ticket)
        .values(lease_expires=now() + seconds)
        .returning(*columns())
    )
    return _in_order(connection, taken)


def _in_order(connection: Connection, claimed: ReturningUpdate[Any]) -> list[Slot]:
    return sorted(
        (from_row(row) for row in connection.execute(claimed)),
        key=lambda slot: (PRIORITY[slot.kind], slot.idx, slot.study_id),
    )
