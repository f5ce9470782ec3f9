"""Studies: one row of ours for each, and beside it three of Optuna's (search, confirm, final).

Making and deleting a study is one transaction over both, so nothing is ever left behind half-way.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal

from optuna.storages._rdb import models
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from sqlalchemy import Connection, Engine, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from hpo.errors import StudyBusy, StudyExists, StudyNotFound, UsageError
from hpo.storage.engine import begin_read, begin_write, now
from hpo.storage.optuna_storage import HpoStorage
from hpo.storage.schema import slots, studies
from hpo.storage.slots import Kind, NewSlot, add_slots
from hpo.storage.values import Value
from hpo.text import listed

Phase = Literal["search", "confirm", "final", "done"]

OPTUNA_NAMES = ("{name}", "{name}:confirm", "{name}:final")


@dataclass(frozen=True, kw_only=True, slots=True)
class CodeChange:
    """A study went on with other code of its model, as somebody accepted."""

    at: float  # seconds since 1970
    before: str | None  # digests
    after: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRow:
    """A study as it was when read."""

    id: int
    name: str
    experiment: str = "digits"  # its name
    model: str
    code_digest: str | None = None  # of the user's code that trains
    code_changes: tuple[CodeChange, ...] = ()  # accepted since the study was made, in order
    spec: str  # canonical JSON of the StudySpec
    spec_digest: str
    data_digest: str  # of the data and their split into pools
    phase: Phase
    paused: bool
    open_early: bool = False  # its final rounds wait for no search on the same data
    seed: int  # keys the search's data draw
    in_flight: int  # the most adaptive search slots running at once
    repeat_group: str | None  # the name shared by the repeats of one study
    search_study_id: int  # Optuna's study ids
    confirm_study_id: int
    final_study_id: int
    tuned: dict[str, Any] | None  # {"params", "source", "confirm_mean"} once confirmed
    created_at: float  # seconds since 1970


@dataclass(frozen=True, kw_only=True, slots=True)
class NewStudy:
    """A study to be made. Trial 0 is the reference configuration, trial 1 the tuned one where there is one."""

    name: str
    experiment: str = "digits"
    model: str
    code_digest: str | None = None
    spec: str
    spec_digest: str
    data_digest: str
    seed: int
    in_flight: int
    trial_seeds: Sequence[int]  # one a search slot; none: the study only evaluates
    adaptive_from: int | None  # the first slot whose parameters depend on earlier results; None: no such slot
    reference: Mapping[str, Value]
    tuned: Mapping[str, Value] | None = None
    final: Sequence[NewSlot] = ()  # rounds that are known from the start, where nothing is searched
    maximize: bool = True  # the metric that judges
    repeat_group: str | None = None
    phase: Phase = "search"  # an evaluation alone starts elsewhere
    open_early: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """How many slots of one kind are in which state; complete, pruned and diverged are those done."""

    waiting: int = 0
    running: int = 0
    complete: int = 0
    pruned: int = 0
    diverged: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """All slots of that kind."""
        return self.open + self.complete + self.pruned + self.diverged + self.failed

    @property
    def open(self) -> int:
        """Those that are not at their end."""
        return self.waiting + self.running


# --- Reading --------------------------------------------------------------------------------------------


def get_study(engine: Engine, name: str) -> StudyRow:
    """The study of that name; raises StudyNotFound, which names those that exist."""
    with begin_read(engine) as connection:
        row = connection.execute(select(studies).where(studies.c.name == name)).one_or_none()
        if row is None:
            raise unknown_study(connection, name)
    return _study(row)


def unknown_study(connection: Connection, name: str) -> StudyNotFound:
    """The error for a name that no study has: it names some that there are, those most like it first."""
    names = connection.scalars(select(studies.c.name).order_by(studies.c.id)).all()
    similar = get_close_matches(name, names)
    there = listed([*similar, *(known for known in names if known not in similar)])
    return StudyNotFound(
        f"no study is called {name!r}; " + (f"there are {there}" if names else "`hpo study create` makes the first one")
    )


def find_study(engine: Engine, name: str) -> StudyRow | None:
    """The study of that name, if there is one."""
    with begin_read(engine) as connection:
        row = connection.execute(select(studies).where(studies.c.name == name)).one_or_none()
    return None if row is None else _study(row)


def lock_study(connection: Connection, study_id: int) -> StudyRow | None:
    """The study as it is, and stays until the transaction ends; None where it has been deleted.

    Claims of adaptive slots and `slots.add_slots` wait for it; renew, report and finish do not.
    """
    query = select(studies).where(studies.c.id == study_id).with_for_update(key_share=True)
    row = connection.execute(query).one_or_none()
    return None if row is None else _study(row)


def get_study_by_id(engine: Engine, study_id: int) -> StudyRow:
    """The study with our id; raises StudyNotFound where it has been deleted."""
    with begin_read(engine) as connection:
        row = connection.execute(select(studies).where(studies.c.id == study_id)).one_or_none()
    if row is None:
        raise StudyNotFound(f"the study with id {study_id} has been deleted")
    return _study(row)


def list_studies(engine: Engine) -> list[StudyRow]:
    """All studies in the order they were made."""
    with begin_read(engine) as connection:
        return [_study(row) for row in connection.execute(select(studies).order_by(studies.c.id))]


def gone_from_optuna(connection: Connection, rows: Iterable[StudyRow | Row[Any]]) -> dict[int, list[str]]:
    """Which of Optuna's studies were deleted past hpo: their names, by the id of ours; whole studies are left out."""
    wanted = [
        (row.id, pattern.format(name=row.name), optuna_id)
        for row in rows
        for pattern, optuna_id in zip(
            OPTUNA_NAMES, (row.search_study_id, row.confirm_study_id, row.final_study_id), strict=True
        )
    ]
    ids = models.StudyModel.__table__.c.study_id  # the table: to ask a class configures all of Optuna's, 0.1 s
    there = set(connection.scalars(select(ids).where(ids.in_([optuna_id for *_, optuna_id in wanted]))))
    gone: dict[int, list[str]] = {}
    for study_id, name, optuna_id in wanted:
        if optuna_id not in there:
            gone.setdefault(study_id, []).append(name)
    return gone


