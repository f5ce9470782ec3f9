"""Studies of ours and Optuna's, made, changed and deleted as one; both databases."""

from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import Engine, inspect, text

from hpo.errors import StudyBusy, StudyExists, StudyNotFound, UsageError
from hpo.storage import claims, slots, studies
from hpo.storage.engine import begin_read, begin_write
from hpo.storage.optuna_storage import make_storage, open_optuna
from hpo.storage.slots import NewSlot
from hpo.storage.studies import Counts
from tests.support.fixtures import MakeStudy
from tests.support.open_slots import renew
from tests.support.outcomes import outcome as outcome_of


def rows_everywhere(engine: Engine) -> dict[str, int]:
    """How many rows each table has, but for the versions."""
    with begin_read(engine) as connection:
        tables = [t for t in inspect(connection).get_table_names() if "version" not in t and "sqlite" not in t]
        return {t: connection.execute(text(f"SELECT count(*) FROM {t}")).scalar_one() for t in tables}


def test_a_study_is_made_whole(engine: Engine, make_study: MakeStudy) -> None:
    """Our row as given, ten waiting slots, Optuna's three studies, the paper's trial as number 0."""
    made = make_study(repeat_group="ws")
    assert made == studies.get_study(engine, "ws") == studies.get_study_by_id(engine, made.id)
    assert studies.list_studies(engine) == [made]
    assert (made.phase, made.paused, made.seed, made.tuned) == ("search", False, 2**63 - 1, None)
    assert made.repeat_group == "ws"
    actual = slots.list_slots(engine, made.id)
    assert [slot.idx for slot in actual] == list(range(10))
    assert [slot.seed for slot in actual] == [2**62 + index for index in range(10)]
    assert [slot.adaptive for slot in actual] == [False] * 3 + [True] * 7
    assert {slot.state for slot in actual} == {"waiting"}
    assert [slot.trial_number for slot in actual] == [0] + [None] * 9
    assert actual[0].params == {"learning_rate": 3e-3, "dropout": 0.15}

    storage = open_optuna(engine)
    assert optuna.get_all_study_names(storage) == ["ws", "ws:confirm", "ws:final"]
    for optuna_id in (made.search_study_id, made.confirm_study_id, made.final_study_id):
        assert storage.get_study_directions(optuna_id) == [StudyDirection.MAXIMIZE]
    (trial,) = optuna.load_study(study_name="ws", storage=storage).trials
    assert (trial.number, trial.state, trial._trial_id) == (0, TrialState.WAITING, actual[0].trial_id)
    assert trial.system_attrs == {"fixed_params": {"learning_rate": 3e-3, "dropout": 0.15}}


def test_the_papers_trial_is_as_optuna_enqueues_it(engine: Engine, make_study: MakeStudy) -> None:
    """Compared with Study.enqueue_trial itself."""
    make_study()
    storage = open_optuna(engine)
    theirs = optuna.create_study(study_name="theirs", storage=storage, direction="maximize")
    theirs.enqueue_trial({"learning_rate": 3e-3, "dropout": 0.15})
    ours = optuna.load_study(study_name="ws", storage=storage)
    mine, expected = ours.trials[0], theirs.trials[0]
    mine._trial_id = expected._trial_id
    assert mine == expected


def test_a_tuned_configuration_is_trial_1(engine: Engine, make_study: MakeStudy) -> None:
    """Of an exported file: known, so nothing is asked for it."""
    made = make_study(tuned={"learning_rate": 1e-3, "dropout": 0.3})
    first, second, third = slots.list_slots(engine, made.id)[:3]
    assert [first.trial_number, second.trial_number, third.trial_number] == [0, 1, None]
    assert second.params == {"learning_rate": 1e-3, "dropout": 0.3}


