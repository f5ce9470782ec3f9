"""Slots: the queue. A slot is the right to run one trial; every change of its state is one statement.

    waiting -> running              claim
    running -> running              claim by another worker once the lease has expired; renew before that
    running -> done                 finish
    running -> waiting              release; fail, as long as that may be the machine's fault
    running -> failed               fail; sweep, once the attempts are used up
    failed  -> waiting              requeue_failed

Each says whether it happened. Whoever holds a slot proves it with the token of its lease: without it nothing
changes. `claims.py` has what any worker may do: claim and sweep.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    Update,
    and_,
    case,
    func,
    insert,
    literal,
    literal_column,
    or_,
    select,
    text,
    tuple_,
    update,
)

from hpo.errors import StudyNotFound, UsageError
from hpo.storage import ledger
from hpo.storage.engine import begin_read, begin_write, now
from hpo.storage.outcome import Outcome, OutcomeState
from hpo.storage.schema import LABEL_LENGTH, UNTOLD, WORKER_LENGTH, openings, slots, studies
from hpo.storage.values import Value
from hpo.storage.workers import another_lives

Kind = Literal["search", "confirm", "final"]
State = Literal["waiting", "running", "done", "failed"]
Lease = tuple[int, str]  # slot id, token
Beside = Callable[[Connection], None]  # what is written in the same transaction

PRIORITY: dict[str, int] = {"final": 0, "confirm": 1, "search": 2}  # what is nearest to the end goes first
# Written out, not bound: the planners use the partial indexes only where they can read the state.
WAITING, RUNNING, DONE, FAILED = (slots.c.state == literal_column(f"'{s}'") for s in get_args(State))
RESERVED_SECONDS = 300.0  # that a slot waits for another worker than the one on which it failed


@dataclass(frozen=True, kw_only=True, slots=True)
class Slot:
    """One row of the queue as it was when read."""

    id: int
    study_id: int
    model: str
    kind: Kind
    idx: int  # counts the slots of its study and kind from 0
    adaptive: bool  # a search slot whose parameters depend on earlier results
    seed: int  # 63 bits
    state: State
    result: OutcomeState | None  # of a done slot
    label: str | None  # confirm, final: whose configuration
    params: Mapping[str, Value] | None  # the configuration, for a search slot once asked
    round: int | None  # confirm, final: the round's number from 0
    trial_id: int | None  # Optuna's, once bound
    trial_number: int | None
    attempt: int  # claims so far
    expiries: int  # attempts used up: leases that expired without a new epoch
    failures: int  # exceptions in the model's code so far
    epoch: int  # the furthest epoch ever reported, 0 before the first
    worker: str | None  # the last one
    token: str | None  # of the present lease; a done slot keeps it, so that finish can be repeated
    lease_expires: float | None  # seconds since 1970
    outcome: Outcome | None  # the whole result
    outputs: bytes | None  # final: packed answers per test pair; only read where asked for
    error: str | None  # why it failed, last time; stays where another attempt went well
    told: bool  # Optuna's trial says so too
    started_at: float | None  # first claim, seconds since 1970
    finished_at: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class NewSlot:
    """A slot to be added; its index follows from its place."""

    seed: int
    adaptive: bool = False
    label: str | None = None
    params: Mapping[str, Value] | None = None
    round: int | None = None


# --- Reading --------------------------------------------------------------------------------------------


def get_slot(engine: Engine, slot_id: int, *, with_outputs: bool = False) -> Slot:
    """The slot as it is now; raises StudyNotFound where its study has been deleted."""
    with begin_read(engine) as connection:
        row = connection.execute(select(*columns(with_outputs)).where(slots.c.id == slot_id)).one_or_none()
    if row is None:
        raise StudyNotFound(f"slot {slot_id} is gone: its study has been deleted")
    return from_row(row)


def list_slots(engine: Engine, study_id: int, kind: Kind | None = None, *, with_outputs: bool = False) -> list[Slot]:
    """The study's slots by kind and index."""
    with begin_read(engine) as connection:
        return read_slots(connection, study_id, kind, with_outputs=with_outputs)


def read_slots(
    connection: Connection, study_id: int, kind: Kind | None = None, *, with_outputs: bool = False
) -> list[Slot]:
    """As `list_slots`, within a transaction that decides on what it reads."""
    query = select(*columns(with_outputs)).where(slots.c.study_id == study_id)
    if kind is not None:
        query = query.where(slots.c.kind == kind)
    return [from_row(row) for row in connection.execute(query.order_by(slots.c.kind, slots.c.idx))]


def any_open(engine: Engine, study_id: int, kind: Kind) -> bool:
    """Whether a slot of the study's kind waits or runs: by the indexes of those that do, however many are finished."""
    # A sum, not the column: SQLite would take the index of all the study's slots for a partial one.
    of_study = (slots.c.study_id + 0 == study_id) & (slots.c.kind == kind)
    with begin_read(engine) as connection:
        return any(
            connection.scalar(select(slots.c.id).where(state, of_study).limit(1)) is not None
            for state in (RUNNING, WAITING)
        )


