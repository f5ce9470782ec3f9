"""When a test pool stays shut: while a search on its data goes on, whose it ever is; both databases."""

import pytest
from sqlalchemy import Engine, update

from hpo.storage import claims, slots, studies
from hpo.storage.engine import begin_read, begin_write
from hpo.storage.ledger import read_ledger
from hpo.storage.schema import slots as slots_table
from hpo.storage.searched import searching
from hpo.storage.slots import NewSlot
from hpo.storage.studies import StudyRow
from tests.support.fixtures import MakeStudy


@pytest.fixture
def tested(make_study: MakeStudy, engine: Engine) -> StudyRow:
    """A study of which a final round alone is left."""
    made = make_study("tested", trials=0, phase="final", open_early=False)
    with begin_write(engine) as connection:
        slots.add_slots(connection, made.id, "final", [NewSlot(seed=1, label="tuned", round=0)])
    return made


def claimable(engine: Engine) -> list[str]:
    """The kinds of slots that a worker would take, by what lists models and by what takes slots."""
    models = claims.next_models(engine)
    taken = [slot for m in models for slot in claims.claim(engine, 9, worker="w", lease_seconds=60, model=m.model)]
    for slot in taken:
        assert slots.release(engine, slot.id, slot.token or "")
    return sorted({slot.kind for slot in taken})


def names(engine: Engine, study: StudyRow) -> list[str]:
    with begin_read(engine) as connection:
        return searching(connection, study.experiment, study.data_digest)


@pytest.mark.parametrize("phase", ["search", "confirm"])
def test_final_rounds_wait_for_searches_and_confirmations(
    engine: Engine, make_study: MakeStudy, tested: StudyRow, phase: str
) -> None:
    """Of another model too. What waits is nothing that a worker who ends when all is done would stay for."""
    assert claimable(engine) == ["final"]
    other = make_study("other", model="ws-aux", open_early=False, trials=4 if phase == "search" else 0)
    if phase == "confirm":
        with begin_write(engine) as connection:
            assert studies.set_phase(connection, other.id, "search", "confirm")
            slots.add_slots(connection, other.id, "confirm", [NewSlot(seed=1, label="paper", round=0)])
    assert names(engine, tested) == ["other"]
    assert claimable(engine) == [phase]
    assert not claims.any_open(engine, [tested.id])
    assert claims.any_open(engine)
    assert claims.outlook(engine, [tested.id]) == (0, [])


@pytest.mark.parametrize("why", ["paused", "other data", "other experiment", "open early", "done"])
def test_what_holds_nothing_up(engine: Engine, make_study: MakeStudy, tested: StudyRow, why: str) -> None:
    of = {"other data": {"data_digest": "c" * 64}, "other experiment": {"experiment": "cancer"}}.get(why, {})
    other = make_study("other", open_early=False, **of)
    if why == "paused":
        assert studies.set_paused(engine, other.id, True)
    if why == "open early":
        studies.set_open_early(engine, tested.id)
    if why == "done":
        studies.delete_study(engine, "other")
    assert "final" in claimable(engine)
    assert claims.any_open(engine, [tested.id])


def end_all(engine: Engine, study: StudyRow, kind: str, ends: list[str]) -> None:
    """Let the slots of a phase end, in their order, as it is before any worker has moved the study on."""
    for idx, end in enumerate(ends):
        values = {"state": "failed"} if end == "failed" else {"state": "done", "result": end}
        of_slot = (slots_table.c.study_id == study.id, slots_table.c.kind == kind, slots_table.c.idx == idx)
        with begin_write(engine) as connection:
            assert connection.execute(update(slots_table).where(*of_slot).values(values)).rowcount == 1


@pytest.mark.parametrize(("failed", "stands_still"), [(0, False), (1, False), (2, True), (4, True)])
def test_a_search_is_over_when_it_has_moved_on_or_cannot(
    engine: Engine, make_study: MakeStudy, tested: StudyRow, failed: int, stands_still: bool
) -> None:
    """The race: everything has ended, one trial failed, and no worker has begun its confirmation yet."""
    other = make_study("other", trials=4, open_early=False)
    end_all(engine, other, "search", ["failed"] * failed + ["complete"] * (4 - failed))
    assert names(engine, tested) == ([] if stands_still else ["other"])
    assert ("final" in claimable(engine)) is stands_still


FIRST_FORMAT, LATER_FORMAT = '{"budget":{}}', '{"experiment":"cancer"}'


@pytest.mark.parametrize(
    ("spec", "ends", "stands_still"),
    [
        (FIRST_FORMAT, ["complete"] * 4, False),
        (FIRST_FORMAT, ["complete", "failed", "complete", "complete"], False),
        (FIRST_FORMAT, ["complete", "failed", "failed", "complete"], True),
        (FIRST_FORMAT, ["complete", "failed", "diverged", "complete"], False),
        (LATER_FORMAT, ["complete", "failed", "diverged", "complete"], True),
        (LATER_FORMAT, ["complete", "diverged", "diverged", "complete"], True),
        (LATER_FORMAT, ["complete", "diverged", "complete", "complete"], False),
    ],
)
def test_a_confirmation_is_over_when_it_has_moved_on_or_cannot(
    engine: Engine, make_study: MakeStudy, tested: StudyRow, spec: str, ends: list[str], stands_still: bool
) -> None:
    """One configuration of which every round is done is enough to move on."""
    other = make_study("other", trials=0, phase="confirm", open_early=False, spec=spec)
    with begin_write(engine) as connection:
        rounds = [NewSlot(seed=1, label=label, round=r) for label in ("paper", "trial 1") for r in range(2)]
        slots.add_slots(connection, other.id, "confirm", rounds)
    end_all(engine, other, "confirm", ends)
    assert names(engine, tested) == ([] if stands_still else ["other"])


def test_an_early_opening_is_on_record(engine: Engine, make_study: MakeStudy, tested: StudyRow) -> None:
    for name, early in (("other", True), (None, False)):
        if name is not None:
            make_study(name)
            studies.set_open_early(engine, tested.id)
        else:
            studies.delete_study(engine, "other")
        (slot,) = claims.claim(engine, 1, worker="w", lease_seconds=60, model="ws", study_ids=[tested.id])
        assert slots.record_opening(engine, slot.id, slot.token or "", "w")
        assert slots.release(engine, slot.id, slot.token or "")
        assert read_ledger(engine)[-1].early is early
