"""Workers as real processes on real digits: exact budgets, each trial told once, whatever befalls a worker."""

import contextlib
import signal
import sqlite3
import time
from dataclasses import replace

import optuna
import optuna_dashboard  # type: ignore[import-untyped]  # ships no types
import pytest
import torch
from optuna.trial import TrialState

from hpo.digits.lanes import PairTrainings
from hpo.storage import claims, slots, studies
from hpo.storage.engine import BUSY_TIMEOUT, open_engine
from hpo.storage.optuna_storage import make_storage, open_optuna
from hpo.study.search import Search
from hpo.training.kernels import selection
from hpo.training.population import Task
from hpo.worker.job import Job
from hpo.worker.worker import POLL_SECONDS
from tests.support.commandline import DRAIN, PATIENCE, Hpo, Said, finish, train, wait_until
from tests.support.exact import check_exact, values
from tests.support.experiments import slots_of

# --- Several at once ----------------------------------------------------------------------------------------


def three_workers(hpo: Hpo) -> None:
    """Let three processes, all ready before the first slot, drain a study with slots of every kind."""
    hpo.create(trials=10)
    hpo("study", "pause", "ws")
    hpo.create(name="blocker", model="simple", trials=1, confirm_rounds=1, rounds=1)
    engine = open_engine(hpo.url)
    (blocker,) = claims.claim(engine, 1, worker="test", lease_seconds=PATIENCE, model="simple")  # nobody may leave
    workers = [hpo.start(*DRAIN) for _ in range(3)]
    for worker in workers:
        assert worker.stderr is not None
        assert ": cpu, kernels: " in worker.stderr.readline(), worker.communicate()
    hpo("study", "resume", "ws")
    slots.release(engine, blocker.id, blocker.token or "")
    engine.dispose()
    for worker in workers:
        finish(worker)
    actual = check_exact(hpo.url, "ws", search=10, confirm=4, rounds=2)
    assert [slot.trial_number for slot in actual["search"] if slot.idx == 0] == [0], "the paper's is trial 0"
    everybody = [slot for of_kind in actual.values() for slot in of_kind]
    assert len({slot.worker for slot in everybody}) > 1, "they worked side by side"
    assert all(slot.attempt == 1 for slot in everybody)
    engine = open_engine(hpo.url)
    try:
        page = optuna.load_study(study_name="ws", storage=make_storage(engine))
        assert optuna_dashboard.get_note(page).startswith("## ws: done"), "they ended before it was written"
    finally:
        engine.dispose()


def test_three_workers_on_one_sqlite_file(hpo: Hpo) -> None:
    """Exactly the asked number of trials, each told once."""
    three_workers(hpo)


def test_three_workers_on_postgres(hpo_on_postgres: Hpo) -> None:
    """The same on a real PostgreSQL."""
    three_workers(hpo_on_postgres)


# --- A worker in trouble ------------------------------------------------------------------------------------


def test_a_killed_workers_slot_goes_to_another(hpo: Hpo) -> None:
    """SIGKILL in the middle of a training: after its lease the same trial is done by another, nothing twice."""
    hpo.create(trials=2, epochs=8, confirm_rounds=1, rounds=1)
    victim = hpo.start(*DRAIN, "--lease", "2")
    slot_id, pid = hpo.freeze_in_training()
    assert pid == victim.pid
    victim.kill()
    hpo(*DRAIN, "--lease", "2")
    actual = check_exact(hpo.url, "ws", search=2, confirm=2, rounds=1)
    (again,) = [slot for of_kind in actual.values() for slot in of_kind if slot.id == slot_id]
    assert again.attempt == 2
    assert f":{victim.pid}:" not in str(again.worker)


