"""The coordinator's threads: leases live on however long a result takes, and what is claim at the end is given back."""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from hpo.errors import DatabaseUpgraded
from hpo.storage import claims, identity, slots
from hpo.storage.engine import begin_write, of_any_revision
from hpo.storage.optuna_storage import EpochRecord, open_lean, open_optuna
from hpo.storage.slots import Slot
from hpo.study.search import Search
from hpo.worker.aside import SetAside
from hpo.worker.claim import Claim
from hpo.worker.coordinator import Coordinator
from hpo.worker.spool import Spool
from tests.support.beats import beat_of
from tests.support.checkpoints import SIGNER
from tests.support.commandline import wait_until
from tests.support.handmade import Maker, make, small_spec
from tests.support.outcomes import outcome as outcome_of

LEASE = 3.0


def take(maker: Maker, seconds: float) -> list[Claim]:
    """All that can be claimed of a study."""
    search = Search(open_optuna(maker.engine), maker.row)
    actual = claims.claim(maker.engine, 9, worker="w", lease_seconds=seconds, model=maker.spec.model)
    return [Claim(slot=slot, search=search) for slot in actual]


def test_leases_are_renewed_while_the_other_thread_is_busy(engine: Engine, tmp_path: Path) -> None:
    """A phase moves on, and whoever is told of it takes longer than a lease: nobody else gets the slots."""
    ends, trains = (make(engine, small_spec(model, trials=3), limit=0) for model in ("simple", "ws"))
    told, go_on = threading.Event(), threading.Event()

    def moved(name: str) -> None:
        told.set()
        go_on.wait(60)

    spool = Spool(tmp_path, engine, SIGNER)
    coordinator = Coordinator(engine, open_optuna(engine), spool, SetAside(), LEASE, beat_of, moved)
    coordinator.start()
    ending, training = take(ends, 600), take(trains, LEASE)
    assert len(ending) == len(training) == 3
    for claim in training:
        coordinator.hold(claim)
    for claim in ending:
        ends.end(claim.slot)
        outcome = slots.get_slot(engine, claim.slot.id).outcome
        assert outcome is not None
        coordinator.finish(claim, outcome, None)
    assert told.wait(60)
    time.sleep(1.5 * LEASE)
    assert take(trains, LEASE) == []
    assert not any(coordinator.lost(claim) for claim in training)
    go_on.set()
    coordinator.release_all()
    assert coordinator.close(lambda: 60.0)
    assert coordinator.crash is None
    assert [slots.get_slot(engine, claim.slot.id).state for claim in training] == ["waiting"] * 3
    assert [slots.get_slot(engine, claim.slot.id).expiries for claim in training] == [0] * 3


def test_an_upgrade_is_noticed_by_the_renewals_alone(engine: Engine, tmp_path: Path) -> None:
    """However long an epoch takes. A result that is handed over then stays on disk, the rest goes back."""
    maker = make(engine, small_spec("ws", trials=3), limit=0)
    identity.hold(engine)
    spool = Spool(tmp_path, engine, SIGNER)
    coordinator = Coordinator(engine, open_optuna(engine), spool, SetAside(), LEASE, beat_of, print)
    coordinator.start()
    done, given_up, held = take(maker, 600)
    for claim in (done, given_up, held):
        coordinator.hold(claim)
    with begin_write(engine) as connection:
        connection.execute(text("UPDATE hpo_alembic_version SET version_num = '9000'"))
    wait_until(lambda: coordinator.crash)
    assert isinstance(coordinator.crash, DatabaseUpgraded)
    coordinator.report(held, 1, 0.5)
    coordinator.finish(done, outcome_of(), None)
    coordinator.release(given_up)
    coordinator.release_all()
    assert coordinator.close(lambda: 60.0)
    assert coordinator.gave_back
    assert [path.name.partition("-")[0] for path in spool.kept] == [str(done.slot.id)]
    now = of_any_revision(engine)
    assert [slots.get_slot(now, claim.slot.id).state for claim in (done, given_up, held)] == [
        "running",
        "waiting",
        "waiting",
    ]


def test_a_result_handed_over_before_the_end_is_stored_not_released(engine: Engine, tmp_path: Path) -> None:
    """In the order of the calls: what was finished is done, the rest waits for others."""
    maker = make(engine, small_spec("ws", trials=3), limit=0)
    spool = Spool(tmp_path, engine, SIGNER)
    coordinator = Coordinator(engine, open_optuna(engine), spool, SetAside(), 600.0, beat_of, print)
    done, *rest = take(maker, 600)
    for claim in (done, *rest):
        coordinator.hold(claim)
    maker.end(done.slot)
    outcome = slots.get_slot(engine, done.slot.id).outcome
    assert outcome is not None
    coordinator.finish(done, outcome, None)
    coordinator.release_all()
    coordinator.start()
    assert coordinator.close(lambda: 60.0)
    states = [slots.get_slot(engine, claim.slot.id).state for claim in (done, *rest)]
    assert states == ["done", "waiting", "waiting"]
    assert slots.untold(engine) == []


