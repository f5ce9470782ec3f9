"""Two workers that wait for one slot when its lease runs out: exactly one gets it."""

import signal

from hpo.storage import claims, slots
from hpo.storage.engine import open_engine
from hpo.worker.worker import POLL_SECONDS
from tests.support.commandline import DRAIN, PATIENCE, Hpo, Said, finish, wait_until
from tests.support.exact import check_exact
from tests.support.open_slots import renew


def two_in_turn(hpo: Hpo) -> None:
    """Both are frozen while the lease runs out, longer than they wait between two looks, and wake up together."""
    hpo.create(trials=1, epochs=3, confirm_rounds=1, rounds=1)
    engine = open_engine(hpo.url)
    (held,) = claims.claim(engine, 1, worker="one that dies", lease_seconds=PATIENCE, model="ws")
    workers = [hpo.start(*DRAIN) for _ in range(2)]
    said = [Said(worker) for worker in workers]
    wait_until(lambda: all(one.count("worker ") for one in said))
    assert renew(engine, [(held.id, held.token or "")], 2 * POLL_SECONDS)
    for worker in workers:
        worker.send_signal(signal.SIGSTOP)
    wait_until(lambda: claims.next_models(engine))
    for worker in workers:
        worker.send_signal(signal.SIGCONT)
    for worker in workers:
        finish(worker)
    again = slots.get_slot(engine, held.id)
    engine.dispose()
    assert (again.attempt, again.expiries) == (2, 1)
    assert sum(one.count("ws trial 0: complete") for one in said) == 1
    assert sum(one.count("lease was lost") for one in said) == 0
    actual = check_exact(hpo.url, "ws", search=1, confirm=1, rounds=1)
    assert {slot.attempt for of_kind in actual.values() for slot in of_kind if slot.id != held.id} == {1}


def test_two_after_one_on_sqlite(hpo: Hpo) -> None:
    """The trial is trained once."""
    two_in_turn(hpo)


def test_two_after_one_on_postgres(hpo_on_postgres: Hpo) -> None:
    """The same on a real PostgreSQL."""
    two_in_turn(hpo_on_postgres)
