"""What users' functions do to a worker, and what becomes of it: the training's affair, told in a line, nothing lost."""

import signal
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from hpo.experiment.process import can_fork
from hpo.storage.slots import Slot
from hpo.worker.children import STOP_SECONDS
from tests.support.commandline import DRAIN, Hpo, Said, finish, wait_until
from tests.support.exact import check_exact, results
from tests.support.experiments import create, slots_of

CODE = """
import os, pathlib, signal, time
import hpo
import numpy as np

HERE = pathlib.Path(__file__).parent
held = []

def noted(what):
    with (HERE / what).open("a") as file:
        file.write(f"{os.getpid()}\\n")

class Line:
    def __init__(self, slope): self.slope = slope
    def predict(self, x): return self.slope * x[:, 0]
    def close(self): noted("closed")
    def state_dict(self): return {"slope": self.slope}
    def load_state_dict(self, state): self.slope = state["slope"]

def line(run):
    return Line(run.params["slope"])

class Long(Line):
    def predict(self, x): return np.zeros(len(x) + 1)

class Wide(Line):
    def predict(self, x): return np.zeros((len(x), 2))

class Moody(Line):
    ballast = np.zeros(3_000_000)  # 24 MB, so that its state takes a moment to be kept
    def state_dict(self): return {"slope": self.slope, "ballast": self.ballast}
    def predict(self, x):
        while len(x) == 60 and not (HERE / "mended").exists():
            noted("testing")
            if not (HERE / "waits").exists() and len((HERE / "testing").read_text().split()) == 1:
                raise OSError("a file of the test is away")
            time.sleep(0.1)
        return super().predict(x)

def moody(run):
    model = Moody(0.0)
    run.checkpoint(model)
    for epoch in run.epochs():
        noted("trained")
        model.slope = model.slope + run.params["slope"] / run.max_epochs
        run.report(model)
    return model

def disobeys(run):
    model = Line(run.params["slope"])
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    noted("disobeys")
    for epoch in range(run.max_epochs):
        time.sleep(0.1)
        while run.report(model, epoch=epoch + 1):
            noted("told")
            time.sleep(0.1)
    return model

def folds(run):
    noted("fold")
    time.sleep(float(os.environ.get("SLOWNESS", "0")))
    return Line(run.params["slope"] + float(np.mean(run.training.y)))

def explodes(run):
    if "BAD" in os.environ:
        raise hpo.Diverged("too steep")
    return line(run)

def leaks(run):
    held.append(np.ones(40_000_000))
    return line(run)

def remembers(run):
    held.append(1)
    noted(f"remembers {len(held)}")
    return line(run)

def rows(seed, n):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 1))
    return x, 2 * x[:, 0] + rng.normal(size=n)

def draw(pool, how):
    order = how.rng("items").permutation(len(pool[0]))
    held = np.array_split(order, how.folds)[how.fold] if how.folds > 1 else order[:40]
    rest = np.setdiff1d(order, held)
    return hpo.Items(pool[0][rest], pool[1][rest]), hpo.Items(pool[0][held], pool[1][held])

space = {"slope": hpo.Float(-5.0, 5.0)}
straight = hpo.Experiment(
    "straight",
    data=hpo.Data("straight-1", a=lambda: rows(1, 120), b=lambda: rows(2, 60)),
    metrics=[hpo.rmse, hpo.mae],
    draw=draw,
    draw_test=lambda pool, how: hpo.Items(*pool),
    models={
        **{f.__name__: hpo.Model(f, space=space, reference={"slope": 1.0})
           for f in (line, moody, disobeys, folds, explodes, leaks, remembers)},
        "long": hpo.Model(lambda run: Long(1.0), space=space, reference={"slope": 1.0}),
        "wide": hpo.Model(lambda run: Wide(1.0), space=space, reference={"slope": 1.0}),
    },
)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The user's file."""
    path = tmp_path / "user" / "straight_lines.py"
    path.parent.mkdir()
    path.write_text(CODE)
    return path


def notes(file: Path, what: str) -> list[str]:
    """Which processes noted it."""
    path = file.parent / what
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.long
def test_what_is_no_prediction_fails_with_its_reason(hpo: Hpo, file: Path) -> None:
    """Outputs of another length or shape are errors of that study alone; the others' predictors are closed."""
    for model in ("long", "wide"):
        create(hpo, file, model, trials=1, rounds=1)
    create(hpo, file, "line", trials=2, rounds=1)
    _, err = finish(hpo.start(*DRAIN, "--experiment", file), 1)
    for model, why in (("long", "predict gave 41 outputs for 40 items"), ("wide", "outputs of the shape (40, 2)")):
        (trial,) = slots_of(hpo, model)
        assert trial.state != "done"
        assert trial.failures >= 2
        assert why in (trial.error or "").splitlines()[-1]
        assert "/hpo/experiment/" not in (trial.error or ""), "the frames are the user's"
        assert f"study {model} is left alone" in err or trial.state == "failed"
        hpo("study", "pause", model)  # as long as somebody else may search on, the test of the third waits
    finish(hpo.start(*DRAIN, "--study", "line", "--experiment", file))
    actual = check_exact(hpo.url, "line", search=2, confirm=4, rounds=1)
    last = 1  # that the first worker had: it may have ended with its process, for nothing came after it
    assert 0 <= sum(map(len, actual.values())) - len(notes(file, "closed")) <= last


