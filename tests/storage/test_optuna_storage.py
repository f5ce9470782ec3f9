"""Trials bound to slots, and reports under leases: what Optuna's own storage cannot do; both databases."""

import math
from datetime import datetime, timedelta, tzinfo
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from sqlalchemy import Engine

from hpo.errors import DatabaseUnreachable, LeaseLost
from hpo.storage import claims, slots
from hpo.storage.engine import begin_write
from hpo.storage.optuna_storage import CachedHpoStorage, EpochRecord, HpoStorage, make_storage, open_optuna
from hpo.storage.slots import NewSlot, Slot
from hpo.storage.studies import StudyRow
from hpo.storage.trials import Proposal, write_proposal
from tests.support.fixtures import MakeStudy, Postgres, Watch
from tests.support.open_slots import renew
from tests.support.outcomes import outcome as outcome_of

RATE = FloatDistribution(1e-4, 1e-1, log=True)


@pytest.fixture
def study(make_study: MakeStudy) -> StudyRow:
    return make_study(adaptive_from=None)


@pytest.fixture
def storage(engine: Engine) -> CachedHpoStorage:
    return open_optuna(engine)


def claim(engine: Engine, n: int = 1, lease_seconds: float = 60) -> list[Slot]:
    return claims.claim(engine, n, worker="w", lease_seconds=lease_seconds, model="ws")


def report(slot: Slot, trial_id: int, epoch: int, value: float | None = 0.5) -> EpochRecord:
    return EpochRecord(slot_id=slot.id, token=slot.token or "", trial_id=trial_id, epoch=epoch, value=value)


def test_values_of_a_trial_that_is_gone_are_left_out(
    engine: Engine, make_study: MakeStudy, storage: CachedHpoStorage
) -> None:
    """Optuna's study was deleted past hpo: its leases live on, and another study's epochs are stored with it."""
    make_study("gone", adaptive_from=None)
    whole = make_study("whole", adaptive_from=None)
    claimed = [slot for slot in claim(engine, 20) if slot.idx < 2]
    bound = {slot.id: storage.bind_trial(slot.id, slot.token or "").trial_id for slot in claimed}
    optuna.delete_study(study_name="gone", storage=storage.backend)
    assert storage.report([report(slot, bound[slot.id], 1) for slot in claimed], 60) == set()
    stored = [storage.get_trial(bound[slot.id]) for slot in claimed if slot.study_id == whole.id]
    assert [trial.intermediate_values for trial in stored] == [{1: 0.5}] * 2


def test_a_trial_is_made_when_its_slot_is_bound(engine: Engine, study: StudyRow, storage: CachedHpoStorage) -> None:
    """Running, numbered, in the study of the slot's kind; bound a second time it is the same."""
    paper, first, second = claim(engine, 3)
    bound = storage.bind_trial(first.id, first.token or "")
    two = storage.bind_trial(second.id, second.token or "")
    assert (bound.number, bound.created, two.number) == (1, True, 2)
    again = storage.bind_trial(first.id, first.token or "")
    assert (again.trial_id, again.number, again.created) == (bound.trial_id, 1, False)
    stored = slots.get_slot(engine, first.id)
    assert (stored.trial_id, stored.trial_number) == (bound.trial_id, 1)
    trial = storage.get_trial(bound.trial_id)
    assert trial.state == TrialState.RUNNING
    assert trial.datetime_start is not None
    assert abs(trial.datetime_start - datetime.now()) < timedelta(seconds=60)
    assert paper.trial_id is not None
    assert storage.get_trial(paper.trial_id).state == TrialState.WAITING


class _YearsBack(datetime):
    """The clock of a machine that is five years behind."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]  # a plain datetime, as it was
        return datetime.now(tz) - timedelta(days=5 * 365)


@pytest.mark.parametrize("behind", ["while it began", "while it ended", "all the time"])
@pytest.mark.parametrize("made", ["for the sampler", "from a template", "as the paper's"])
def test_a_trials_times_are_the_databases(
    made: str, behind: str, postgres_engine: Engine, make_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the clocks of the workers say that began it and ended it."""
    make_study(adaptive_from=None, on=postgres_engine)
    storage = open_optuna(postgres_engine)
    paper, slot = claim(postgres_engine, 2)

    def set_clock(wrong: bool) -> None:
        clock = _YearsBack if wrong else datetime
        monkeypatch.setattr("optuna.storages._rdb.storage.datetime", clock)
        monkeypatch.setattr("optuna.trial._frozen.datetime", SimpleNamespace(datetime=clock))

    set_clock(behind != "while it ended")
    slot = paper if made == "as the paper's" else slot
    template = create_trial(state=TrialState.RUNNING) if made == "from a template" else None
    trial_id = storage.bind_trial(slot.id, slot.token or "", template).trial_id
    set_clock(behind != "while it began")
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    set_clock(False)
    trial = storage.get_trial(trial_id)
    assert trial.datetime_start is not None
    assert trial.datetime_complete is not None
    assert trial.datetime_start <= trial.datetime_complete
    for moment in (trial.datetime_start, trial.datetime_complete):
        assert abs(moment - datetime.now()) < timedelta(seconds=60)


