"""The worker's life where the database is slow or cuts it off, with everything real but the database's answers."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from hpo.digits.load import load
from hpo.errors import DatabaseUnreachable
from hpo.storage import claims, slots, studies
from hpo.storage.slots import Slot
from hpo.study.spec import StudySpec
from hpo.worker.fetcher import Group
from hpo.worker.options import Options
from hpo.worker.worker import PROMPT_SECONDS, Worker
from tests.support.handmade import Maker, make, small_spec

DIGITS = load()


def tiny(model: str = "simple", **protocol: int) -> StudySpec:
    """A study that trains in no time."""
    tree = small_spec(model, trials=3, rounds=6).model_dump()
    tree["budget"]["epochs"] = 1
    tree["protocol"].update({"training_pairs": 20, "batch_size": 60, "confirm_rounds": 1, **protocol})
    return StudySpec.model_validate(tree)


def worker_of(engine: Engine, folder: Path, **options: Any) -> Worker:
    return Worker(engine, lambda: DIGITS, Options(artifacts=str(folder), device="cpu", **options))


def in_final(engine: Engine, spec: StudySpec) -> Maker:
    """A study whose search and confirm phases are over."""
    maker = make(engine, spec, limit=spec.budget.trials, data_digest=DIGITS.digest)
    while studies.get_study(engine, spec.name).phase != "final":
        maker.work(1)
    return maker


def test_final_rounds_that_end_together_wait_together(
    sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the database records no opening, lanes in training wait a moment for all of them, not for each."""
    maker = in_final(sqlite_engine, tiny(confirm_configurations=1))
    answer = threading.Event()
    record = slots.record_opening

    def slow(*arguments: Any) -> bool:
        answer.wait(60)
        return record(*arguments)

    monkeypatch.setattr(slots, "record_opening", slow)
    worker = worker_of(sqlite_engine, tmp_path, lanes=5)
    worker.coordinator.start()
    group = Group.of(maker.row)
    worker.lanes.serve(group)
    *ended, training = worker.fetcher.fetch(group, 5, if_its_turn=False)
    assert {job.claim.slot.kind for job in ended} == {"final"}
    for job in (*ended, training):
        worker._start(job)
    worker.lanes.poll(stop=lambda: False)
    for job in ended:
        worker.evaluation.end(worker.lanes, job, "complete")
    assert worker.lanes.jobs == [training]
    begun = time.monotonic()
    worker.evaluation.test()
    assert time.monotonic() - begun < 3 * PROMPT_SECONDS
    assert len(worker.evaluation.pending) == 4
    answer.set()
    while worker.evaluation.pending:
        worker.evaluation.test()
    assert worker.coordinator.settle(60)
    states = {slot.id: slot.state for slot in slots.list_slots(sqlite_engine, maker.row.id, "final")}
    assert {states[job.claim.slot.id] for job in ended} == {"done"}
    assert states[training.claim.slot.id] == "running"
    worker.coordinator.release_all()
    assert worker.coordinator.close(lambda: 60.0)


@pytest.mark.parametrize("noticed", [True, False])
def test_a_claim_whose_answer_was_lost_is_given_back_at_the_end(
    sqlite_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, noticed: bool
) -> None:
    """It was committed, the connection was cut, the worker ends before it asks again: no attempt is used up."""
    maker = make(sqlite_engine, tiny(), limit=0, data_digest=DIGITS.digest)
    worker = worker_of(sqlite_engine, tmp_path, lanes=2)
    claim = claims.claim

    def cut_off(*arguments: Any, **options: Any) -> list[Slot]:
        claim(*arguments, **options)
        raise DatabaseUnreachable("the connection was cut")

    with monkeypatch.context() as patched:
        patched.setattr(claims, "claim", cut_off)
        worker.coordinator.start()
        if noticed:
            worker._attempt(worker._catch_up)  # which logs it, and waits before it asks again
        else:
            with pytest.raises(DatabaseUnreachable):
                worker.fetcher.fetch(Group.of(maker.row), 2, if_its_turn=False)
    taken = [slot for slot in slots.list_slots(sqlite_engine, maker.row.id) if slot.state == "running"]
    assert len(taken) == 2
    worker._give_back()
    assert worker.coordinator.close(lambda: 60.0)
    after = slots.list_slots(sqlite_engine, maker.row.id)
    assert [(slot.state, slot.expiries) for slot in after] == [("waiting", 0)] * len(after)