def test_what_is_tested_is_trained_apart(hpo: Hpo, file: Path) -> None:
    """Whoever has seen pool B trains no more: globals of a process that tests are those of search and confirm."""
    create(hpo, file, "remembers", trials=2, rounds=4)
    finish(hpo.start(*DRAIN, "--experiment", file))
    actual = check_exact(hpo.url, "remembers", search=2, confirm=4, rounds=4)
    first = len(actual["search"]) + len(actual["confirm"]) + 1
    assert len(set(notes(file, f"remembers {first}"))) == len(actual["final"]), "a process each"
    assert not notes(file, f"remembers {first + 1}")


def test_copies_are_made_where_they_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_fork("cuda")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not can_fork("cpu")


@pytest.mark.long
def test_where_no_copy_can_be_made_of_a_process(hpo: Hpo, file: Path) -> None:
    """For it has a second thread, or on macOS: who has tested ends, and the next one is started meanwhile."""
    file.write_text(
        CODE + "\nimport threading\nthreading.Thread(target=time.sleep, args=[1000], daemon=True).start()\n"
    )
    create(hpo, file, "remembers", trials=1, rounds=3)
    finish(hpo.start(*DRAIN, "--experiment", file))
    check_exact(hpo.url, "remembers", search=1, confirm=2, rounds=3)
    assert len(set(notes(file, "remembers 1"))) == 3, "a process for each test, the first of them for all before too"


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_test_that_fails_is_made_again_and_its_training_is_not(hpo: Hpo, file: Path, is_killed: bool) -> None:
    """Its state after the last epoch is kept until the outcome is stored; so too where the worker is killed by then."""
    create(hpo, file, "moody", trials=1, rounds=1, epochs=3)
    if is_killed:
        (file.parent / "waits").touch()
    worker = hpo.start(*DRAIN, "--experiment", file, "--checkpoint", "60", "--lease", "5")
    if is_killed:
        wait_until(lambda: notes(file, "testing"))
        worker.send_signal(signal.SIGKILL)
        worker.wait()
    else:
        wait_until(lambda: worker.poll() is not None or any(slot.failures for slot in slots_of(hpo, "moody")))
    (file.parent / "mended").touch()
    if is_killed:
        finish(hpo.start(*DRAIN, "--experiment", file))
    else:
        assert "OSError: a file of the test is away" in finish(worker)[1]
    actual = check_exact(hpo.url, "moody", search=1, confirm=2, rounds=1)
    assert len(notes(file, "trained")) == 3 * (1 + 2 + 1)
    (final,) = actual["final"]
    assert final.outcome is not None
    assert (final.attempt, final.failures) == (2, not is_killed)
    assert (final.outcome.epochs, final.outcome.resumed_at) == (3, (3,))
    assert not list((hpo.folder / "hpo.artifacts" / "checkpoints").glob("*"))


def test_what_does_not_stop_is_ended_and_stays_pruned(hpo: Hpo, file: Path) -> None:
    """It would report for ever: after its grace its process ends, with what it has reported; the next one trains on."""
    create(hpo, file, "disobeys", trials=4, rounds=1, epochs=20, pruner="median", startup=1)
    begun = time.monotonic()
    _, err = finish(hpo.start(*DRAIN, "--experiment", file))
    pruned = [slot for slot in all_done(hpo, "disobeys")["search"] if slot.result == "pruned"]
    assert pruned
    assert time.monotonic() - begun > STOP_SECONDS * len(pruned), "none was ended before its grace was over"
    assert err.count("it did not stop within 5 s, so its process was ended") == len(pruned)
    for slot in pruned:
        assert slot.outcome is not None
        assert slot.failures == 0
        assert slot.params is not None
        assert 0 < slot.outcome.epochs < 20
        assert slot.outcome.value == slot.outcome.validation_accuracy[-1]
        assert len(slot.outcome.validation_accuracy) == slot.outcome.epochs
    told = set(notes(file, "told"))
    assert len(told) == len(pruned), "each was told, over and over, in a process that nobody else had after it"
    order = notes(file, "disobeys")
    for process in told:
        assert process not in order[order.index(process) + order.count(process) :]
    assert set(order) - told, "others took their places"
    assert not any(psutil.pid_exists(int(process)) for process in told)


