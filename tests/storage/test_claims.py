"""Which slots a worker gets: order, the limit on adaptive ones, expiry; both databases."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text, update

from hpo.storage import claims, slots, studies
from hpo.storage.engine import begin_read, begin_write
from hpo.storage.optuna_storage import EpochRecord, make_storage
from hpo.storage.schema import slots as table
from hpo.storage.slots import NewSlot, Slot
from hpo.storage.studies import StudyRow
from tests.support.fixtures import MakeStudy, Watch
from tests.support.open_slots import any_running, renew
from tests.support.outcomes import outcome as outcome_of


def claim(engine: Engine, n: int = 100, lease_seconds: float = 60, model: str = "ws", **options: Any) -> list[Slot]:
    return claims.claim(engine, n, worker="w", lease_seconds=lease_seconds, model=model, **options)


def places(claimed: list[Slot], *rows: StudyRow) -> list[str]:
    """For example "a3": slot 3 of the first study."""
    letters = {row.id: "abcdef"[place] for place, row in enumerate(rows)}
    return [f"{letters[slot.study_id]}{slot.idx}" for slot in claimed]


def finish(engine: Engine, slot: Slot) -> None:
    assert slots.finish(engine, slot.id, slot.token or "", outcome_of(value=0.5))


def advance_epoch(engine: Engine, slot: Slot, epoch: int) -> None:
    with begin_write(engine) as connection:
        connection.execute(update(table).where(table.c.id == slot.id).values(epoch=epoch))


def test_each_slot_is_given_once_and_repeats_interleave(engine: Engine, make_study: MakeStudy) -> None:
    """By index, then study; adaptive ones last, and only as many of each study as may be in flight."""
    a, b = make_study("a"), make_study("b", in_flight=1)
    assert places(claim(engine, 4), a, b) == ["a0", "b0", "a1", "b1"]
    assert places(claim(engine, 4), a, b) == ["a2", "b2", "a3", "b3"]
    assert places(claim(engine), a, b) == ["a4"]
    assert claim(engine) == []


def test_what_is_nearest_to_the_end_goes_first(engine: Engine, make_study: MakeStudy) -> None:
    """final, confirm, search."""
    study = make_study(trials=2)
    with begin_write(engine) as connection:
        for kind in ("confirm", "final"):
            slots.add_slots(connection, study.id, kind, [NewSlot(seed=r, round=r) for r in range(2)])
    kinds = [(slot.kind, slot.idx) for slot in claim(engine)]
    assert kinds == [("final", 0), ("final", 1), ("confirm", 0), ("confirm", 1), ("search", 0), ("search", 1)]


def test_only_the_model_and_studies_asked_for(engine: Engine, make_study: MakeStudy) -> None:
    """A population trains one model; a worker may serve named studies only."""
    a, b, other = make_study("a", trials=2), make_study("b", trials=2), make_study("c", trials=2, model="simple")
    assert {slot.model for slot in claim(engine, model="simple")} == {"simple"}
    assert places(claim(engine, study_ids=[b.id]), a, b, other) == ["b0", "b1"]
    assert claim(engine, study_ids=[]) == []
    assert places(claim(engine), a, b, other) == ["a0", "a1"]


def test_at_most_in_flight_adaptive_slots_run(engine: Engine, make_study: MakeStudy) -> None:
    """Room comes back when one ends, fails, is released; an expired one still counts, and is claimed first."""
    study = make_study(trials=12, adaptive_from=0, in_flight=3)
    first, second, third = claim(engine)
    assert claim(engine) == []
    finish(engine, first)
    (fourth,) = claim(engine)
    assert slots.fail(engine, second.id, second.token or "", "broken", retry=False)
    assert slots.release(engine, third.id, third.token or "")
    assert places(claim(engine, lease_seconds=-1), study) == ["a2", "a4"], "the released one goes first"
    assert fourth.idx == 3
    assert places(claim(engine), study) == ["a2", "a4"]
    assert claim(engine) == []


def test_random_slots_have_no_limit(engine: Engine, make_study: MakeStudy) -> None:
    """Start-up trials, and all of a random search, depend on nothing."""
    make_study(trials=9, adaptive_from=None, in_flight=1)
    assert len(claim(engine)) == 9


def test_paused_studies_are_left_out(engine: Engine, make_study: MakeStudy) -> None:
    """Neither waiting nor expired slots of theirs are given; what runs may end."""
    study = make_study()
    running, *_ = claim(engine, 2, lease_seconds=-1)
    assert studies.set_paused(engine, study.id, True)
    assert not studies.set_paused(engine, study.id, True)
    assert claim(engine) == []
    assert claims.next_models(engine) == []
    assert any_running(engine)
    finish(engine, running)
    assert studies.set_paused(engine, study.id, False)
    assert places(claim(engine, 2), study) == ["a1", "a2"]


def test_expired_leases_go_first_with_a_new_token(engine: Engine, make_study: MakeStudy) -> None:
    """The same slot, one attempt more, its trial and epoch kept."""
    study = make_study()
    lost = claim(engine, 2, lease_seconds=-1)
    again = claim(engine, 3)
    assert places(again, study) == ["a0", "a1", "a2"]
    assert [slot.attempt for slot in again] == [2, 2, 1]
    assert [slot.expiries for slot in again] == [1, 1, 0]
    assert not {slot.token for slot in lost} & {slot.token for slot in again}
    assert again[0].trial_id == lost[0].trial_id
    assert again[0].started_at == lost[0].started_at


def test_attempts_are_used_up_by_expiries_without_progress(engine: Engine, make_study: MakeStudy) -> None:
    """Three leases that bring nothing: nobody gets the slot again, and a sweep fails it with the reason."""
    make_study(trials=1)
    for _ in range(claims.MAX_ATTEMPTS):
        (slot,) = claim(engine, lease_seconds=-1)
        last = claims.sweep(engine)
    assert last == [slot.id]
    assert claim(engine) == []
    failed = slots.get_slot(engine, slot.id)
    assert (failed.state, failed.expiries, failed.attempt) == ("failed", 3, 3)
    assert failed.error == "the lease expired 3 times without a new epoch; last worker: w"
    assert not slots.finish(engine, slot.id, slot.token or "", outcome_of())
    assert claims.sweep(engine) == []


def test_progress_uses_up_no_attempt(engine: Engine, make_study: MakeStudy) -> None:
    """A slot that gets one epoch further with every lease is never given up; the same epochs again are none."""
    make_study(trials=1)
    for epoch in range(1, 9):
        (slot,) = claim(engine, lease_seconds=-1)
        assert slot.expiries == 0
        advance_epoch(engine, slot, epoch)
    for expiries in range(claims.MAX_ATTEMPTS):
        (slot,) = claim(engine, lease_seconds=-1)
        assert slot.expiries == expiries
    assert claims.sweep(engine) == [slot.id]


def test_a_live_lease_is_nobody_elses(engine: Engine, make_study: MakeStudy) -> None:
    """Neither claim nor sweep touch it."""
    make_study(trials=1)
    (slot,) = claim(engine)
    assert claim(engine) == []
    assert claims.sweep(engine) == []
    assert slots.get_slot(engine, slot.id) == slot


def test_next_models_by_the_fewest_running(engine: Engine, make_study: MakeStudy) -> None:
    """The study with the least going on says which model is next; a study without a free slot says nothing."""
    make_study("simple", model="simple")
    ws = make_study("ws", model="ws")
    make_study("ws-aux", model="ws-aux", trials=0)
    assert claims.next_models(engine) == [("digits", "simple"), ("digits", "ws")]
    claim(engine, 2, model="simple")
    assert claims.next_models(engine) == [("digits", "ws"), ("digits", "simple")]
    claim(engine, 5, model="ws")
    assert claims.next_models(engine) == [("digits", "simple")], "both adaptive slots of ws that may run do"
    assert claims.next_models(engine, [ws.id]) == []
    claim(engine, 100, model="simple")
    assert claims.next_models(engine) == []


def test_models_of_two_experiments_with_one_name_are_told_apart(engine: Engine, make_study: MakeStudy) -> None:
    """In the fair share and in the claim, which takes from the studies that it is told."""
    first, second = (make_study(name, model="forest", experiment=name) for name in ("cancer", "wine"))
    assert claims.next_models(engine) == [("cancer", "forest"), ("wine", "forest")]
    taken = claims.claim(engine, 1, worker="w", lease_seconds=60, model="forest", study_ids=[first.id])
    assert [slot.study_id for slot in taken] == [first.id]
    assert claims.next_models(engine) == [("wine", "forest"), ("cancer", "forest")]
    assert (first.experiment, second.experiment) == ("cancer", "wine")


def test_next_models_counts_expired_slots_in(engine: Engine, make_study: MakeStudy) -> None:
    """A slot whose worker died can be claimed, until its attempts are used up."""
    make_study(trials=1)
    for _ in range(claims.MAX_ATTEMPTS):
        assert claims.next_models(engine) == [("digits", "ws")]
        claim(engine, lease_seconds=-1)
    assert claims.next_models(engine) == []


def test_open_and_running(engine: Engine, make_study: MakeStudy) -> None:
    """What a draining worker waits for."""
    assert not claims.any_open(engine)
    study, other = make_study(trials=1), make_study("other", trials=0)
    assert claims.any_open(engine)
    assert claims.any_open(engine, [study.id])
    assert not claims.any_open(engine, [other.id])
    assert not any_running(engine)
    studies.set_paused(engine, study.id, True)
    assert not claims.any_open(engine)
    studies.set_paused(engine, study.id, False)
    (slot,) = claim(engine)
    assert any_running(engine)
    assert not any_running(engine, [other.id])
    assert claims.any_open(engine)
    finish(engine, slot)
    assert not claims.any_open(engine)
    assert not any_running(engine)


def test_a_pause_leaves_nothing_open_but_leases_that_hold(engine: Engine, make_study: MakeStudy) -> None:
    """What a dead worker held is nobody's to take up while its study is paused; a worker that drains may leave it."""
    study = make_study(trials=2)
    held, lost = claim(engine, 1), claim(engine, 1, lease_seconds=-1)
    studies.set_paused(engine, study.id, True)
    assert claims.any_open(engine), "the other one's worker is at it"
    finish(engine, held[0])
    assert not claims.any_open(engine)
    assert not claims.any_open(engine, [study.id])
    studies.set_paused(engine, study.id, False)
    assert claims.any_open(engine)
    assert [slot.id for slot in claim(engine)] == [lost[0].id]