def untold(engine: Engine, study_ids: Collection[int] | None = None) -> list[Slot]:
    """Slots that are done or failed while Optuna's trial does not say so yet, oldest first."""
    query = select(*columns()).where(text(UNTOLD))
    if study_ids is not None:
        query = query.where(slots.c.study_id.in_(list(study_ids)))
    with begin_read(engine) as connection:
        rows = connection.execute(query.order_by(slots.c.finished_at, slots.c.id))
        return [from_row(row) for row in rows]


def columns(with_outputs: bool = False) -> list[ColumnElement[Any]]:
    """What is read of a slot; the outputs are large and stay behind unless asked for."""
    return [_outputs(with_outputs) if name == "outputs" else slots.c[name] for name in Slot.__slots__]


def from_row(row: Row[*tuple[Any, ...]]) -> Slot:
    """A row of `columns()` as a record."""
    values = dict(row._mapping)
    params, outcome = values["params"], values["outcome"]
    values["params"] = None if params is None else json.loads(params)
    values["outcome"] = None if outcome is None else Outcome.from_json(outcome, f"slot {row.id}")
    return Slot(**values)


def _outputs(wanted: bool) -> ColumnElement[Any]:
    return slots.c.outputs if wanted else literal(None).label("outputs")


# --- Adding ---------------------------------------------------------------------------------------------


def add_slots(connection: Connection, study_id: int, kind: Kind, new: Sequence[NewSlot]) -> list[int]:
    """Append waiting slots after the study's last one of that kind; returns their ids in order.

    Belongs into the transaction that decides on them (see `studies.set_phase`): the study's row is locked.
    """
    lock = select(studies.c.model).where(studies.c.id == study_id).with_for_update(key_share=True)
    model = connection.scalar(lock)
    if model is None:
        raise StudyNotFound(f"the study with id {study_id} has been deleted")
    last = select(func.max(slots.c.idx)).where(slots.c.study_id == study_id, slots.c.kind == kind)
    highest = connection.scalar(last)
    first = 0 if highest is None else highest + 1
    if not new:
        return []
    if any(len(slot.label or "") > LABEL_LENGTH for slot in new):
        raise UsageError(f"a configuration's label has at most {LABEL_LENGTH} characters; choose a shorter one")
    rows = [
        {
            "study_id": study_id,
            "model": model,
            "kind": kind,
            "idx": first + place,
            "adaptive": slot.adaptive,
            "seed": slot.seed,
            "priority": PRIORITY[kind],
            "state": "waiting",
            "label": slot.label,
            "params": None if slot.params is None else json.dumps(dict(slot.params), sort_keys=True),
            "round": slot.round,
        }
        for place, slot in enumerate(new)
    ]
    ids = connection.scalars(insert(slots).returning(slots.c.id, sort_by_parameter_order=True), rows)
    return list(ids)


# --- What the holder of the lease may do ------------------------------------------------------------------


def record_params(
    engine: Engine, slot_id: int, token: str, params: Mapping[str, Value], beside: Beside | None = None
) -> bool:
    """Store the configuration that the sampler proposed, and what is written beside it, while the lease holds."""
    return _change(engine, slot_id, token, beside, params=json.dumps(dict(params), sort_keys=True))


def finish(
    engine: Engine, slot_id: int, token: str, outcome: Outcome, outputs: bytes | None = None, *, epoch: int = 0
) -> bool:
    """Store the whole result; False where the lease was lost, then the result is to be dropped.

    `epoch` is the furthest that was reported, where that is not stored yet. May be repeated: where an earlier call with
    this token was committed but its answer lost, True again.
    """
    done = _change(
        engine,
        slot_id,
        token,
        state="done",
        result=outcome.state,
        outcome=outcome.to_json(),
        outputs=outputs,
        epoch=case((slots.c.epoch < epoch, epoch), else_=slots.c.epoch),
        lease_expires=None,
        finished_at=now(),
    )
    if done:
        return True
    ours = select(slots.c.id).where(slots.c.id == slot_id, slots.c.token == token, DONE)
    with begin_read(engine) as connection:
        return connection.scalar(ours) is not None


