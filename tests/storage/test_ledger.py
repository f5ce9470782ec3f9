"""The ledger of the test pools: what was opened stays on record, whatever is done to the studies; both databases."""

from dataclasses import replace

import pytest
from sqlalchemy import Engine, text

from hpo.storage import claims, slots, studies
from hpo.storage.engine import begin_write
from hpo.storage.ledger import LedgerEntry, read_ledger
from hpo.storage.slots import NewSlot, Slot
from hpo.storage.studies import StudyRow
from tests.support.fixtures import MakeStudy

PARAMS = {"learning_rate": 0.5, "dropout": 0.25}


def final_slot(engine: Engine, study: StudyRow) -> Slot:
    """A claimed round of the tuned configuration."""
    with begin_write(engine) as connection:
        slots.add_slots(connection, study.id, "final", [NewSlot(seed=1, label="tuned", round=3, params=PARAMS)])
    (slot,) = claims.claim(engine, 1, worker="w", lease_seconds=60, model="ws", study_ids=[study.id])
    assert slot.kind == "final"
    return slot


def test_an_opening_is_entered_with_what_it_was_for(engine: Engine, make_study: MakeStudy) -> None:
    study = make_study()
    slot = final_slot(engine, study)
    assert slots.record_opening(engine, slot.id, slot.token or "", "host:7")
    (entry,) = read_ledger(engine)
    assert entry == LedgerEntry(
        study_id=study.id,
        study="ws",
        experiment="digits",
        model="ws",
        spec_digest=study.spec_digest,
        data_digest=study.data_digest,
        label="tuned",
        params=PARAMS,
        round=3,
        attempt=1,
        worker="host:7",
        opened_at=entry.opened_at,
        early=True,  # while its own search goes on
        look=1,
        spec="{}",
        code_digest=None,
        declared_at=study.created_at,
    )
    assert entry.opened_at == pytest.approx(slot.started_at, abs=60)


def test_what_stays_shut_is_not_entered(engine: Engine, make_study: MakeStudy) -> None:
    """A search slot, or a lease that is lost."""
    slot = final_slot(engine, make_study())
    (search,) = claims.claim(engine, 1, worker="w", lease_seconds=60, model="ws")
    assert not slots.record_opening(engine, search.id, search.token or "", "w")
    assert not slots.record_opening(engine, slot.id, search.token or "", "w")
    assert read_ledger(engine) == []


def test_deleting_a_study_erases_nothing(engine: Engine, make_study: MakeStudy) -> None:
    """Nor does another one of its name begin a new page."""
    study = make_study()
    slot = final_slot(engine, study)
    assert slots.record_opening(engine, slot.id, slot.token or "", "w")
    before = read_ledger(engine)
    studies.delete_study(engine, "ws", force=True)
    assert read_ledger(engine) == [replace(entry, deleted=True) for entry in before]
    again = make_study()
    slot = final_slot(engine, again)
    assert slots.record_opening(engine, slot.id, slot.token or "", "w")
    assert [(entry.study, entry.study_id, entry.deleted) for entry in read_ledger(engine)] == [
        ("ws", study.id, True),
        ("ws", again.id, False),
    ]
    with begin_write(engine) as connection:
        assert connection.scalar(text("SELECT count(*) FROM hpo_openings")) == 1
