"""Optuna's storage on our engine, and the two things Optuna cannot do in one transaction with our slots.

Optuna's own storage opens an engine of its own, where every transaction on SQLite begins as a reader; here
it gets ours, and says in advance which of its transactions write. This subclasses Optuna's internals, hence
the narrow version pin in pyproject.toml.
"""

import functools
import threading
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Engine, case, event, inspect, select, update
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from hpo.errors import LeaseLost
from hpo.storage import trials
from hpo.storage.engine import READ_ONLY, begin_read, begin_write, now, open_engine, translated, utc_now
from hpo.storage.schema import slots, studies
from hpo.storage.slots import Lease, held
from hpo.storage.workers import Beat, record_beat

# What only reads. A method missing here would still be right, but take SQLite's write lock.
_READING = (
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_trial_user_attrs",
    "get_trial_system_attrs",
    "get_all_studies",
    "get_trial_param",
    "get_trial_id_from_study_id_trial_number",
    "get_trial",
    "get_all_trials",
    "_get_trials",
    "get_best_trial",
    "_get_best_trial_id",
    "_get_stale_trial_ids",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """Optuna's trial of a slot."""

    trial_id: int
    number: int
    created: bool  # just now; False where an earlier attempt of the slot made it


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochRecord:
    """One epoch of one slot's training."""

    slot_id: int
    token: str
    trial_id: int | None  # None: no trial yet, only the lease is prolonged
    epoch: int
    value: float | None  # the trial's intermediate value at this epoch; None: only progress


class _Sessions:
    """Optuna's sessions: on connections that read while a reading method runs, else on such that write."""

    def __init__(self, engine: Engine) -> None:
        self._writing = scoped_session(sessionmaker(bind=engine))
        event.listen(self._writing, "before_flush", _keep_database_times)
        self._reading = scoped_session(sessionmaker(bind=engine.execution_options(**READ_ONLY)))
        self._depth = threading.local()

    def __call__(self) -> Session:
        return self._reading() if getattr(self._depth, "value", 0) else self._writing()

    @contextmanager
    def reading(self) -> Iterator[None]:
        self._depth.value = getattr(self._depth, "value", 0) + 1
        try:
            yield
        finally:
            self._depth.value -= 1

    def remove(self) -> None:
        self._writing.remove()
        self._reading.remove()


class HpoStorage(RDBStorage):
    """RDBStorage on an engine of `open_engine`, whose schema `migrate` has made; no heartbeat."""

    def __init__(self, engine: Engine) -> None:
        # Not the parent's: it would open its own engine and create tables.
        self.heartbeat_interval = None
        self.grace_period = None
        self.heartbeat_stale_trial_callback = None
        self.failed_trial_callback = None
        self.engine_kwargs: dict[str, Any] = {}
        self.skip_compatibility_check = True
        self._use(engine)

    def _use(self, engine: Engine) -> None:
        self.engine = engine
        self.url = engine.url.render_as_string(hide_password=True)
        self._sessions = _Sessions(engine)
        self.scoped_session = cast("scoped_session[Session]", self._sessions)  # called and removed, no more

    def __getstate__(self) -> dict[str, str]:
        return {"url": self.engine.url.render_as_string(hide_password=False)}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(open_engine(state["url"]))  # type: ignore[misc]

    def bind_trial(self, slot_id: int, token: str, template: FrozenTrial | None = None) -> Bound:
        """The slot's trial, running: made and bound to the slot in one transaction unless it has one.

        `template` has the new trial's parameters, distributions and attributes (confirm, final); without it
        the sampler is still to be asked. The paper's waiting trial starts to run; a trial that has ended, as
        after `requeue_failed`, is replaced. Raises LeaseLost, and then nothing has been made.
        """
        with translated(self.engine), _unwrapped(), _create_scoped_session(self.scoped_session) as session:
            # The slot stays locked until the end, so the lease that holds now holds when the trial is bound.
            row = session.execute(
                select(slots.c.kind, slots.c.trial_id, *(_OPTUNA_STUDY.values()))
                .join(studies, studies.c.id == slots.c.study_id)
                .where(held([(slot_id, token)]))
                .with_for_update(of=slots)
            ).one_or_none()
            if row is None:
                raise LeaseLost(f"slot {slot_id}: the lease was lost before its trial was made")
            if row.trial_id is not None:
                bound = _resume(session, row.trial_id)
                if bound is not None:
                    return bound
            return self._bind_new(session, slot_id, row._mapping[_OPTUNA_STUDY[row.kind].name], template)

    def _bind_new(self, session: Session, slot_id: int, study_id: int, template: FrozenTrial | None) -> Bound:
        # Optuna's study is locked while it numbers a trial, so numbers and ids rise in the order of commits.
        models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
        trial = self._get_prepared_new_trial(study_id, template, session)
        trial._datetime_start_utc = utc_now(session.get_bind().dialect)
        session.flush()
        session.execute(
            update(slots).where(slots.c.id == slot_id).values(trial_id=trial.trial_id, trial_number=trial.number)
        )
        return Bound(trial_id=int(trial.trial_id), number=int(trial.number), created=True)

    def report(
        self,
        reports: Sequence[EpochRecord],
        lease_seconds: float,
        beat: Beat | None = None,
        stop: Callable[[], None] = lambda: None,
    ) -> set[Lease]:
        """Store epochs, prolong leases and show the worker alive in one transaction; returns the leases that were lost.

        `stop` is called where somebody has asked the worker to end.
        A value that is stored already stays as it is: after a restart an epoch is reported again. NaN and
        infinities are stored as Optuna stores them. Values of trials that are gone from Optuna's tables are left out.
        """
        if not reports:
            return set()
        leases = {(report.slot_id, report.token) for report in reports}
        furthest: dict[str, int] = {}
        for report in reports:
            furthest[report.token] = max(report.epoch, furthest.get(report.token, 0))
        epoch = case(furthest, value=slots.c.token)
        prolonged = (
            update(slots)
            .where(held(leases))
            .values(
                lease_expires=now() + lease_seconds,
                epoch=case((epoch > slots.c.epoch, epoch), else_=slots.c.epoch),
            )
            .returning(slots.c.id, slots.c.token)
        )
        with begin_write(self.engine) as connection:
            is_asked = beat is not None and record_beat(connection, beat, lease_seconds)
            ours = {(row.id, row.token) for row in connection.execute(prolonged)}
            points = [
                (report.trial_id, report.epoch, report.value)
                for report in reports
                if report.value is not None and report.trial_id is not None and (report.slot_id, report.token) in ours
            ]
            trials.write_curves(connection, points)
        if is_asked:
            stop()
        return leases - ours


class LeanHpoStorage(HpoStorage):
    """HpoStorage that lists trials as samplers look at them (`hpo.storage.trials.read_trials`)."""

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        beside = {trial_id for trial_id in included_trial_ids if trial_id <= trial_id_greater_than}
        with begin_read(self.engine) as connection:
            there = trials.read_trials(connection, study_id, newer_than=trial_id_greater_than, beside=beside)
        return there if states is None else [trial for trial in there if trial.state in states]


def make_storage(engine: Engine) -> HpoStorage:
    """Optuna's storage on the engine, uncached."""
    return HpoStorage(engine)


class CachedHpoStorage(_CachedStorage):
    """HpoStorage behind Optuna's cache of finished trials."""

    def __init__(self, backend: HpoStorage) -> None:
        super().__init__(backend)
        self.backend = backend

    @property
    def engine(self) -> Engine:
        """The database's."""
        return self.backend.engine

    def bind_trial(self, slot_id: int, token: str, template: FrozenTrial | None = None) -> Bound:
        """See HpoStorage.bind_trial."""
        return self.backend.bind_trial(slot_id, token, template)

    def report(
        self,
        reports: Sequence[EpochRecord],
        lease_seconds: float,
        beat: Beat | None = None,
        stop: Callable[[], None] = lambda: None,
    ) -> set[Lease]:
        """See HpoStorage.report."""
        return self.backend.report(reports, lease_seconds, beat, stop)

    def curves(self, study_id: int, trial_ids: Collection[int]) -> list[tuple[int, int, float]]:
        """What trials of Optuna's study have reported: trial, epoch, value."""
        with begin_read(self.engine) as connection:
            return list(trials.read_curves(connection, study_id, trial_ids))


def open_optuna(engine: Engine) -> CachedHpoStorage:
    """The storage to give to `optuna.load_study` and to optuna-dashboard; one for each process."""
    return CachedHpoStorage(make_storage(engine))


def open_lean(engine: Engine) -> CachedHpoStorage:
    """The storage of a worker's searches: its trials have what samplers look at."""
    return CachedHpoStorage(LeanHpoStorage(engine))


_OPTUNA_STUDY = {
    "search": studies.c.search_study_id,
    "confirm": studies.c.confirm_study_id,
    "final": studies.c.final_study_id,
}


def _resume(session: Session, trial_id: int) -> Bound | None:
    trial = session.get(models.TrialModel, trial_id, with_for_update=True)
    if trial is None or trial.state.is_finished():
        return None
    if trial.state == TrialState.WAITING:
        trial.state = TrialState.RUNNING
        trial._datetime_start_utc = utc_now(session.get_bind().dialect)
    return Bound(trial_id=int(trial.trial_id), number=int(trial.number), created=False)


def _keep_database_times(session: Session, *_: Any) -> None:
    """When a trial changes, put the database's time in the place of this machine's, which may be years off.

    Optuna's methods ask their own process for the time.
    """
    for trial in session.dirty:
        if isinstance(trial, models.TrialModel):
            for name in ("_datetime_start_utc", "_datetime_complete_utc"):
                if inspect(trial).attrs[name].history.added:
                    setattr(trial, name, utc_now(session.get_bind().dialect))


@contextmanager
def _unwrapped() -> Iterator[None]:
    """What the driver raised instead of the general error that Optuna makes of it."""
    try:
        yield
    except StorageInternalError as error:
        if error.__cause__ is not None:
            raise error.__cause__ from None
        raise


def _reading(name: str) -> Callable[..., Any]:
    method = getattr(RDBStorage, name)

    @functools.wraps(method)
    def read(self: HpoStorage, *arguments: Any, **options: Any) -> Any:
        with self._sessions.reading():
            return method(self, *arguments, **options)

    return read


for _name in _READING:
    setattr(HpoStorage, _name, _reading(_name))