@pytest.mark.parametrize("lost", [True, False])
def test_only_leases_that_hold_are_given_back(engine: Engine, lost: bool) -> None:
    """`release_all` is as conditional as every other change of a slot."""
    maker = make(engine, small_spec("ws", trials=3), limit=0)
    (first, *_) = take(maker, -1 if lost else 600)
    if lost:
        take(maker, 600)  # another worker
    slots.release_all(engine, [first.lease])
    assert slots.get_slot(engine, first.slot.id).state == ("running" if lost else "waiting")


def bound(maker: Maker, count: int, seconds: float = 600) -> list[Claim]:
    """Claims with their trials; slot 0, the paper's, is left out."""
    storage = open_optuna(maker.engine)
    claimed = take(maker, seconds)[1 : 1 + count]
    trials = [storage.bind_trial(*claim.lease) for claim in claimed]
    return [
        replace(claim, slot=replace(claim.slot, trial_id=trial.trial_id, trial_number=trial.number))
        for claim, trial in zip(claimed, trials, strict=True)
    ]


def curve(engine: Engine, claim: Claim) -> dict[int, float]:
    """What the claim's trial shows."""
    return dict(open_optuna(engine).get_trial(claim.slot.trial_id or 0).intermediate_values)


def run(engine: Engine, folder: Path, lease: float = 600.0) -> Coordinator:
    """A coordinator at work."""
    storage = open_lean(engine)
    coordinator = Coordinator(engine, storage, Spool(folder, engine, SIGNER), SetAside(), lease, beat_of, print)
    coordinator.start()
    return coordinator


@pytest.mark.parametrize("known", [0, 3, 6])
def test_values_that_a_result_lacks_are_stored_before_it(engine: Engine, tmp_path: Path, known: int) -> None:
    """A fold's, or those of a function that leaves out an epoch: no value that was reported is lost."""
    maker = make(engine, small_spec("ws", trials=3), limit=0)
    (claim,) = bound(maker, 1)
    coordinator = run(engine, tmp_path)
    coordinator.hold(claim)
    for epoch in range(1, 7):
        coordinator.report(claim, epoch, 0.1 * epoch)
    result = outcome_of(epochs=6, validation_accuracy=[0.1 * epoch for epoch in range(1, known + 1)])
    coordinator.finish(claim, result, None)
    assert coordinator.close(lambda: 60.0)
    assert coordinator.crash is None
    assert curve(engine, claim) == pytest.approx({epoch: 0.1 * epoch for epoch in range(1, 7)})
    assert slots.get_slot(engine, claim.slot.id).epoch == 6


def test_the_first_new_epoch_is_shown_at_once(engine: Engine, tmp_path: Path) -> None:
    """The others wait for the next renewal; those that were reported before it are no news."""
    maker = make(engine, small_spec("ws", trials=3), limit=0)
    first, resumed = bound(maker, 2)
    with begin_write(engine) as connection:
        connection.execute(text("UPDATE hpo_slots SET epoch = 5 WHERE id = :id"), {"id": resumed.slot.id})
    resumed = replace(resumed, slot=replace(resumed.slot, epoch=5))
    coordinator = run(engine, tmp_path)
    for claim, reported in ((first, [1, 2, 3]), (resumed, [4, 5, 6])):
        coordinator.hold(claim)
        for epoch in reported:
            coordinator.report(claim, epoch, 0.5)
            time.sleep(0.3)

    def epochs() -> list[int]:
        return [slots.get_slot(engine, claim.slot.id).epoch for claim in (first, resumed)]

    wait_until(lambda: epochs() == [3, 6])  # with what is stored at once goes what has waited
    coordinator.report(first, 4, 0.5)
    coordinator.report(resumed, 7, 0.5)
    time.sleep(0.5)
    assert epochs() == [3, 6], "the next renewal is in a quarter of a minute"
    assert coordinator.settle(60)
    assert epochs() == [4, 7]
    assert coordinator.close(lambda: 60.0)


def test_a_trial_is_not_judged_by_epochs_that_it_trains_again(engine: Engine, tmp_path: Path) -> None:
    """A checkpoint is older than what was stored: until that is reached again the pruner is not asked."""
    maker = make(engine, small_spec("ws", trials=3, epochs=10), limit=0)
    (claim,) = bound(maker, 1)
    (slot_id, token), trial_id = claim.lease, claim.slot.trial_id
    stored = [
        EpochRecord(slot_id=slot_id, token=token, trial_id=trial_id, epoch=epoch, value=0.1) for epoch in range(1, 10)
    ]
    assert open_optuna(engine).report(stored, 600) == set()
    claim = replace(claim, slot=replace(claim.slot, epoch=9))
    asked: list[int] = []

    def noted(reached: Sequence[tuple[Slot, Mapping[int, float]]], *, max_age: float = 0.0) -> list[Slot]:
        asked.extend(max(values) for _, values in reached)
        return [slot for slot, _ in reached]

    claim.search.to_prune = noted  # type: ignore[method-assign]
    coordinator = run(engine, tmp_path)
    coordinator.hold(claim)
    for epoch in (3, 4, 8):
        coordinator.report(claim, epoch, 0.1)
    assert coordinator.settle(60)
    assert not coordinator.stopped(claim)
    coordinator.report(claim, 10, 0.1)
    assert coordinator.settle(60)
    assert coordinator.stopped(claim)
    assert asked == [10]
    assert coordinator.close(lambda: 60.0)
