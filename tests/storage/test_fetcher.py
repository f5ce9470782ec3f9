"""The fetcher where the database breaks off in the middle: nothing is claimed twice, nothing is left lying."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, update

from hpo.digits.load import load
from hpo.digits.pools import Digits
from hpo.errors import DatabaseUnreachable
from hpo.storage import claims, slots
from hpo.storage.optuna_storage import CachedHpoStorage, open_optuna
from hpo.storage.schema import slots as slots_table
from hpo.storage.slots import Slot
from hpo.worker.aside import SetAside
from hpo.worker.coordinator import Coordinator
from hpo.worker.fetcher import Fetcher, Group
from hpo.worker.health import Health
from hpo.worker.serving import Serving
from hpo.worker.spool import Spool
from tests.support.beats import beat_of
from tests.support.checkpoints import SIGNER
from tests.support.handmade import make, small_spec

MakeFetcher = Callable[..., Fetcher]


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load()


@pytest.fixture
def make_fetcher(tmp_path: Path, digits: Digits) -> Iterator[MakeFetcher]:
    """A fetcher as a worker has it, whose coordinator runs."""
    coordinators = []

    def made(engine: Engine, worker: str = "w") -> Fetcher:
        storage = open_optuna(engine)
        aside, spool = SetAside(), Spool(tmp_path / "results", engine, SIGNER)
        coordinator = Coordinator(engine, storage, spool, aside, 600.0, beat_of, lambda name: None)
        coordinator.start()
        coordinators.append(coordinator)
        return Fetcher(
            engine,
            storage,
            coordinator,
            Serving(lambda: digits),
            aside,
            Health(),
            worker=worker,
            study_names=(),
            lease_seconds=600.0,
        )

    yield made
    for coordinator in coordinators:
        coordinator.release_all()
        assert coordinator.close(lambda: 60.0)
        assert coordinator.crash is None


def running(engine: Engine, study_id: int) -> list[Slot]:
    return [slot for slot in slots.list_slots(engine, study_id) if slot.state == "running"]


def test_an_answer_that_is_lost_after_the_commit(
    engine: Engine, make_fetcher: MakeFetcher, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is committed, its answer never comes: the next call has the very slots, as their first attempt."""
    maker = make(engine, small_spec("ws", trials=6), limit=0, data_digest=digits.digest)
    fetcher, group = make_fetcher(engine), Group.of(maker.row)
    claim = claims.claim

    def cut_off(*arguments: Any, **options: Any) -> list[Slot]:
        claim(*arguments, **options)
        raise DatabaseUnreachable("the connection was cut")

    with monkeypatch.context() as patched:
        patched.setattr(claims, "claim", cut_off)
        with pytest.raises(DatabaseUnreachable):
            fetcher.fetch(group, 2, if_its_turn=False)
    left = running(engine, maker.row.id)
    assert len(left) == 2
    jobs = fetcher.fetch(group, 2, if_its_turn=False)
    assert [job.claim.token for job in jobs] == [slot.token for slot in left]
    assert [slot.attempt for slot in running(engine, maker.row.id)] == [1, 1]


@pytest.mark.parametrize("broken", [(CachedHpoStorage, "bind_trial"), (slots, "record_params")])
def test_a_connection_cut_while_slots_are_made_ready(
    engine: Engine, make_fetcher: MakeFetcher, digits: Digits, monkeypatch: pytest.MonkeyPatch, broken: tuple[Any, str]
) -> None:
    """What is claimed stays claimed, and the next call goes on with it: one attempt, one trial each."""
    maker = make(engine, small_spec("ws", trials=6), limit=0, data_digest=digits.digest)
    fetcher, group = make_fetcher(engine), Group.of(maker.row)
    act, calls = getattr(*broken), iter(range(1000))

    def cut_off(*arguments: Any, **options: Any) -> Any:
        done = act(*arguments, **options)
        if next(calls) == 1:
            raise DatabaseUnreachable("the connection was cut")
        return done

    monkeypatch.setattr(*broken, cut_off)
    with pytest.raises(DatabaseUnreachable):
        fetcher.fetch(group, 3, if_its_turn=False)
    jobs = fetcher.fetch(group, 3, if_its_turn=False)
    claimed = running(engine, maker.row.id)
    assert [slot.attempt for slot in claimed] == [1, 1, 1]
    assert [slot.trial_number for slot in claimed] == [0, 1, 2]
    assert sorted(job.claim.slot.id for job in jobs) == sorted(slot.id for slot in claimed)


def test_what_was_claimed_for_another_group_goes_back(
    engine: Engine, make_fetcher: MakeFetcher, digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker has turned to another model meanwhile: the slots of the first are free again, at once."""
    first, second = (
        make(engine, small_spec(model, trials=3), limit=0, data_digest=digits.digest) for model in ("ws", "simple")
    )
    fetcher = make_fetcher(engine)
    with monkeypatch.context() as patched:
        patched.setattr(CachedHpoStorage, "bind_trial", lambda *arguments: _cut())
        with pytest.raises(DatabaseUnreachable):
            fetcher.fetch(Group.of(first.row), 2, if_its_turn=False)
    jobs = fetcher.fetch(Group.of(second.row), 2, if_its_turn=False)
    assert {job.claim.study.model for job in jobs} == {"simple"}
    fetcher._coordinator.settle(60)
    assert running(engine, first.row.id) == []


def _cut() -> None:
    raise DatabaseUnreachable("the connection was cut")


def test_the_last_slots_are_shared(engine: Engine, make_fetcher: MakeFetcher, digits: Digits) -> None:
    """With who trains the group and is about to be free; not where others have something else to do."""
    maker = make(engine, small_spec("ws", trials=6), limit=0, data_digest=digits.digest)
    first, second, group = make_fetcher(engine, "first"), make_fetcher(engine, "second"), Group.of(maker.row)
    assert len(first.fetch(group, 4, if_its_turn=False, width=4)) == 4
    with engine.begin() as connection:  # they are in their last epoch
        connection.execute(update(slots_table).values(epoch=maker.spec.budget.epochs))
    assert len(second.fetch(group, 4, if_its_turn=False, width=4)) == 1
    assert second.fetch(group, 3, if_its_turn=False, width=4) == [], "the other one is the first worker's"
    make(engine, small_spec("simple", trials=6), limit=0, data_digest=digits.digest)
    assert len(second.fetch(group, 3, if_its_turn=False, width=4)) == 1
