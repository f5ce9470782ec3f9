"""What the holder of a lease may do with its slot, and nobody else; both databases."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, func, select

from hpo.errors import StudyNotFound, UsageError
from hpo.storage import claims, slots
from hpo.storage.engine import begin_read, begin_write
from hpo.storage.schema import openings
from hpo.storage.slots import NewSlot, Slot
from hpo.storage.studies import StudyRow
from tests.support.fixtures import MakeStudy
from tests.support.open_slots import renew
from tests.support.outcomes import outcome as outcome_of

OUTCOME = outcome_of(value=0.875, epochs=3, train_loss=[0.5, 0.25, None])


@pytest.fixture
def study(make_study: MakeStudy) -> StudyRow:
    return make_study()


def claim_slot(engine: Engine, lease_seconds: float = 60, **options: Any) -> Slot:
    (slot,) = claims.claim(engine, 1, worker="w", lease_seconds=lease_seconds, model="ws", **options)
    return slot


def test_a_claimed_slot_carries_its_lease(engine: Engine, study: StudyRow) -> None:
    """Attempt, worker, token and times stand in the slot that comes back and in the database alike."""
    slot = claim_slot(engine)
    assert (slot.state, slot.attempt, slot.worker, slot.expiries) == ("running", 1, "w", 0)
    assert slot.token is not None
    assert len(slot.token) == 32
    assert int(slot.token, 16) >= 0
    assert slot.started_at is not None
    assert slot.lease_expires == pytest.approx(slot.started_at + 60, abs=1)
    assert slots.get_slot(engine, slot.id) == slot
    assert slot.seed == 2**62


def test_finish_stores_the_whole_outcome_once(engine: Engine, study: StudyRow) -> None:
    """The second outcome under the same token changes nothing, yet says that the slot is done by it."""
    slot = claim_slot(engine)
    assert slots.finish(engine, slot.id, slot.token or "", OUTCOME, b"\x00\xff")
    assert slots.finish(engine, slot.id, slot.token or "", outcome_of(value=0.1))
    stored = slots.get_slot(engine, slot.id, with_outputs=True)
    assert (stored.state, stored.result, stored.outputs) == ("done", "complete", b"\x00\xff")
    assert stored.outcome == OUTCOME
    assert stored.lease_expires is None
    assert not stored.told
    assert slots.get_slot(engine, slot.id).outputs is None


def test_what_is_done_stays(engine: Engine, study: StudyRow) -> None:
    """Its own token, kept for a repeated finish, opens nothing else."""
    slot = claim_slot(engine)
    assert slots.finish(engine, slot.id, slot.token or "", OUTCOME)
    before = slots.get_slot(engine, slot.id)
    assert renew(engine, [(slot.id, slot.token or "")], 60) == set()
    assert not slots.release(engine, slot.id, slot.token or "")
    assert not slots.fail(engine, slot.id, slot.token or "", "no", retry=True)
    assert not slots.record_params(engine, slot.id, slot.token or "", {})
    assert slots.get_slot(engine, slot.id) == before


def test_a_stale_token_changes_nothing(engine: Engine, study: StudyRow) -> None:
    """A worker frozen past its lease finds every door shut; its successor's lease stands."""
    stale = claim_slot(engine, lease_seconds=-1)
    fresh = claim_slot(engine)
    assert fresh.id == stale.id
    assert fresh.token != stale.token
    assert renew(engine, [(stale.id, stale.token or "")], 60) == set()
    assert not slots.record_params(engine, stale.id, stale.token or "", {"dropout": 0.9})
    assert not slots.record_opening(engine, stale.id, stale.token or "", "w")
    assert not slots.release(engine, stale.id, stale.token or "")
    assert not slots.fail(engine, stale.id, stale.token or "", "no", retry=False)
    assert not slots.finish(engine, stale.id, stale.token or "", OUTCOME)
    assert slots.get_slot(engine, fresh.id) == fresh
    assert slots.finish(engine, fresh.id, fresh.token or "", OUTCOME)
    assert not slots.finish(engine, stale.id, stale.token or "", OUTCOME), "done, but not by this token"


def test_renew_tells_held_from_lost(engine: Engine, study: StudyRow) -> None:
    """One call for many leases: an expired lease that nobody took is still ours, a wrong token is not."""
    held, expired, other = claims.claim(engine, 3, worker="w", lease_seconds=-1, model="ws")
    assert renew(engine, [(held.id, held.token or "")], 60) == {held.id}
    leases = [(held.id, held.token or ""), (expired.id, expired.token or ""), (other.id, held.token or "")]
    assert renew(engine, leases, 60) == {held.id, expired.id}
    assert renew(engine, [], 60) == set()
    again = claims.claim(engine, 10, worker="v", lease_seconds=60, model="ws")
    assert other.id in {slot.id for slot in again}
    assert not {held.id, expired.id} & {slot.id for slot in again}


