"""The coordinator's threads: leases live on however long a result takes, and what is claim at the end is given back."""

import threading
import time
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from hpo.errors import DatabaseUpgraded
from hpo.storage import claims, identity, slots
from hpo.storage.engine import begin_write, of_any_revision
from hpo.storage.optuna_storage import open_optuna
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