def counts(engine: Engine, study_id: int) -> dict[Kind, Counts]:
    """Slots by kind and state; all three kinds are there."""
    state = func.coalesce(slots.c.result, slots.c.state)
    by_state = (
        select(slots.c.kind, state.label("state"), func.count().label("n"))
        .where(slots.c.study_id == study_id)
        .group_by(slots.c.kind, state)
    )
    by_kind: dict[Kind, dict[str, int]] = {"search": {}, "confirm": {}, "final": {}}
    with begin_read(engine) as connection:
        for row in connection.execute(by_state):
            by_kind[row.kind][row.state] = row.n
    return {kind: Counts(**states) for kind, states in by_kind.items()}


# --- Making and deleting ----------------------------------------------------------------------------------


def create_study(engine: Engine, new: NewStudy) -> StudyRow:
    """Make the study, its search slots, Optuna's three studies and the trials that are known beforehand.

    Raises StudyExists where the name is taken, UsageError for a name that cannot be one.
    """
    _check_name(new.name)
    storage = HpoStorage(engine)
    try:
        with begin_write(engine) as connection:
            with Session(bind=connection, join_transaction_mode="rollback_only") as session:
                optuna_ids = [
                    _optuna_study(session, name.format(name=new.name), maximize=new.maximize) for name in OPTUNA_NAMES
                ]
                study_id = _insert_study(connection, new, optuna_ids)
                ids = add_slots(connection, study_id, "search", _search_slots(new, 0, new.trial_seeds))
                add_slots(connection, study_id, "final", new.final)
                known = [new.reference, *([] if new.tuned is None else [new.tuned])]
                for slot_id, params in zip(ids, known, strict=False):
                    _enqueue(storage, session, slot_id, optuna_ids[0], params)
                session.flush()
            row = connection.execute(select(studies).where(studies.c.id == study_id)).one()
    except IntegrityError as error:
        taken = _taken(engine, new.name)
        if taken is None:
            raise
        raise StudyExists(taken) from error
    return _study(row)