def fail(engine: Engine, slot_id: int, token: str, error: str, *, retry: bool, trains: bool = True) -> bool:
    """The model's code raised: keep the error. With `retry` the slot waits once more, and fails the next time.

    The next time is one that cannot be the machine's fault: the worker that holds the slot `trains`, that is, it has
    completed other trainings; or the slot failed on another worker before and no further one lives. The worker on
    which it failed may leave the slot alone for RESERVED_SECONDS (`claims.claim` with `not_again`).

    False where the lease was lost.
    """
    data = select(studies.c.data_digest).where(studies.c.id == slots.c.study_id).scalar_subquery()
    elsewhere = (slots.c.failed_on != slots.c.worker) & ~another_lives(slots.c.worker, data)
    final = slots.c.failed_on.is_not(None) & or_(literal(trains), elsewhere) if retry else literal(True)
    return _change(
        engine,
        slot_id,
        token,
        state=case((final, "failed"), else_="waiting"),
        failures=slots.c.failures + 1,
        failed_on=slots.c.worker,
        reserved_until=now() + RESERVED_SECONDS,
        error=_storable(error),
        token=None,
        lease_expires=None,
        finished_at=case((final, now()), else_=None),
    )


def forgive(engine: Engine, worker: str) -> int:
    """The machine of this worker is broken: what failed on it has not failed; returns how many slots that concerns."""
    blamed = update(slots).where(slots.c.failed_on == worker[:WORKER_LENGTH], WAITING)
    with begin_write(engine) as connection:
        return connection.execute(blamed.values(failed_on=None, reserved_until=None)).rowcount


def release(engine: Engine, slot_id: int, token: str) -> bool:
    """Give the slot back (pre-emption, memory short); uses up no attempt. False where the lease was lost."""
    return _change(engine, slot_id, token, state="waiting", token=None, lease_expires=None)


def release_all(engine: Engine, leases: Collection[Lease]) -> None:
    """Give back all of these that still hold."""
    released = update(slots).where(held(leases)).values(state="waiting", token=None, lease_expires=None)
    if leases:
        with begin_write(engine) as connection:
            connection.execute(released)


def record_opening(engine: Engine, slot_id: int, token: str, worker: str) -> bool:
    """Record that a final slot opens pool B; False unless its lease holds, and then the pool stays shut."""
    allowed = select(slots.c.id, slots.c.attempt, literal(worker[:WORKER_LENGTH]), now()).where(
        held([(slot_id, token)]), slots.c.kind == "final"
    )
    opening = insert(openings).from_select(["slot_id", "attempt", "worker", "opened_at"], allowed)
    with begin_write(engine) as connection:
        opened = connection.scalar(opening.returning(openings.c.id))
        if opened is not None:
            ledger.enter(connection, opened)
        return opened is not None


def held(leases: Iterable[Lease]) -> ColumnElement[bool]:
    """The slots among these that still run under the token given."""
    pairs = list(leases)
    return and_(
        slots.c.id.in_([slot_id for slot_id, _ in pairs]),  # the key, for PostgreSQL's planner
        tuple_(slots.c.id, slots.c.token).in_(pairs),
        RUNNING,
    )


def _storable(error: str) -> str:
    """Without what PostgreSQL's text cannot hold: a traceback may quote anything."""
    return error.replace("\x00", "\\x00").encode(errors="backslashreplace").decode()


def _change(engine: Engine, slot_id: int, lease: str, beside: Beside | None = None, **values: Any) -> bool:
    """The one conditional statement behind whatever the holder of a lease does; where it happens, so does `beside`."""
    return _happens(engine, update(slots).where(held([(slot_id, lease)])).values(**values), beside)


def _happens(engine: Engine, changed: Update, beside: Beside | None) -> bool:
    with begin_write(engine) as connection:
        happened = connection.execute(changed).rowcount == 1
        if happened and beside is not None:
            beside(connection)
    return happened


# --- After the end ----------------------------------------------------------------------------------------


def mark_told(engine: Engine, slot: Slot, beside: Beside | None = None) -> bool:
    """Optuna's trial says what the slot says, by what is done `beside` it in one transaction.

    False, and nothing is done, where the slot is told already or has moved on since it was read.
    """
    marked = (
        update(slots)
        .where(
            slots.c.id == slot.id,
            slots.c.state == slot.state,
            slots.c.attempt == slot.attempt,  # a requeued slot that ended anew is not told by this
            text(UNTOLD),
        )
        .values(told=True)
    )
    return _happens(engine, marked, beside)


def requeue_failed(engine: Engine, study_id: int, kind: Kind) -> int:
    """Let the failed slots of a kind wait again with all attempts; returns how many there were.

    Where Optuna has been told of the failure, its trial is over: the slot gets a new one when it is claimed.
    """
    requeued = (
        update(slots)
        .where(slots.c.study_id == study_id, slots.c.kind == kind, FAILED)
        .values(
            state="waiting",
            expiries=0,
            failures=0,
            failed_on=None,
            reserved_until=None,
            epoch=case((slots.c.told, 0), else_=slots.c.epoch),
            trial_id=case((slots.c.told, None), else_=slots.c.trial_id),
            trial_number=case((slots.c.told, None), else_=slots.c.trial_number),
            told=False,
            finished_at=None,
        )
    )
    with begin_write(engine) as connection:
        return connection.execute(requeued).rowcount