def test_a_study_that_only_evaluates(engine: Engine, make_study: MakeStudy) -> None:
    """No search slots, no trial; it starts in the phase given."""
    made = make_study(trials=0, phase="final", tuned={"dropout": 0.1})
    assert made.phase == "final"
    assert slots.list_slots(engine, made.id) == []
    assert optuna.load_study(study_name="ws", storage=open_optuna(engine)).trials == []


def test_a_name_is_taken_once(engine: Engine, make_study: MakeStudy) -> None:
    """The first stays as it is, nothing of the second is left."""
    first = make_study()
    before = rows_everywhere(engine)
    with pytest.raises(StudyExists, match="'ws' exists already"):
        make_study(trials=3, model="simple")
    assert rows_everywhere(engine) == before
    assert studies.list_studies(engine) == [first]


def test_a_name_of_somebodys_optuna_study(engine: Engine, make_study: MakeStudy) -> None:
    """A database may hold other Optuna studies; nothing is left half-way, nothing of theirs is touched."""
    optuna.create_study(study_name="ws:final", storage=open_optuna(engine))
    before = rows_everywhere(engine)
    with pytest.raises(StudyExists, match="another Optuna study called 'ws:final'"):
        make_study()
    assert rows_everywhere(engine) == before


@pytest.mark.parametrize("name", ["", "ws:confirm", " ws", "a\nb", "x" * 201])
def test_a_name_that_cannot_be(sqlite_engine: Engine, make_study: MakeStudy, name: str) -> None:
    """One line that says which can."""
    with pytest.raises(UsageError, match="cannot be a study's name") as error:
        make_study(name, on=sqlite_engine)
    assert "\n" not in str(error.value)


def test_creating_at_once(engine: Engine, make_study: MakeStudy) -> None:
    """Of several, one makes it and the others are told."""

    def attempt(_: int) -> bool:
        try:
            make_study(trials=2)
        except StudyExists:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, range(4))) == [False, False, False, True]
    assert rows_everywhere(engine)["hpo_slots"] == 2
    assert rows_everywhere(engine)["studies"] == 3


def test_an_unknown_study(engine: Engine, make_study: MakeStudy) -> None:
    """The message names those that exist, of many the most similar ones first."""
    with pytest.raises(StudyNotFound, match=r"no study is called 'w'; .*hpo study create"):
        studies.get_study(engine, "w")
    make_study("one", trials=0)
    make_study("two", trials=0)
    with pytest.raises(StudyNotFound, match="no study is called 'w'; there are one, two"):
        studies.get_study(engine, "w")
    for name in ("ws-1", "ws-2", "simple-1"):
        make_study(name, trials=0)
    with pytest.raises(StudyNotFound, match=r"no study is called 'simple'; there are simple-1, one, two and 2 more$"):
        studies.get_study(engine, "simple")
    assert studies.find_study(engine, "w") is None
    with pytest.raises(StudyNotFound):
        studies.get_study_by_id(engine, 99)


def test_delete_takes_everything_of_it(engine: Engine, make_study: MakeStudy) -> None:
    """Slots, openings, Optuna's studies with trials and values; others keep theirs. The ledger keeps what it has."""
    make_study("other", trials=2)
    before = rows_everywhere(engine)
    made = make_study()
    with begin_write(engine) as connection:
        slots.add_slots(connection, made.id, "final", [NewSlot(seed=1, round=0)])
    storage = make_storage(engine)
    for slot in claims.claim(engine, 3, worker="w", lease_seconds=60, model="ws", study_ids=[made.id]):
        slots.record_opening(engine, slot.id, slot.token or "", "w")
        bound = storage.bind_trial(slot.id, slot.token or "")
        storage.set_trial_user_attr(bound.trial_id, "key", "value")
        storage.set_trial_intermediate_value(bound.trial_id, 1, 0.5)
        storage.set_trial_state_values(bound.trial_id, TrialState.COMPLETE, [0.5])
        slots.finish(engine, slot.id, slot.token or "", outcome_of())
    storage.set_study_user_attr(made.search_study_id, "key", "value")
    studies.delete_study(engine, "ws")
    assert rows_everywhere(engine) == before | {"hpo_ledger": 1}
    with pytest.raises(StudyNotFound):
        studies.delete_study(engine, "ws")
    again = make_study()
    assert again.id != made.id, "a worker may still hold the old id"
    assert again.search_study_id > made.final_study_id