def delete_study(engine: Engine, name: str, *, force: bool = False) -> None:
    """Delete the study, its slots and Optuna's three studies with all trials.

    Raises StudyNotFound, and StudyBusy while slots run, unless `force`: their workers find the lease lost.
    Slots whose lease has expired do not count: their worker may be gone for good.
    """
    study = get_study(engine, name)
    with begin_write(engine) as connection:
        connection.execute(select(studies.c.id).where(studies.c.id == study.id).with_for_update())
        held = (slots.c.study_id == study.id, slots.c.state == "running", slots.c.lease_expires > now())
        busy = connection.scalar(select(func.count()).where(*held))
        if busy and not force:
            raise StudyBusy(
                f"{name}: {busy} slots are running; stop the workers first, or pause the study and wait (what a "
                "killed worker held is free when its lease ends, after a minute by default)"
            )
        connection.execute(delete(studies).where(studies.c.id == study.id))  # slots and openings follow
        _delete_optuna(connection, [study.search_study_id, study.confirm_study_id, study.final_study_id])


def extend_study(engine: Engine, study: StudyRow, seeds: Sequence[int], *, adaptive_from: int | None) -> int:
    """Add search slots with these seeds; returns how many the study has then.

    Raises StudyBusy once the search is over: confirm has chosen among the trials there were.
    """
    with begin_write(engine) as connection:
        lock = select(studies.c.phase).where(studies.c.id == study.id).with_for_update(key_share=True)
        phase = connection.scalar(lock)
        if phase is None:
            raise StudyNotFound(f"{study.name} has been deleted")
        if phase != "search":
            raise StudyBusy(f"{study.name} is past its search (phase {phase}); create another study instead")
        there = select(func.count()).where(slots.c.study_id == study.id, slots.c.kind == "search")
        first = connection.scalar(there) or 0
        new = [
            NewSlot(seed=seed, adaptive=adaptive_from is not None and first + place >= adaptive_from)
            for place, seed in enumerate(seeds)
        ]
        add_slots(connection, study.id, "search", new)
    return first + len(seeds)


# --- Changing ---------------------------------------------------------------------------------------------


def set_open_early(engine: Engine, study_id: int) -> None:
    """From now on a study's final rounds wait for no search; there is no way back, for what was seen was seen."""
    with begin_write(engine) as connection:
        connection.execute(update(studies).where(studies.c.id == study_id).values(open_early=True))


def set_paused(engine: Engine, study_id: int, paused: bool) -> bool:
    """Stop or allow claims; running slots go on to their end. False where nothing had to change."""
    with begin_write(engine) as connection:
        changed = update(studies).where(studies.c.id == study_id, studies.c.paused != paused)
        return connection.execute(changed.values(paused=paused)).rowcount == 1


def set_code(engine: Engine, study_id: int, digest: str | None) -> None:
    """Let the study go on with other code; that it has changed, and when, is on record."""
    with begin_write(engine) as connection:
        row = lock_study(connection, study_id)
        if row is None or row.code_digest == digest:
            return
        at = float(connection.scalar(select(now())) or 0.0)
        changes = [*row.code_changes, CodeChange(at=at, before=row.code_digest, after=digest)]
        text = json.dumps([asdict(change) for change in changes])
        changed = update(studies).where(studies.c.id == study_id)
        connection.execute(changed.values(code_digest=digest, code_changes=text))


def code_changes_of(text: str | None) -> tuple[CodeChange, ...]:
    """What the column `code_changes` says."""
    return tuple(CodeChange(**change) for change in json.loads(text or "[]"))


def set_spec(engine: Engine, study_id: int, spec: str) -> None:
    """Store a spec of the same digest: what differs is nothing on which a result depends."""
    with begin_write(engine) as connection:
        connection.execute(update(studies).where(studies.c.id == study_id).values(spec=spec))


def set_phase(connection: Connection, study_id: int, frm: Phase, to: Phase) -> bool:
    """Move the study from one phase to the next; False where somebody else has.

    Belongs into one transaction with the next phase's slots (`slots.add_slots`): who gets True adds them.
    """
    moved = update(studies).where(studies.c.id == study_id, studies.c.phase == frm).values(phase=to)
    return connection.execute(moved).rowcount == 1