def test_a_worker_that_slept_too_long_drops_its_result(hpo: Hpo) -> None:
    """Frozen past its lease it wakes up, and the successor's result stands: each trial is told once."""
    hpo.create(trials=2, epochs=8, confirm_rounds=1, rounds=1)
    sleeper = hpo.start(*DRAIN, "--lease", "1")
    slot_id, _ = hpo.freeze_in_training()
    hpo(*DRAIN, "--lease", "60")
    before = check_exact(hpo.url, "ws", search=2, confirm=2, rounds=1)
    sleeper.send_signal(signal.SIGCONT)
    _, err = finish(sleeper)
    assert "lease was lost" in err
    assert check_exact(hpo.url, "ws", search=2, confirm=2, rounds=1) == before
    (again,) = [slot for of_kind in before.values() for slot in of_kind if slot.id == slot_id]
    assert again.attempt == 2
    assert f":{sleeper.pid}:" not in str(again.worker)


def test_a_worker_takes_up_the_slot_that_it_lost(hpo: Hpo) -> None:
    """Frozen past its lease, while another took its slot and gave it back: it drops what it did and does it again."""
    hpo.create(trials=1, epochs=8, confirm_rounds=1, rounds=1)
    sleeper = hpo.start(*DRAIN, "--lease", "1")
    slot_id, _ = hpo.freeze_in_training()
    engine = open_engine(hpo.url)
    (slot,) = wait_until(lambda: claims.claim(engine, 1, worker="another", lease_seconds=60, model="ws"))
    assert slot.id == slot_id
    assert slots.release(engine, slot.id, slot.token or "")
    engine.dispose()
    sleeper.send_signal(signal.SIGCONT)
    _, err = finish(sleeper)
    assert "lease was lost" in err
    actual = check_exact(hpo.url, "ws", search=1, confirm=1, rounds=1)
    (again,) = [slot for of_kind in actual.values() for slot in of_kind if slot.id == slot_id]
    assert again.attempt == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_gives_the_slots_back(hpo: Hpo, number: signal.Signals, code: int) -> None:
    """At the next step; the attempt is not used up and the next worker goes on with the same trial."""
    hpo.create(trials=2, epochs=200, confirm_rounds=1, rounds=1)
    worker = hpo.start("worker", "--device", "cpu", "--population", "2")
    wait_until(lambda: any(epoch > 0 for _, epoch, _ in hpo.running()))
    held = {slot for slot, _, _ in hpo.running()}
    for _ in range(2 if number == signal.SIGHUP else 1):  # a terminal's end sends it twice
        worker.send_signal(number)
    _, err = finish(worker, code)
    assert "Traceback" not in err
    assert err.count("given back") == len(held) == 2
    assert hpo.running() == []
    engine = open_engine(hpo.url)
    try:
        for slot in slots.list_slots(engine, 1, "search"):
            assert (slot.state, slot.attempt, slot.expiries, slot.token) == ("waiting", 1, 0, None)
            assert slot.trial_id is not None
            assert slot.params is not None
    finally:
        engine.dispose()
    counts = hpo.show()["trials"]
    assert (counts["waiting"], counts["running"], counts["total"]) == (2, 0, 2)


def test_nohup_is_honoured(hpo: Hpo) -> None:
    """A worker that was started to outlive its terminal trains on when that is gone."""
    hpo.create(trials=1, confirm_rounds=1, rounds=1)
    hpo("study", "pause", "ws")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        worker = hpo.start("worker", "--device", "cpu")
    finally:
        signal.signal(signal.SIGHUP, before)
    said = Said(worker)
    wait_until(lambda: said.count("worker "))
    worker.send_signal(signal.SIGHUP)
    hpo("study", "resume", "ws")
    wait_until(lambda: hpo.show()["phase"] == "done")
    worker.send_signal(signal.SIGTERM)
    finish(worker, 143)