def test_release_uses_up_no_attempt(engine: Engine, study: StudyRow) -> None:
    """However often a slot is pre-empted, it waits again, keeps its epoch and is not failed."""
    for attempt in range(1, 7):
        slot = claim_slot(engine)
        assert (slot.idx, slot.attempt, slot.expiries) == (0, attempt, 0)
        assert slots.release(engine, slot.id, slot.token or "")
        assert not slots.release(engine, slot.id, slot.token or "")
    assert slots.get_slot(engine, slot.id).state == "waiting"
    assert claims.sweep(engine) == []


def test_the_models_exception_is_retried_once(engine: Engine, study: StudyRow) -> None:
    """First back to the queue, the second time failed, with the last error kept."""
    first = claim_slot(engine)
    assert slots.fail(engine, first.id, first.token or "", "first", retry=True)
    waiting = slots.get_slot(engine, first.id)
    assert (waiting.state, waiting.failures, waiting.error, waiting.token) == ("waiting", 1, "first", None)
    second = claim_slot(engine)
    assert second.id == first.id
    assert slots.fail(engine, second.id, second.token or "", "second", retry=True)
    failed = slots.get_slot(engine, first.id)
    assert (failed.state, failed.failures, failed.error) == ("failed", 2, "second")
    assert failed.finished_at is not None


def test_an_error_stays_where_the_retry_goes_well(engine: Engine, study: StudyRow) -> None:
    """It was there, and people want to know."""
    first = claim_slot(engine)
    assert slots.fail(engine, first.id, first.token or "", "first", retry=True)
    second = claim_slot(engine)
    assert slots.finish(engine, second.id, second.token or "", OUTCOME)
    done = slots.get_slot(engine, first.id)
    assert (done.state, done.failures, done.error) == ("done", 1, "first")


def test_any_text_is_kept_as_the_error(engine: Engine, study: StudyRow) -> None:
    """A traceback may quote bytes that PostgreSQL's text does not hold."""
    slot = claim_slot(engine)
    assert slots.fail(engine, slot.id, slot.token or "", "a\x00b\udcff é", retry=False)
    assert slots.get_slot(engine, slot.id).error == "a\\x00b\\udcff é"


def test_names_of_any_length(engine: Engine, study: StudyRow) -> None:
    """A long host name is cut; a label is somebody's choice, so they are told."""
    (slot,) = claims.claim(engine, 1, worker="w" * 300, lease_seconds=60, model="ws")
    assert slot.worker == "w" * 200
    with pytest.raises(UsageError, match="at most 64 characters"), begin_write(engine) as connection:
        slots.add_slots(connection, study.id, "final", [NewSlot(seed=1, label="x" * 65)])


def test_fail_without_retry_is_final(engine: Engine, study: StudyRow) -> None:
    """What cannot get better is not tried again."""
    slot = claim_slot(engine)
    assert slots.fail(engine, slot.id, slot.token or "", "hopeless", retry=False)
    assert slots.get_slot(engine, slot.id).state == "failed"


def test_requeued_slots_start_over(engine: Engine, study: StudyRow) -> None:
    """All attempts are theirs again; a trial that Optuna knows as failed is left behind, another is kept."""
    told, untold, other = claims.claim(engine, 3, worker="w", lease_seconds=60, model="ws")
    for slot in (told, untold):
        assert slots.fail(engine, slot.id, slot.token or "", "broken", retry=False)
    assert slots.mark_told(engine, slots.get_slot(engine, told.id))
    trial = slots.get_slot(engine, told.id).trial_id
    assert trial is not None, "the paper's slot has its trial from the start"
    assert slots.requeue_failed(engine, study.id, "confirm") == 0
    assert slots.requeue_failed(engine, study.id, "search") == 2
    again = slots.get_slot(engine, told.id)
    assert (again.state, again.trial_id, again.trial_number, again.failures, again.told) == (
        "waiting",
        None,
        None,
        0,
        False,
    )
    assert slots.get_slot(engine, other.id).state == "running"
    assert slots.untold(engine) == []