def test_threads_share_without_doubles_or_excess(engine: Engine, make_study: MakeStudy) -> None:
    """Claimers at once: every slot once, and never more adaptive slots at work than allowed."""
    study = make_study(trials=60, adaptive_from=10, in_flight=4)
    most = []

    def work(_: int) -> list[int]:
        mine = []
        while got := claim(engine, 2):
            actual = slots.list_slots(engine, study.id)
            most.append(sum(slot.adaptive and slot.state == "running" for slot in actual))
            for slot in got:
                finish(engine, slot)
                mine.append(slot.idx)
        return mine

    with ThreadPoolExecutor(4) as pool:
        done = [index for mine in pool.map(work, range(4)) for index in mine]
    done += work(0)  # a claimer may leave while the others hold all that may run
    assert sorted(done) == list(range(60))
    assert max(most) <= 4


FINISHED = """
INSERT INTO hpo_slots (study_id, model, kind, idx, adaptive, seed, priority, state, result, attempt, expiries,
                       failures, epoch, lease_epoch, outcome, told)
WITH RECURSIVE n(i) AS (SELECT 1000 UNION ALL SELECT i + 1 FROM n WHERE i < 30000)
SELECT :study, 'ws', 'search', i, true, i, 2, 'done', 'complete', 1, 0, 0, 4, 0, '{}', true FROM n
"""


