"""A user's trainings in a child process: whatever their code does, the worker gets an answer or learns of its end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest
from sklearn.datasets import load_breast_cancer  # type: ignore[import-untyped]  # ships no types
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # ships no types

import hpo
from hpo.experiment import pool_files
from hpo.experiment.items import Draw
from hpo.experiment.messages import Message
from hpo.experiment.rows import Rows
from hpo.worker.child import ChildProcess, Ended
from tests.support.commandline import wait_until

CODE = """
import ctypes, os, signal, sys, time
import hpo
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

def fit(run, **more):
    x, y = run.training
    return LogisticRegression(max_iter=3000, **run.params, **more).fit(x, y)

def logistic(run):
    print("what a user prints")
    return fit(run)

def epochs(run):
    for epoch in run.epochs():
        model = fit(run)
        run.report(model, loss=1 / (epoch + 1), draw=np.random.random())
    return model

def raises(run): return fit(run).nothing
def diverges(run): raise hpo.Diverged("no answer")
def segfault(run): ctypes.string_at(0)
def exits(run): os._exit(3)
def hangs(run):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        time.sleep(10_000)
    while True: pass
def garbles(run): os.write(int(sys.argv[4]), b"not a message\\n"); time.sleep(10_000)

space = {"C": hpo.Float(1e-4, 1e4, log=True)}
cancer = hpo.Experiment(
    "cancer",
    data=hpo.rows(lambda: load_breast_cancer(return_X_y=True), test=0.3),
    metrics=[hpo.accuracy, hpo.log_loss],
    models={f.__name__: hpo.Model(f, space=space, reference={"C": 1.0})
            for f in (logistic, epochs, raises, diverges, segfault, exits, hangs, garbles)},
)
"""
TRAIN = {
    "model": "logistic",
    "params": {"C": 0.1},
    "seed": 5,
    "draw_seed": 6,
    "fold": 0,
    "folds": 1,
    "max_epochs": 3,
    "device": "cpu",
    "threads": 1,
}
Start = Callable[[], ChildProcess]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The user's file, and the folder with its pools."""
    file = tmp_path_factory.mktemp("user") / "cancer_of_tests.py"
    file.write_text(CODE)
    folder = tmp_path_factory.mktemp("pools") / "cancer"
    subprocess.run([sys.executable, "-m", "hpo.experiment.prepare", str(file), str(folder)], check=True)
    return file, folder


@pytest.fixture
def start(prepared: tuple[Path, Path], tmp_path: Path) -> Iterator[Start]:
    """A child that is ready."""
    file, folder = prepared
    children = []
    with (tmp_path / "log").open("wb") as log:

        def started() -> ChildProcess:
            child = ChildProcess(str(file), folder, device="cpu", threads=1, log=log)
            children.append(child)
            assert answer(child).kind == "ready"
            return child

        yield started
        for child in children:
            child.kill()


def answer(child: ChildProcess) -> Message:
    event = child.poll(120)
    assert isinstance(event, Message), event
    return event


def train(child: ChildProcess, **changes: Any) -> Message:
    child.tell("train", {**TRAIN, **changes})
    return answer(child)


def test_a_training_is_what_it_is_without_a_child(prepared: tuple[Path, Path], start: Start, tmp_path: Path) -> None:
    """The same rows, the same score, the test's items one by one; then the process has ended."""
    _, folder = prepared
    child = start()
    trained = train(child)
    assert trained.kind == "trained", trained.values
    child.tell("test", {"seed": 5, "draw_seed": 6})
    tested = answer(child)
    end = child.poll(60)
    assert isinstance(end, Ended)
    assert end.why == "the process that trained ended with exit code 0"
    data = hpo.rows(lambda: load_breast_cancer(return_X_y=True), test=0.3)
    assert isinstance(data, Rows)
    split = data.split()
    training, validation = data.draw(split.a, Draw(seed=6))
    fitted = LogisticRegression(max_iter=3000, C=0.1).fit(*training)
    assert trained.values["scores"]["accuracy"] == fitted.score(*validation)
    assert tested.values["scores"]["accuracy"] == fitted.score(*split.b.items)
    assert tested.values["items"] == len(split.b.items) == len(tested.arrays["accuracy"])
    assert tested.arrays["accuracy"].mean() == fitted.score(*split.b.items)
    assert json.loads((folder / "description.json").read_text())["data_digest"] == split.digest
    assert len(pool_files.load(folder / "a").items) == len(split.a.items)
    assert (tmp_path / "log").read_text() == "what a user prints\n"


