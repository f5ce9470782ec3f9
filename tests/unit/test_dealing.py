"""The last slots are dealt so that workers end together: the rule in a simulation, and in a real queue."""

from dataclasses import dataclass, field

import pytest

from hpo.storage.claims import Running
from hpo.worker.dealing import dealt

EPOCHS = 12


@dataclass
class Simulated:
    """A worker: an epoch of all its lanes takes as long as there are trainings in them, over its speed."""

    name: str
    lanes: int
    speed: float
    trainings: list[int] = field(default_factory=list)  # epochs trained
    next: float = 0.0  # when its epoch ends
    ended: float = 0.0  # when it had its last training


def simulated(workers: list[Simulated], slots: int, *, dealing: bool) -> tuple[float, float]:
    """When the last training ends, and the lane-weighted idle share of that time."""
    waiting, done, now = slots, 0, 0.0

    def refill(worker: Simulated) -> None:
        nonlocal waiting
        wanted = min(worker.lanes - len(worker.trainings), waiting)
        if dealing and wanted:
            running = [Running(w.name, 1, epoch, w.lanes) for w in workers for epoch in w.trainings]
            name, width = worker.name, worker.lanes
            wanted = dealt(wanted, waiting, running, worker=name, width=width, steps={1: EPOCHS})
        assert wanted >= 0
        waiting -= wanted
        worker.trainings += [0] * wanted

    while done < slots:
        for worker in workers:
            if worker.next <= now:
                worker.trainings = [epoch + 1 for epoch in worker.trainings]
                ended = sum(epoch == EPOCHS for epoch in worker.trainings)
                worker.trainings = [epoch for epoch in worker.trainings if epoch < EPOCHS]
                done += ended
                worker.ended = now if ended else worker.ended
                refill(worker)
                worker.next = now + max(1, len(worker.trainings)) / worker.speed
        now = min(worker.next for worker in workers)
    last = max(worker.ended for worker in workers)
    power = sum(worker.speed for worker in workers)
    return last, sum((last - worker.ended) * worker.speed for worker in workers) / (last * power)


@pytest.mark.parametrize("slots", [12, 20, 28, 60])
@pytest.mark.parametrize("delay", [0.0, 3.0, 30.0])
def test_workers_end_together(slots: int, delay: float) -> None:
    """An odd number of fours for two workers of four lanes, who began together or one after the other."""

    def pair() -> list[Simulated]:
        return [Simulated("a", 4, 1.0), Simulated("b", 4, 1.0, next=delay)]

    last, idle = simulated(pair(), slots, dealing=True)
    greedy, wasted = simulated(pair(), slots, dealing=False)
    ideal = slots * EPOCHS / 2 + delay / 2
    assert last <= greedy + 1
    assert last <= ideal + EPOCHS + 2  # trainings are whole
    assert idle <= max(0.12, wasted / 2)


def test_a_large_worker_takes_more() -> None:
    """By its lanes; the small one has something to the end."""
    fleet = [Simulated("gpu", 16, 16.0), Simulated("cpu", 1, 1.0)]
    last, idle = simulated(fleet, 50, dealing=True)
    assert last <= 1.3 * 50 * EPOCHS / 17
    assert idle < 0.2


@pytest.mark.parametrize(
    ("wanted", "waiting", "running", "expected"),
    [
        (4, 100, [("b", 0)] * 4, 4),  # enough for all
        (4, 4, [("b", 11)] * 4, 2),  # both are about to be free
        (4, 4, [("b", 0)] * 4, 4),  # the other has just begun
        (4, 1, [("b", 11)] * 4, 1),  # who trains nothing takes one
        (2, 2, [("a", 0), ("a", 0), ("b", 11)], 0),  # the other is about to be free
        (4, 4, [], 4),  # nobody else is there
        (3, 2, [("a", 6)], 2),
        (2, 6, [("c", 0), ("c", 0)], 2),  # whose lanes nobody knows has those that run
    ],
)
def test_shares(wanted: int, waiting: int, running: list[tuple[str, int]], expected: int) -> None:
    rows = [Running(name, 1, epoch, None if name == "c" else 4) for name, epoch in running]
    assert dealt(wanted, waiting, rows, worker="a", width=4, steps={1: EPOCHS}) == min(expected, waiting)