def test_untold_until_marked(engine: Engine, study: StudyRow, make_study: MakeStudy) -> None:
    """What is done or failed and untold is listed, oldest first, and marked once."""
    elsewhere = make_study("other", trials=1)
    done, failed = claims.claim(engine, 2, worker="w", lease_seconds=60, model="ws", study_ids=[study.id])
    assert slots.untold(engine) == []
    assert slots.finish(engine, done.id, done.token or "", OUTCOME)
    assert slots.fail(engine, failed.id, failed.token or "", "broken", retry=False)
    assert [slot.id for slot in slots.untold(engine)] == [done.id, failed.id]
    assert slots.untold(engine, [elsewhere.id]) == []
    (first, _) = slots.untold(engine, [study.id])
    assert slots.mark_told(engine, first)
    assert not slots.mark_told(engine, first)
    assert [slot.id for slot in slots.untold(engine)] == [failed.id]


def test_a_slow_teller_marks_no_later_attempt(engine: Engine, study: StudyRow) -> None:
    """Read as failed, requeued and run again meanwhile: the new result is still to be told."""
    slot = claim_slot(engine)
    assert slots.fail(engine, slot.id, slot.token or "", "broken", retry=False)
    (read,) = slots.untold(engine)
    slots.requeue_failed(engine, study.id, "search")
    assert not slots.mark_told(engine, read), "waiting again"
    again = claim_slot(engine)
    assert slots.finish(engine, again.id, again.token or "", OUTCOME)
    assert not slots.mark_told(engine, read)
    assert not slots.mark_told(engine, replace(read, state="done"))
    assert len(slots.untold(engine)) == 1


def test_record_params(engine: Engine, study: StudyRow) -> None:
    """A search slot's configuration is stored under the lease; the paper's stands from the start."""
    paper, other = claims.claim(engine, 2, worker="w", lease_seconds=60, model="ws")
    assert paper.params == {"learning_rate": 3e-3, "dropout": 0.15}
    assert other.params is None
    assert slots.record_params(engine, other.id, other.token or "", {"dropout": 0.1})
    assert slots.get_slot(engine, other.id).params == {"dropout": 0.1}


def test_pool_b_opens_for_final_slots_under_a_lease(engine: Engine, study: StudyRow) -> None:
    """Every opening is recorded with its attempt; a search slot and a lost lease open nothing."""
    with begin_write(engine) as connection:
        slots.add_slots(connection, study.id, "final", [NewSlot(seed=1, label="paper", round=0)])
    final = claim_slot(engine)
    search = claim_slot(engine)
    assert (final.kind, search.kind) == ("final", "search")
    assert slots.record_opening(engine, final.id, final.token or "", "w1")
    assert slots.record_opening(engine, final.id, final.token or "", "w1"), "a second look is a second record"
    assert not slots.record_opening(engine, search.id, search.token or "", "w1")
    assert not slots.record_opening(engine, final.id, search.token or "", "w1")
    assert slots.finish(engine, final.id, final.token or "", OUTCOME)
    assert not slots.record_opening(engine, final.id, final.token or "", "w1")
    with begin_read(engine) as connection:
        rows = connection.execute(select(openings)).all()
    assert [(row.slot_id, row.attempt, row.worker) for row in rows] == [(final.id, 1, "w1")] * 2
    assert all(row.opened_at == pytest.approx(final.started_at, abs=60) for row in rows)


def test_added_slots_go_on_counting(engine: Engine, study: StudyRow) -> None:
    """Indices of a kind follow each other without a gap, whoever adds."""
    with begin_write(engine) as connection:
        assert slots.add_slots(connection, study.id, "confirm", []) == []
        first = slots.add_slots(connection, study.id, "confirm", [NewSlot(seed=k, round=k) for k in range(3)])
        more = slots.add_slots(connection, study.id, "confirm", [NewSlot(seed=9, params={"dropout": 0.5})])
        assert [slot.idx for slot in slots.read_slots(connection, study.id, "confirm")] == [0, 1, 2, 3]
    listed = slots.list_slots(engine, study.id, "confirm")
    assert [slot.id for slot in listed] == first + more
    assert [slot.seed for slot in listed] == [0, 1, 2, 9]
    assert listed[3].params == {"dropout": 0.5}
    assert len(slots.list_slots(engine, study.id)) == 14


def test_what_is_deleted_is_said_to_be(engine: Engine, study: StudyRow) -> None:
    """A slot or study that is gone is a clear error, not an empty answer."""
    with pytest.raises(StudyNotFound, match="deleted"):
        slots.get_slot(engine, 10_000)
    with pytest.raises(StudyNotFound, match="deleted"), begin_write(engine) as connection:
        slots.add_slots(connection, 10_000, "final", [NewSlot(seed=1)])
    with begin_read(engine) as connection:
        assert connection.scalar(select(func.count()).select_from(openings)) == 0