def set_tuned(connection: Connection, study_id: int, tuned: Mapping[str, Any]) -> None:
    """Store the confirmed configuration: params, source, confirm_mean."""
    text = json.dumps(dict(tuned), sort_keys=True)
    connection.execute(update(studies).where(studies.c.id == study_id).values(tuned=text))


# --- Details ----------------------------------------------------------------------------------------------


def _study(row: Row[*tuple[Any, ...]]) -> StudyRow:
    values = {field.name: getattr(row, field.name) for field in fields(StudyRow)}
    values["tuned"] = None if values["tuned"] is None else json.loads(values["tuned"])
    values["code_changes"] = code_changes_of(values["code_changes"])
    return StudyRow(**values)


def _check_name(name: str) -> None:
    if not name or len(name) > 200 or ":" in name or not name.isprintable() or name != name.strip():
        raise UsageError(f"{name[:40]!r} cannot be a study's name; take 1 to 200 printable characters without ':'")


def _taken(engine: Engine, name: str) -> str | None:
    if find_study(engine, name) is not None:
        return f"a study called {name!r} exists already; choose another name, or delete it first"
    names = [pattern.format(name=name) for pattern in OPTUNA_NAMES]
    query = select(models.StudyModel.study_name).where(models.StudyModel.study_name.in_(names))
    with begin_read(engine) as connection:
        theirs = connection.scalar(query)
    if theirs is None:
        return None
    return f"this database has another Optuna study called {theirs!r}; choose a name other than {name!r}"


def _search_slots(new: NewStudy, first: int, seeds: Sequence[int]) -> list[NewSlot]:
    return [
        NewSlot(
            seed=seed,
            # The reference and the tuned configuration are known, so nothing waits for earlier results.
            adaptive=new.adaptive_from is not None and index >= new.adaptive_from,
            params=new.reference if index == 0 else new.tuned if index == 1 else None,
        )
        for index, seed in enumerate(seeds, start=first)
    ]


def _insert_study(connection: Connection, new: NewStudy, optuna_ids: Sequence[int]) -> int:
    search, confirm, final = optuna_ids
    inserted = insert(studies).values(
        name=new.name,
        experiment=new.experiment,
        model=new.model,
        code_digest=new.code_digest,
        spec=new.spec,
        spec_digest=new.spec_digest,
        data_digest=new.data_digest,
        phase=new.phase,
        paused=False,
        open_early=new.open_early,
        seed=new.seed,
        startup_trials=len(new.trial_seeds) if new.adaptive_from is None else new.adaptive_from,
        in_flight=new.in_flight,
        repeat_group=new.repeat_group,
        search_study_id=search,
        confirm_study_id=confirm,
        final_study_id=final,
        created_at=now(),
    )
    return int(connection.execute(inserted.returning(studies.c.id)).scalar_one())


def _optuna_study(session: Session, name: str, *, maximize: bool) -> int:
    wanted = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
    direction = models.StudyDirectionModel(objective=0, direction=wanted)
    study = models.StudyModel(study_name=name, directions=[direction])
    session.add(study)
    session.flush()
    return int(study.study_id)


def _enqueue(storage: HpoStorage, session: Session, slot_id: int, study_id: int, params: Mapping[str, Value]) -> None:
    """A waiting trial as `Study.enqueue_trial` makes it, bound to its slot from the start."""
    template = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": dict(params)})
    trial = storage._get_prepared_new_trial(study_id, template, session)
    session.flush()
    bound = update(slots).where(slots.c.id == slot_id)
    session.execute(bound.values(trial_id=trial.trial_id, trial_number=trial.number))


def _delete_optuna(connection: Connection, study_ids: Sequence[int]) -> None:
    """As RDBStorage.delete_study, but without loading every trial first."""
    tables = models.BaseModel.metadata.sorted_tables
    trials = models.TrialModel.__table__
    of_studies = select(trials.c.trial_id).where(trials.c.study_id.in_(study_ids))
    for table in reversed(tables):
        if "study_id" in table.c:
            connection.execute(delete(table).where(table.c.study_id.in_(study_ids)))
        elif "trial_id" in table.c:
            connection.execute(delete(table).where(table.c.trial_id.in_(of_studies)))