@pytest.mark.long
def test_finished_folds_are_not_trained_again(hpo: Hpo, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL of the worker between folds: the next one goes on with the next fold, to the same value."""
    create(hpo, file, "folds", name="whole", trials=1, rounds=1, folds=4)
    finish(hpo.start(*DRAIN, "--experiment", file))
    undisturbed = results(all_done(hpo, "whole"))
    before = len(notes(file, "fold"))
    create(hpo, file, "folds", name="killed", trials=1, rounds=1, folds=4)
    monkeypatch.setenv("SLOWNESS", "2")
    worker = hpo.start(*DRAIN, "--experiment", file, "--lease", "2")
    wait_until(lambda: any(epoch == 2 for _, epoch, _ in hpo.running()))
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    begun = len(notes(file, "fold"))
    monkeypatch.delenv("SLOWNESS")
    finish(hpo.start(*DRAIN, "--experiment", file))
    assert results(all_done(hpo, "killed")) == undisturbed
    assert len(notes(file, "fold")) - before == before + 1, "the fold in training when it was killed, no other"
    assert begun - before == 3
    (trial,) = (slot for slot in slots_of(hpo, "killed") if slot.kind == "search")
    assert trial.outcome is not None
    assert trial.outcome.resumed_at == (2,)


def all_done(hpo: Hpo, name: str) -> dict[str, list[Slot]]:
    """Everything is done."""
    every = slots_of(hpo, name)
    assert {slot.state for slot in every} == {"done"}
    return {kind: [slot for slot in every if slot.kind == kind] for kind in ("search", "confirm", "final")}


@pytest.mark.long
def test_where_all_diverge_in_confirm_the_study_says_so(hpo: Hpo, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits for `hpo study resume`, and a draining worker does not wait for it."""
    create(hpo, file, "explodes", trials=2, rounds=1)
    finish(hpo.start(*DRAIN, "--max-trials", "2", "--experiment", file))
    monkeypatch.setenv("BAD", "1")
    _, err = finish(hpo.start(*DRAIN, "--experiment", file), 1)
    assert "explodes: no configuration is left, for in confirm each failed or diverged" in err
    confirm = [slot for slot in slots_of(hpo, "explodes") if slot.kind == "confirm"]
    assert {(slot.state, slot.failures) for slot in confirm} == {("failed", 1)}
    assert "it diverged in a confirm round: too steep" in (confirm[0].error or "")
    shown = " ".join(hpo("study", "show", "explodes").stdout.split())
    assert "no configuration is left" in shown
    assert "hpo study resume explodes" in shown
    monkeypatch.delenv("BAD")
    hpo("study", "resume", "explodes")
    finish(hpo.start(*DRAIN, "--experiment", file))
    assert [len(of_kind) for of_kind in all_done(hpo, "explodes").values()][:2] == [2, 4]


def test_what_leaks_is_replaced(hpo: Hpo, file: Path) -> None:
    """Its memory is free again, and the results are all there."""
    create(hpo, file, "leaks", trials=4, rounds=1)
    _, err = finish(hpo.start(*DRAIN, "--experiment", file))
    assert "the memory of a process has grown to " in err
    check_exact(hpo.url, "leaks", search=4, confirm=6, rounds=1)


@pytest.mark.long
def test_models_of_the_same_name_in_two_experiments(hpo: Hpo, file: Path) -> None:
    """Told apart by the experiment: each worker trains its own, one with both trains both."""
    other = file.with_name("steep_lines.py")
    other.write_text(CODE.replace('"straight"', '"steep"').replace("hpo.rmse, hpo.mae", "hpo.mae"))
    create(hpo, file, "line", name="first", trials=2, rounds=1)
    create(hpo, other, "line", name="second", trials=2, rounds=1)
    _, err = finish(hpo.start(*DRAIN, "--experiment", file))
    assert err.count("study second is of experiment steep, with which this worker was not started") == 1
    assert {slot.attempt for slot in slots_of(hpo, "second")} == {0}
    create(hpo, file, "line", name="third", trials=2, rounds=1)
    finish(hpo.start(*DRAIN, "--experiment", file, "--experiment", other))
    for name, metrics in (("first", {"rmse", "mae"}), ("second", {"mae"}), ("third", {"rmse", "mae"})):
        actual = check_exact(hpo.url, name, search=2, confirm=4, rounds=1)
        assert {*actual["search"][0].outcome.metrics} == metrics  # type: ignore[union-attr]  # all are done


def test_code_that_changes_while_a_worker_runs(hpo: Hpo, file: Path) -> None:
    """The worker leaves the study alone and says what to do; started again, it has the same to say."""
    create(hpo, file, "line", trials=1, rounds=1)
    hpo("study", "pause", "line")
    worker = hpo.start("worker", "--device", "cpu", "--experiment", file)
    said = Said(worker)
    wait_until(lambda: said.count("Ctrl-C ends it"))
    file.write_text(CODE.replace("return Line(run.params", "return Line(1.0 * run.params"))
    hpo("study", "resume", "line")
    wait_until(lambda: said.count("has changed since this worker started; start it again"))
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == 128 + signal.SIGTERM
    _, err = finish(hpo.start(*DRAIN, "--experiment", file))
    assert err.count("study line was created with other code of model line than") == 1
    assert {slot.state for slot in slots_of(hpo, "line")} == {"waiting"}
    create(hpo, file, "line", trials=1, rounds=1, accept=True)
    finish(hpo.start(*DRAIN, "--experiment", file))
    check_exact(hpo.url, "line", search=1, confirm=2, rounds=1)