def test_a_signal_ends_a_worker_whose_database_is_locked(hpo: Hpo) -> None:
    """It looks for work while another process sits on the file: its end does not wait for that one."""
    hpo.create(trials=1, confirm_rounds=1, rounds=1)
    train(hpo)
    worker = hpo.start("worker", "--device", "cpu")
    said = Said(worker)
    with contextlib.closing(sqlite3.connect(hpo.folder / "hpo.db", timeout=PATIENCE, isolation_level=None)) as lock:
        wait_until(lambda: said.count("worker "))
        lock.execute("BEGIN IMMEDIATE")
        time.sleep(3 * POLL_SECONDS)  # until it waits for the lock
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(BUSY_TIMEOUT - 5) == 143
        lock.execute("ROLLBACK")
    assert said.count("Traceback") == 0


@pytest.mark.parametrize("times", [1, 2])
def test_an_exception_in_training(hpo: Hpo, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The trial is tried once more, and failed with its traceback the second time; its neighbour trains on unharmed."""
    task = PairTrainings.task

    def spoiled(trainings: PairTrainings, job: Job) -> Task:
        whole = task(trainings, job)
        if job.title != "ws trial 1" or job.claim.slot.failures >= times:
            return whole
        nowhere = torch.full_like(whole.training.image, 10**6)
        return replace(whole, training=replace(whole.training, image=nowhere))

    hpo.create(sampler="random", pruner="none", trials=5, epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(PairTrainings, "task", spoiled)
        said = hpo(*DRAIN, "--population", "2").stderr
    assert said.count("Traceback") == times
    engine = open_engine(hpo.url)
    row = studies.get_study(engine, "ws")
    search = slots.list_slots(engine, row.id, "search")
    engine.dispose()
    assert row.phase == "done"
    assert [slot.failures for slot in search] == [0, times, 0, 0, 0]
    assert [slot.state for slot in search] == ["done", "failed" if times == 2 else "done"] + ["done"] * 3
    assert [len(slot.outcome.train_loss) for slot in search if slot.outcome] == [2] * (6 - times)
    if times == 2:
        assert "Traceback" in str(search[1].error)
    else:
        check_exact(hpo.url, "ws", search=5, confirm=4, rounds=2)


def test_two_that_tell_one_slot(hpo: Hpo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is slower finds the trial told and leaves it as it is."""
    hpo.create(trials=1, confirm_rounds=1, rounds=1)
    hpo("worker", "--max-trials", "1")
    engine = open_engine(hpo.url)
    row = studies.get_study(engine, "ws")
    (slot,) = slots.list_slots(engine, row.id, "search")
    storage = open_optuna(engine)
    before = storage.get_trial(slot.trial_id or 0)

    class Late(type(storage)):  # type: ignore[misc]  # sees the trial as it was before the other's tell
        def get_trial(self, trial_id: int) -> optuna.trial.FrozenTrial:
            trial: optuna.trial.FrozenTrial = super().get_trial(trial_id)
            trial.state = TrialState.RUNNING
            return trial

    storage.__class__ = Late
    Search(storage, row).tell(slot)
    storage.__class__ = Late.__base__
    assert storage.get_trial(slot.trial_id or 0) == before
    engine.dispose()


# --- What a worker is asked to do ---------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["auto", "off"])
def test_a_record_says_which_kernels_made_it(hpo: Hpo, asked: str) -> None:
    """Those that the log names at the start, and `hpo doctor`; none where they are switched off."""
    hpo.create(trials=1)
    words = ("worker", "--device", "cpu", "--population", "1", "--max-trials", "1", "--kernels", asked)
    log = finish(hpo.start(*words))[1]
    there = selection.state(torch.device("cpu"))
    expected = "switched off" if asked == "off" else there
    assert f"cpu, kernels: {expected}; " in log
    assert f"kernels: cpu: {there}\n" in hpo("doctor").stdout
    (done,) = (slot.outcome for slot in slots_of(hpo, "ws") if slot.outcome is not None)
    assert done.versions["kernels"] == expected


def test_max_trials_and_study(hpo: Hpo) -> None:
    """A worker takes no more slots than it was told to, and none of a study that it was not told to serve."""
    hpo.create(name="one")
    hpo.create(name="two", seed=2)
    hpo("worker", "--study", "two", "--max-trials", "3", "--population", "2")
    assert hpo.show("one")["trials"]["complete"] == 0
    assert hpo.show("two")["trials"]["complete"] == 3
    assert hpo.show("two")["trials"]["waiting"] == 1
    hpo("study", "pause", "one")  # else the test waits for its search
    hpo("worker", "--study", "two", "--drain")
    assert hpo.show("two")["phase"] == "done"
    assert hpo.show("one")["trials"]["waiting"] == 4


def test_a_pause_ends_a_drain(hpo: Hpo) -> None:
    """A paused study is not worked on; a worker that drains does not wait for it; resume goes on."""
    hpo.create(trials=2)
    hpo("study", "pause", "ws")
    train(hpo)
    shown = hpo.show()
    assert shown["paused"]
    assert shown["trials"]["waiting"] == 2
    hpo("study", "resume", "ws")
    train(hpo)
    check_exact(hpo.url, "ws", search=2, confirm=4, rounds=2)


def test_a_drain_of_a_paused_study_by_name_is_not_done(hpo: Hpo) -> None:
    """Whoever names it is told why nothing happened, with code 1; another study that is named too is served."""
    hpo.create(trials=1)
    hpo.create(name="other", model="simple", trials=1, confirm_rounds=1, rounds=1)
    hpo("study", "pause", "ws")
    worker = hpo(*DRAIN, "--study", "ws", "--study", "other", code=1)
    assert "not all is done: study ws is paused (`hpo study resume ws`)" in worker.stderr
    assert "done" in hpo("study", "list").stdout
    hpo("study", "resume", "ws")
    hpo(*DRAIN, "--study", "ws", "--study", "other")
    assert hpo.show()["phase"] == "done"


def test_a_pause_ends_a_drain_whatever_a_dead_worker_held(hpo: Hpo) -> None:
    """It does not wait for a slot that nobody may take up; after resume the same trial is done."""
    hpo.create(trials=2)
    engine = open_engine(hpo.url)
    (lost,) = claims.claim(engine, 1, worker="dead", lease_seconds=-1, model="ws")
    engine.dispose()
    hpo("study", "pause", "ws")
    finish(hpo.start(*DRAIN))
    assert hpo.show()["trials"]["running"] == 1
    hpo("study", "resume", "ws")
    train(hpo)
    actual = check_exact(hpo.url, "ws", search=2, confirm=4, rounds=2)
    assert [slot.attempt for slot in actual["search"] if slot.id == lost.id] == [2]


def test_a_worker_without_work_waits_for_some(hpo: Hpo) -> None:
    """Without --drain it stays, serves a study made later, and ends on SIGTERM."""
    hpo.create(name="first", trials=1, confirm_rounds=1, rounds=1)
    worker = hpo.start("worker", "--device", "cpu")
    wait_until(lambda: hpo.show("first")["phase"] == "done")
    hpo.create(name="second", trials=1, confirm_rounds=1, rounds=1)
    wait_until(lambda: hpo.show("second")["phase"] == "done")
    hpo("study", "delete", "first", "--yes")
    hpo.create(name="first", trials=1, confirm_rounds=1, rounds=1)
    wait_until(lambda: hpo.show("first")["phase"] == "done")
    worker.send_signal(signal.SIGTERM)
    finish(worker, 143)


def test_random_search_repeats(hpo: Hpo) -> None:
    """Without pruner and adaptive sampler a study is the same in another database, interrupted or not."""
    results = []
    for place in ("a.db", "b.db"):
        hpo.url = f"sqlite:///{hpo.folder / place}"
        hpo.create(sampler="random", pruner="none", trials=3)
        if place == "b.db":
            hpo("worker", "--max-trials", "2", "--population", "1")
        train(hpo)
        actual = check_exact(hpo.url, "ws", search=3, confirm=4, rounds=2)
        results.append([[(s.label, s.params, *values(s)) for s in of_kind] for of_kind in actual.values()])
    assert results[0] == results[1]