def test_no_statement_reads_all_slots(engine: Engine, make_study: MakeStudy, statements: Watch) -> None:
    """With many finished slots behind, everything that workers do goes by an index."""
    study = make_study()
    with begin_write(engine) as connection:
        connection.execute(text(FINISHED), {"study": study.id})
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
    storage = make_storage(engine)
    with statements(engine) as sent:
        first, two, *_ = claim(engine)
        bound = storage.bind_trial(first.id, first.token or "")
        report = EpochRecord(slot_id=first.id, token=first.token or "", trial_id=bound.trial_id, epoch=1, value=0.5)
        storage.report([report], 60)
        renew(engine, [(first.id, first.token or ""), (two.id, two.token or "")], 60)
        finish(engine, first)
        claims.sweep(engine)
        for slot in slots.untold(engine):
            slots.mark_told(engine, slot)
        claims.next_models(engine)
        claims.any_open(engine)
        slots.release(engine, two.id, two.token or "")
    ours = [(statement, given) for statement, given in sent if "hpo_slots" in statement]
    assert len(ours) > 10
    for statement, given in ours:
        assert not _reads_all(engine, statement, given), statement


@pytest.mark.parametrize("analyzed", [False, True])
def test_a_worker_that_names_its_studies_reads_open_slots_alone(
    engine: Engine, make_study: MakeStudy, statements: Watch, analyzed: bool
) -> None:
    """Not by the index of all slots of these studies, which looks good to a planner: finished ones are in it too.

    That index may say how many trials a search has, and which configurations are confirmed, where nothing is open.
    """
    study = make_study()
    with begin_write(engine) as connection:
        connection.execute(text(FINISHED), {"study": study.id})
    if analyzed or engine.dialect.name == "postgresql":  # whose planner always has some statistics
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("ANALYZE")
    with statements(engine) as sent:
        assert claims.next_models(engine, [study.id]) == [("digits", "ws")]
        assert claims.any_open(engine, [study.id])
        assert claim(engine, study_ids=[study.id])
        assert claims.next_models(engine, [study.id]) == []
    asked = [(statement, given) for statement, given in sent if "hpo_slots" in statement]
    assert len(asked) > 5
    for statement, given in asked:
        assert not _reads_all(engine, statement, given), statement
        plan = [line for line in _plan(engine, statement, given).splitlines() if not re.search("ended|rounds", line)]
        assert "(study_id, kind, idx)" not in "".join(plan), statement