def test_delete_waits_for_running_slots_unless_forced(engine: Engine, make_study: MakeStudy) -> None:
    """Then their workers find the lease lost."""
    make_study()
    (slot,) = claims.claim(engine, 1, worker="w", lease_seconds=60, model="ws")
    with pytest.raises(StudyBusy, match="1 slots are running"):
        studies.delete_study(engine, "ws")
    studies.delete_study(engine, "ws", force=True)
    assert not slots.finish(engine, slot.id, slot.token or "", outcome_of())
    assert renew(engine, [(slot.id, slot.token or "")], 60) == set()


def test_extend_adds_to_the_search_alone(engine: Engine, make_study: MakeStudy) -> None:
    """Indices and the adaptive mark go on; once confirm has begun it is too late."""
    made = make_study(trials=2)
    assert studies.extend_study(engine, made, [7, 8, 9], adaptive_from=3) == 5
    actual = slots.list_slots(engine, made.id)
    assert [(slot.idx, slot.adaptive, slot.seed) for slot in actual[2:]] == [(2, False, 7), (3, True, 8), (4, True, 9)]
    assert studies.extend_study(engine, made, [1], adaptive_from=None) == 6
    with begin_write(engine) as connection:
        assert studies.set_phase(connection, made.id, "search", "confirm")
    with pytest.raises(StudyBusy, match=r"past its search \(phase confirm\)"):
        studies.extend_study(engine, made, [1], adaptive_from=None)
    assert len(slots.list_slots(engine, made.id)) == 6
    studies.delete_study(engine, "ws")
    with pytest.raises(StudyNotFound):
        studies.extend_study(engine, made, [1], adaptive_from=None)


def test_a_phase_moves_once(engine: Engine, make_study: MakeStudy) -> None:
    """Of those who try at once one succeeds, and adds the next phase's slots in the same transaction."""
    made = make_study(trials=0)

    def attempt(_: int) -> bool:
        with begin_write(engine) as connection:
            moved = studies.set_phase(connection, made.id, "search", "confirm")
            if moved:
                studies.set_tuned(connection, made.id, {"params": {"dropout": 0.1}, "source": 7})
                slots.add_slots(connection, made.id, "confirm", [NewSlot(seed=1, round=0)])
            return moved

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(attempt, range(4))) == [False, False, False, True]
    now = studies.get_study(engine, "ws")
    assert (now.phase, now.tuned) == ("confirm", {"params": {"dropout": 0.1}, "source": 7})
    assert len(slots.list_slots(engine, made.id)) == 1


def test_a_locked_study_is_as_it_is(engine: Engine, make_study: MakeStudy) -> None:
    """Read under the lock, None once deleted."""
    made = make_study(trials=0)
    with begin_write(engine) as connection:
        assert studies.lock_study(connection, made.id) == made
        assert studies.lock_study(connection, 99) is None


def test_counts(engine: Engine, make_study: MakeStudy) -> None:
    """By kind and state; done ones by their result."""
    made = make_study(trials=8, adaptive_from=None)
    claimed = claims.claim(engine, 6, worker="w", lease_seconds=60, model="ws")
    for slot, state in zip(claimed, ("complete", "complete", "pruned", "diverged"), strict=False):
        slots.finish(engine, slot.id, slot.token or "", outcome_of(state))
    slots.fail(engine, claimed[4].id, claimed[4].token or "", "broken", retry=False)
    counted = studies.counts(engine, made.id)
    expected = Counts(waiting=2, running=1, complete=2, pruned=1, diverged=1, failed=1)
    assert counted == {"search": expected, "confirm": Counts(), "final": Counts()}
    assert (expected.total, expected.open) == (8, 3)