def test_items_of_an_own_draw_are_known_by_what_they_hold(tmp_path: Path) -> None:
    """Two rounds draw other test items: the same item has the same unit in both, another item another one."""
    file, folder = tmp_path / "halves_of_tests.py", tmp_path / "halves"
    half = "lambda b, draw: b.items.take(draw.rng('half').permutation(len(b.items))[: len(b.items) // 2])"
    file.write_text(CODE.replace("metrics=[", f"draw_test={half},\n    metrics=["))
    subprocess.run([sys.executable, "-m", "hpo.experiment.prepare", str(file), str(folder)], check=True)
    units, rows = [], []
    pool = pool_files.load(folder / "b").items
    for seed in (1, 2):
        with (tmp_path / "log").open("wb") as log:
            child = ChildProcess(str(file), folder, device="cpu", threads=1, log=log)
        assert answer(child).kind == "ready"
        train(child)
        child.tell("test", {"seed": 5, "draw_seed": seed})
        units.append(answer(child).arrays["unit"].tolist())
        child.close()
        drawn = Draw(seed=seed).rng("half").permutation(len(pool))[: len(pool) // 2]
        rows.append([pool.x[i].tobytes() for i in drawn])
    assert {*rows[0]} & {*rows[1]}
    assert {*rows[0]} - {*rows[1]}
    unit_of = dict(zip([*rows[0], *rows[1]], [*units[0], *units[1]], strict=True))
    assert [unit_of[row] for row in rows[0]] == units[0]
    assert len({*unit_of.values()}) == len(unit_of)


def test_epochs_are_reported_and_stopped(start: Start) -> None:
    """The curve has the validation's scores; the global generators do not notice that it is measured."""
    child = start()
    curves = []
    for stop_at in (3, 2):
        child.tell("train", {**TRAIN, "model": "epochs"})
        curve = []
        while (message := answer(child)).kind == "epoch":
            curve.append(message.values)
            child.tell("reply", {"stop": message.values["epoch"] == stop_at})
        assert message.kind == "trained", message.values
        assert [values["epoch"] for values in curve] == list(range(1, stop_at + 1))
        assert curve[-1]["scores"]["accuracy"] == message.values["scores"]["accuracy"]
        curves.append([values["numbers"]["draw"] for values in curve])
    assert curves[0][:2] == curves[1], "warm or fresh, a training draws the same"
    assert len(set(curves[0])) == 3


def test_what_goes_wrong_in_a_training_is_told_and_the_child_goes_on(start: Start) -> None:
    child = start()
    failed = train(child, model="raises")
    assert failed.kind == "failed"
    assert failed.values["why"].startswith(
        "AttributeError: 'LogisticRegression' object has no attribute 'nothing' (look"
    )
    assert "cancer_of_tests.py:" in failed.values["why"]
    assert train(child, model="diverges").kind == "diverged"
    assert "is no good" not in train(child, params={"C": -1.0}).values["why"]
    assert train(child).kind == "trained"


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("segfault", "the process that trained was ended by SIGSEGV"),
        ("exits", "the process that trained ended with exit code 3"),
        ("garbles", "the process that trained was ended by SIGKILL (a message cannot be read: "),
    ],
)
def test_a_child_that_dies_is_noticed(start: Start, model: str, why: str) -> None:
    child = start()
    child.tell("train", {**TRAIN, "model": model})
    end = child.poll(60)
    assert isinstance(end, Ended)
    assert end.why.startswith(why)


def group_of(child: ChildProcess) -> list[int]:
    pid = child._process.pid
    return [process.pid for process in psutil.process_iter() if _group(process.pid) == pid]


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def test_a_hang_that_ignores_signals_is_ended_with_what_it_started(start: Start) -> None:
    child = start()
    child.tell("train", {**TRAIN, "model": "hangs"})
    wait_until(lambda: len(group_of(child)) == 3)  # with its watcher
    child.kill()
    assert isinstance(child.poll(60), Ended)
    wait_until(lambda: not group_of(child))


def test_a_worker_that_dies_takes_its_children_with_it(prepared: tuple[Path, Path], tmp_path: Path) -> None:
    """Killed, it says nothing; what the user's code has started ends too."""
    file, folder = prepared
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom hpo.worker.child import ChildProcess\n"
        f"child = ChildProcess({str(file)!r}, Path({str(folder)!r}), device='cpu', threads=1, log=open('log', 'wb'))\n"
        f"child.poll(60); child.tell('train', {{**{TRAIN!r}, 'model': 'hangs'}})\n"
        "print(child._process.pid, flush=True); time.sleep(10_000)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert worker.stdout is not None
    group = int(worker.stdout.readline())
    members = wait_until(lambda: [p.pid for p in psutil.process_iter() if _group(p.pid) == group][1:])
    assert members
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    wait_until(lambda: not [p for p in psutil.process_iter() if _group(p.pid) == group and p.status() != "zombie"])


def test_data_that_cannot_be_loaded_are_one_line(tmp_path: Path) -> None:
    file = tmp_path / "broken_of_tests.py"
    file.write_text(CODE.replace("load_breast_cancer(return_X_y=True)", "1 / 0"))
    command = [sys.executable, "-m", "hpo.experiment.prepare", str(file), str(tmp_path / "pools")]
    assert subprocess.run(command, check=False).returncode == 2
    refused = json.loads((tmp_path / "pools" / "refused.json").read_text())
    assert refused["why"].startswith(
        f"experiment {file}: its data cannot be loaded: ZeroDivisionError: division by zero"
    )