def _plan(engine: Engine, statement: str, given: Any) -> str:
    """The database's plan in its words; the unique index of all slots by its columns."""
    explain = "EXPLAIN QUERY PLAN" if engine.dialect.name == "sqlite" else "EXPLAIN"
    with begin_read(engine) as connection:
        lines = [str(tuple(row)) for row in connection.exec_driver_sql(f"{explain} {statement}", given)]
    plan = "\n".join(lines)
    for name in ("sqlite_autoindex_hpo_slots_1", "uq_hpo_slots_study_id_kind_idx"):
        plan = plan.replace(name, "(study_id, kind, idx)")
    return plan


def _reads_all(engine: Engine, statement: str, given: Any) -> bool:
    with begin_read(engine) as connection:
        if engine.dialect.name == "sqlite":
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", given)
            return any(row.detail.startswith("SCAN hpo_slots") and "INDEX" not in row.detail for row in plan)
        (plan,) = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", given).scalar_one()
        return _seq_scans(plan["Plan"])


def _seq_scans(node: dict[str, Any]) -> bool:
    here = node["Node Type"] == "Seq Scan" and node["Relation Name"] == "hpo_slots"
    return here or any(_seq_scans(child) for child in node.get("Plans", []))


def test_a_claim_made_again_returns_what_it_took(engine: Engine, make_study: MakeStudy) -> None:
    """An answer was lost: the same ticket gives the same slots and tokens, claimed once, their leases prolonged."""
    make_study(trials=6, adaptive_from=None)
    ticket = claims.new_ticket()
    first = claim(engine, 2, lease_seconds=5, ticket=ticket)
    again = claim(engine, 2, lease_seconds=600, ticket=ticket, again=True)
    assert [(slot.id, slot.token, slot.attempt) for slot in again] == [(s.id, s.token, 1) for s in first]
    assert all((b.lease_expires or 0) > (a.lease_expires or 0) + 500 for a, b in zip(first, again, strict=True))
    assert len({slot.token for slot in first}) == 2
    assert all(slot.token and slot.token.startswith(ticket) and len(slot.token) == 32 for slot in first)


def test_a_claim_that_never_happened_is_made_when_it_is_made_again(engine: Engine, make_study: MakeStudy) -> None:
    """The connection was cut before the commit: nothing was taken, so slots are taken now."""
    make_study(trials=6, adaptive_from=None)
    ticket = claims.new_ticket()
    again = claim(engine, 2, ticket=ticket, again=True)
    assert [slot.attempt for slot in again] == [1, 1]
    assert claim(engine, 2, ticket=ticket, again=True) == [
        replace(slot, lease_expires=now.lease_expires)
        for slot, now in zip(again, (slots.get_slot(engine, s.id) for s in again), strict=True)
    ]


def test_a_claim_made_again_leaves_to_others_what_they_have(engine: Engine, make_study: MakeStudy) -> None:
    """What expired meanwhile and went to another, or is finished, is not returned."""
    make_study(trials=3, adaptive_from=None)
    ticket = claims.new_ticket()
    claimed = claim(engine, 3, lease_seconds=-1, ticket=ticket)
    (taken,) = claim(engine, 1)
    done, kept = (slot for slot in claimed if slot.id != taken.id)
    finish(engine, done)
    assert [slot.id for slot in claim(engine, 3, ticket=ticket, again=True)] == [kept.id]