def test_the_papers_trial_starts_to_run(engine: Engine, study: StudyRow, storage: CachedHpoStorage) -> None:
    """Number 0, with its parameters fixed whatever the sampler says, outside the space too."""
    (paper,) = claim(engine)
    bound = storage.bind_trial(paper.id, paper.token or "")
    assert (bound.trial_id, bound.number, bound.created) == (paper.trial_id, 0, False)
    frozen = storage.get_trial(bound.trial_id)
    assert frozen.state == TrialState.RUNNING
    assert frozen.datetime_start is not None
    fixed = frozen.system_attrs["fixed_params"]
    assert (fixed["learning_rate"], fixed["dropout"]) == (3e-3, 0.15)


def test_a_bound_trial_is_proposed_once(engine: Engine, study: StudyRow) -> None:
    """What a sampler wrote at it is stored in one; a later proposal changes no parameter."""
    slot = claim(engine, 2)[1]
    trial_id = make_storage(engine).bind_trial(slot.id, slot.token or "").trial_id
    for value in (0.01, 0.02):
        proposal = Proposal(params={"learning_rate": (value, RATE)}, system_attrs={"tpe:note": value})
        with begin_write(engine) as connection:
            write_proposal(connection, trial_id, proposal)
    trial = make_storage(engine).get_trial(trial_id)
    assert (trial.params, trial.distributions) == ({"learning_rate": 0.01}, {"learning_rate": RATE})
    assert trial.system_attrs == {"tpe:note": 0.02}


def test_a_round_brings_its_parameters(engine: Engine, study: StudyRow, storage: CachedHpoStorage) -> None:
    """Confirm and final slots: the trial stands in its own study with all that the template says."""
    with begin_write(engine) as connection:
        for kind in ("confirm", "final"):
            slots.add_slots(connection, study.id, kind, [NewSlot(seed=1, label="paper", round=0)])
    template = create_trial(
        state=TrialState.RUNNING,
        params={"learning_rate": 3e-3},
        distributions={"learning_rate": RATE},
        user_attrs={"configuration": "paper"},
    )
    for slot, name in zip(claim(engine, 2), ("ws:final", "ws:confirm"), strict=True):
        bound = storage.bind_trial(slot.id, slot.token or "", template)
        (trial,) = optuna.load_study(study_name=name, storage=storage).trials
        assert (trial._trial_id, trial.number, trial.state) == (bound.trial_id, 0, TrialState.RUNNING)
        assert trial.params == {"learning_rate": 3e-3}
        assert trial.distributions == {"learning_rate": RATE}
        assert trial.user_attrs == {"configuration": "paper"}


def test_a_lost_lease_makes_no_trial(engine: Engine, study: StudyRow, storage: CachedHpoStorage) -> None:
    """Stale token, released slot, finished slot: nothing is left in Optuna's tables."""
    stale = claim(engine, 2, lease_seconds=-1)[1]
    fresh = next(slot for slot in claim(engine, 2) if slot.id == stale.id)
    with pytest.raises(LeaseLost):
        storage.bind_trial(stale.id, stale.token or "")
    slots.release(engine, fresh.id, fresh.token or "")
    with pytest.raises(LeaseLost):
        storage.bind_trial(fresh.id, fresh.token or "")
    assert len(storage.get_all_trials(study.search_study_id)) == 1
    assert slots.get_slot(engine, stale.id).trial_id is None


