"""Workers are listed and asked to end, as people do it who have no shell on their machines."""

import signal

import pytest

from hpo.storage import slots, studies
from hpo.storage.engine import open_engine
from hpo.storage.workers import STOPPED, list_workers
from tests.support.commandline import DRAIN, Hpo, Said, finish, wait_until
from tests.support.exact import check_exact

STUDY = {"epochs": 200, "sampler": "random", "pruner": "none", "confirm_rounds": 1, "rounds": 1}


def test_workers_are_asked_to_end(hpo: Hpo) -> None:
    """One of two with lanes at work: it checkpoints, gives back, ends with 0; another goes on from there."""
    hpo.create(**STUDY, trials=2)
    asked = hpo.start("worker", "--device", "cpu", "--population", "2", "--lease", "2")
    wait_until(lambda: len([epoch for _, epoch, _ in hpo.running() if epoch > 0]) == 2)
    (seen,) = hpo.json("workers", "list")
    assert (seen["state"], seen["lanes"], seen["stop_requested"]) == ("alive", 2, False)
    assert seen["models"] == [{"experiment": "digits", "model": "ws"}]
    assert [(training["study"], training["epochs"]) for training in seen["running"]] == [("ws", 200)] * 2
    assert len(seen["code_digest"]) == 64
    assert "asked to stop" in hpo("workers", "stop", seen["name"][:-3]).stderr
    _, err = finish(asked)
    assert "asked to stop by `hpo workers stop`" in err
    assert err.count("given back") == 2
    assert hpo.running() == []
    assert hpo.json("workers", "list") == []
    (left,) = hpo.json("workers", "list", "--all")
    assert (left["state"], left["left_why"]) == ("left", STOPPED)
    assert "stopped" in hpo("workers", "list", "--all").stdout  # its cell may wrap after that
    assert hpo("workers", "stop", "--all").stderr == "no worker lives: there is nothing to stop\n"
    err = hpo(*DRAIN).stderr
    assert err.count(": resumes after epoch ") >= 2
    actual = check_exact(hpo.url, "ws", search=2, confirm=2, rounds=1)
    assert all(slot.expiries == 0 for of_kind in actual.values() for slot in of_kind)


def test_all_are_asked(hpo: Hpo) -> None:
    """Those that idle too; one that has a signal already ends as that says."""
    hpo.create(**STUDY, trials=1)
    hpo("study", "pause", "ws")
    idle = [hpo.start("worker", "--device", "cpu", "--lease", "1") for _ in range(2)]
    wait_until(lambda: len(hpo.json("workers", "list")) == 2)
    idle[0].send_signal(signal.SIGTERM)
    finish(idle[0], 143)
    said = Said(idle[1])
    line = hpo("workers", "stop", "--all").stderr
    assert line.count("asked to stop") == 1
    # Its next sign of life is a minute away: the first lease that it takes renews it.
    hpo("study", "resume", "ws")
    finish(idle[1])
    assert said.count("asked to stop by") == 1


def test_which_worker(hpo: Hpo) -> None:
    hpo.create(**STUDY, trials=1)
    assert "hpo workers list" in hpo.refused("workers", "stop", "nobody")
    assert "or --all" in hpo.refused("workers", "stop", code=2)
    assert "or --all" in hpo.refused("workers", "stop", "x", "--all", code=2)
    assert "No worker lives" in hpo("workers", "list").stdout


def test_a_worker_that_breaks_says_why(hpo: Hpo, monkeypatch: pytest.MonkeyPatch) -> None:
    """What ends it before its time stands in the table, where people look for it."""
    hpo.create(**STUDY, trials=1)
    from hpo.worker.worker import Worker

    def broken(self: Worker) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Worker, "_train", broken)
    with pytest.raises(RuntimeError):
        hpo(*DRAIN)
    engine = open_engine(hpo.url)
    (worker,) = list_workers(engine)
    assert worker.left_why == "RuntimeError: a bug"
    assert [slot.state for slot in slots.list_slots(engine, studies.get_study(engine, "ws").id)] == ["waiting"]
    engine.dispose()