def test_binding_is_one_transaction(engine: Engine, study: StudyRow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between making the trial and binding it: there is no trial."""
    storage = make_storage(engine)
    slot = claim(engine, 2)[1]
    made = HpoStorage._get_prepared_new_trial

    def make_and_die(self: HpoStorage, *arguments: Any) -> Any:
        made(self, *arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(HpoStorage, "_get_prepared_new_trial", make_and_die)
        with pytest.raises(KeyboardInterrupt):
            storage.bind_trial(slot.id, slot.token or "")
    storage.remove_session()
    assert storage.get_n_trials(study.search_study_id) == 1
    assert storage.bind_trial(slot.id, slot.token or "").number == 1


def test_the_next_attempt_continues_the_same_trial(engine: Engine, study: StudyRow, storage: CachedHpoStorage) -> None:
    """Number, parameters, values and start stay; there is no second row."""
    first = claim(engine, 2, lease_seconds=-1)[1]
    bound = storage.bind_trial(first.id, first.token or "")
    storage.backend.set_trial_param(bound.trial_id, "learning_rate", 0.01, RATE)
    assert storage.report([report(first, bound.trial_id, 1, 0.6)], -1) == set()
    before = storage.get_trial(bound.trial_id)
    second = next(slot for slot in claim(engine, 2) if slot.id == first.id)
    assert second.epoch == 1
    assert storage.bind_trial(second.id, second.token or "").trial_id == bound.trial_id
    assert storage.get_trial(bound.trial_id) == before
    assert len(storage.get_all_trials(study.search_study_id)) == 2


def test_a_requeued_slot_gets_a_new_trial(engine: Engine, study: StudyRow, storage: CachedHpoStorage) -> None:
    """Its old one has ended: told as failed before, or while, the slot was requeued."""
    slot = claim(engine, 2)[1]
    bound = storage.bind_trial(slot.id, slot.token or "")
    slots.fail(engine, slot.id, slot.token or "", "broken", retry=False)
    (failed,) = slots.untold(engine)
    slots.requeue_failed(engine, study.id, "search")
    assert failed.trial_number is not None
    optuna.load_study(study_name="ws", storage=storage).tell(failed.trial_number, state=TrialState.FAIL)
    (again,) = (s for s in claim(engine, 2) if s.id == slot.id)
    assert again.trial_id == bound.trial_id
    new = storage.bind_trial(again.id, again.token or "")
    assert new.created
    assert new.trial_id != bound.trial_id
    states = [trial.state for trial in storage.get_all_trials(study.search_study_id)]
    assert states == [TrialState.WAITING, TrialState.FAIL, TrialState.RUNNING]


def test_reports_are_stored_once(engine: Engine, study: StudyRow, storage: CachedHpoStorage) -> None:
    """Whatever is there stays; NaN and infinities come back; the furthest epoch counts."""
    slot = claim(engine)[0]
    trial_id = storage.bind_trial(slot.id, slot.token or "").trial_id
    values = [0.5, math.nan, math.inf, -math.inf]
    assert storage.report([report(slot, trial_id, epoch, v) for epoch, v in enumerate(values, 1)], 60) == set()
    assert slots.get_slot(engine, slot.id).epoch == 4
    assert storage.report([report(slot, trial_id, 1, 0.9), report(slot, trial_id, 2, 0.9)], 60) == set()
    assert slots.get_slot(engine, slot.id).epoch == 4
    assert storage.report([report(slot, trial_id, 7, None)], 60) == set()
    assert storage.report([], 60) == set()
    stored = storage.get_trial(trial_id).intermediate_values
    assert list(stored) == [1, 2, 3, 4]
    assert (stored[1], stored[3], stored[4]) == (0.5, math.inf, -math.inf)
    assert math.isnan(stored[2])
    assert slots.get_slot(engine, slot.id).epoch == 7


def test_a_report_renews_the_lease(engine: Engine, study: StudyRow, storage: CachedHpoStorage) -> None:
    """By the database's clock, also of an expired lease that nobody took."""
    (slot,) = claim(engine, lease_seconds=-1)
    trial_id = storage.bind_trial(slot.id, slot.token or "").trial_id
    assert storage.report([report(slot, trial_id, 1)], 60) == set()
    renewed = slots.get_slot(engine, slot.id).lease_expires
    assert slot.lease_expires is not None
    assert renewed is not None
    assert renewed > slot.lease_expires + 50
    assert slot.id not in {other.id for other in claim(engine, 20)}


def test_lost_slots_report_nothing(engine: Engine, study: StudyRow, storage: CachedHpoStorage) -> None:
    """In one batch with those that hold: they alone are stored, the others are named."""
    stale, held = claim(engine, 2, lease_seconds=-1)
    ids = [storage.bind_trial(slot.id, slot.token or "").trial_id for slot in (stale, held)]
    renew(engine, [(held.id, held.token or "")], 60)
    (fresh,) = (slot for slot in claim(engine, 1) if slot.id == stale.id)
    assert storage.report([report(stale, ids[0], 1), report(held, ids[1], 1)], 60) == {(stale.id, stale.token)}
    assert storage.get_trial(ids[0]).intermediate_values == {}
    assert storage.get_trial(ids[1]).intermediate_values == {1: 0.5}
    assert slots.get_slot(engine, stale.id) == fresh
    slots.finish(engine, held.id, held.token or "", outcome_of())
    assert storage.report([report(held, ids[1], 2)], 60) == {(held.id, held.token)}, "nothing is added to what is done"


def test_a_lost_lease_beside_the_next_of_its_slot(engine: Engine, study: StudyRow, storage: CachedHpoStorage) -> None:
    """A worker may have both: what the old one had reached is not where the new one is."""
    (stale,) = claim(engine, lease_seconds=-1)
    trial_id = storage.bind_trial(stale.id, stale.token or "").trial_id
    (fresh,) = claim(engine)
    assert fresh.id == stale.id
    assert storage.report([report(stale, trial_id, 9), report(fresh, trial_id, 1)], 60) == {(stale.id, stale.token)}
    assert slots.get_slot(engine, fresh.id).epoch == 1
    assert storage.get_trial(trial_id).intermediate_values == {1: 0.5}


def test_many_reports_are_one_transaction(
    engine: Engine, make_study: MakeStudy, storage: CachedHpoStorage, statements: Watch
) -> None:
    """A population's epoch, or what piled up while the database was away: few statements, all or nothing."""
    make_study(trials=40, adaptive_from=None)
    claimed = claim(engine, 40)
    ids = [storage.bind_trial(slot.id, slot.token or "").trial_id for slot in claimed]
    batch = [report(s, t, epoch, 0.5) for s, t in zip(claimed, ids, strict=True) for epoch in range(1, 31)]
    with statements(engine) as sent:
        assert storage.report(batch, 60) == set()
    assert len([s for s, _ in sent if not s.startswith(("BEGIN", "SELECT"))]) == 1 + 1
    assert all(len(storage.get_trial(trial_id).intermediate_values) == 30 for trial_id in ids)


def test_reading_takes_no_write_lock(sqlite_engine: Engine, make_study: MakeStudy, statements: Watch) -> None:
    """Of all that samplers and the dashboard read, nothing begins with the write lock."""
    row = make_study(on=sqlite_engine)
    (slot,) = claim(sqlite_engine)
    storage = make_storage(sqlite_engine)
    trial_id = storage.bind_trial(slot.id, slot.token or "").trial_id
    storage.set_trial_param(trial_id, "learning_rate", 0.01, RATE)
    study_id = row.search_study_id
    with statements(sqlite_engine) as sent:
        storage.get_study_id_from_name("ws")
        storage.get_study_name_from_id(study_id)
        storage.get_study_directions(study_id)
        storage.get_study_user_attrs(study_id)
        storage.get_study_system_attrs(study_id)
        storage.get_all_studies()
        storage.get_all_trials(study_id)
        storage.get_n_trials(study_id)
        storage.get_trial(trial_id)
        storage.get_trial_param(trial_id, "learning_rate")
        storage.get_trial_params(trial_id)
        storage.get_trial_user_attrs(trial_id)
        storage.get_trial_system_attrs(trial_id)
        storage.get_trial_number_from_id(trial_id)
        storage.get_trial_id_from_study_id_trial_number(study_id, 0)
        with pytest.raises(ValueError, match="Record does not exist"):
            storage.get_best_trial(study_id)
    begins = {statement for statement, _ in sent if statement.startswith("BEGIN")}
    assert begins == {"BEGIN"}
    with statements(sqlite_engine) as sent:
        storage.set_trial_user_attr(trial_id, "key", 1)
        storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    begins = {statement for statement, _ in sent if statement.startswith("BEGIN")}
    assert begins == {"BEGIN IMMEDIATE"}


def test_a_lost_database_is_transient(
    postgres_engine: Engine, make_study: MakeStudy, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut in the middle of binding: the error that worker's patience waits for, and nothing half done."""
    make_study(on=postgres_engine)
    (slot,) = claim(postgres_engine)
    storage = make_storage(postgres_engine)

    def cut(*_: object) -> None:
        postgres.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{postgres_engine.url.database}' AND pid <> pg_backend_pid()"
        )

    with monkeypatch.context() as patched:
        patched.setattr("hpo.storage.optuna_storage._resume", cut)
        with pytest.raises(DatabaseUnreachable):
            storage.bind_trial(slot.id, slot.token or "")
    assert storage.bind_trial(slot.id, slot.token or "").number == 0
