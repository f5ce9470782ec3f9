"""`hpo experiment check`: it finds what would cost a week, and passes what is right; with real processes throughout."""

import json
import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest

from hpo.cli import experiment as commands
from hpo.experiment.prepare import prepared
from hpo.worker import check as checks
from hpo.worker.check import Finding
from tests.support.checks import Write, findings, writer

RIGHT = """
import hpo
import numpy as np

{head}

def load():
    rng = np.random.default_rng(0)
    x = rng.gamma(2.0, size=(300, 4))
    return x, np.sin(x).sum(1) + rng.normal(size=300) / 10

def features(x, weights):
    return np.tanh(x @ weights)

def train(run):
    x, y = run.training
    weights = np.random.default_rng(run.seed).normal(size=(4, 20))
    fitted = np.linalg.lstsq(features(x, weights), y, rcond=None)[0]
    for epoch in run.epochs():
        run.report(lambda x: features(x, weights) @ fitted, loss=0.0)
    return lambda x: features(x, weights) @ fitted

def deterministic(run):
    x, y = run.training
    return lambda x: np.full(len(x), y.mean())

mine = hpo.Experiment(
    "mine",
    data=hpo.rows(load, test=0.3),
    metrics=[hpo.rmse, hpo.mae],
    models={{"net": hpo.Model(train, space={{"c": hpo.Float(0, 1)}}, reference={{"c": 0.5}}), {models}}},
)
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write the file with some of it replaced."""
    write = writer(tmp_path, monkeypatch, "mine.py")
    return lambda *changes, head="", models="": write(RIGHT.format(head=head, models=models), changes)


def command(folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "hpo", *words], cwd=folder, capture_output=True, text=True)


def before_trainings(file: Path) -> list[Finding]:
    return list(takewhile(lambda line: not line.model, checks.check(prepared(str(file)), [])[0]))


def wrong(file: Path) -> dict[str, str]:
    """What is bad or notable, by check."""
    return {finding.check: finding.text for finding in findings(file) if finding.level != "ok"}


def test_what_is_right_passes(write: Write) -> None:
    """A random method and a deterministic one; each check of the list has a line."""
    file = write(models='"mean": hpo.Model(deterministic)')
    lines = findings(file)
    assert [line for line in lines if line.level == "BAD"] == []
    assert {line.check for line in lines} <= set(checks.CHECKS)
    net = [line.check for line in lines if line.model == "net"]
    assert net == [check for check in checks.CHECKS if check in net]
    assert len(net) == 13
    texts = {(line.model, line.check): line.text for line in lines}
    assert re.search(r" s; the other checks take about \d+ s$", texts["net", "trains"])
    assert texts["net", "same seed"] == "equal in every output"
    assert texts["net", "another seed"] == "differs, as it should"
    assert texts["net", "epochs"] == "2, each reported once"
    assert texts["mean", "another seed"].startswith("changes nothing: a deterministic method")
    assert texts["mean", "space"] == "nothing to tune: the reference alone is tested"


KEPT = """
    class State:  # which forgets `fitted`
        epochs = 0

        def state_dict(self):
            return {"epochs": self.epochs}

        def load_state_dict(self, state):
            self.epochs = state["epochs"]

    kept = State()
    run.checkpoint(kept)
    for epoch in run.epochs():
        run.report(loss=0.0)"""
Changes = list[tuple[str, str]]
PLANTED: dict[str, tuple[str, Changes, str, str]] = {  # head of the file, changes; the line that tells it
    "an unseeded generator": (
        "",
        [("default_rng(run.seed)", "default_rng()")],
        "same seed",
        "something draws from a generator that nobody seeded",
    ),
    "a global that remembers": (
        "CALLS = []",
        [("size=(4, 20))", "size=(4, 20)) + len(CALLS); CALLS.append(run)")],
        "warm",
        "a training depends on what its process did before",
    ),
    "a validation item in training through a global": (
        "",
        [("x, y = run.training\n    weights", "x, y = X, Y\n    weights"), ("mine = ", "X, Y = load()\nmine = ")],
        "withheld",
        "the training reads the data past run.training",
    ),
    "the data loaded again in a training": (
        "",
        [("x, y = run.training\n    weights", "x, y = load()\n    weights")],
        "withheld",
        "the training loads the data past run.training",
    ),
    "an epoch counted twice": (
        "",
        [("loss=0.0)", "loss=0.0); run.report(loss=1.0)")],
        "epochs",
        "epoch 1 is reported 2 times",
    ),
    "state not kept": (
        "",
        [
            ("    for epoch in run.epochs():", KEPT),
            (
                "run.report(lambda x: features(x, weights) @ fitted, loss=0.0)",
                "fitted = fitted * 0.9; kept.epochs += 1",
            ),
        ],
        "resumed",
        "not all of the training's state is kept, or loaded",
    ),
    "the seed ignored": (
        "",
        [("default_rng(run.seed)", "default_rng(3)")],
        "another seed",
        "changes nothing: a seed is fixed in the code (mine.py:17 np.random.default_rng(3)); use run.seed",
    ),
    "rows scaled together": (
        "",
        [("    return x, np.sin(x)", "    return (x - x.mean(0)) / x.std(0), np.sin(x)")],
        "data",
        "has mean 0 over all rows: what centred it has seen the test",
    ),
    "a scaler fitted on all rows": (
        "from sklearn.preprocessing import StandardScaler",
        [("mine = ", "scaler = StandardScaler().fit(load()[0])\nmine = ")],
        "data",
        "scaler in mine.py was fitted when the file was imported, to rows that judge",
    ),
    "the target among the inputs": (
        "",
        [("    return x, np.sin(x).sum(1) + rng", "    x[:, 3] = 3 - x[:, 2]\n    return x, x[:, 2] + 0 * rng")],
        "data",
        "column 2 of x, column 3 of x among the inputs tells the target exactly: is it the target itself?",
    ),
    "a predictor that depends on its batch": (
        "",
        [("return lambda x: features(x, weights) @", "return lambda x: features(x - x.mean(0), weights) @")],
        "batches",
        "outputs depend on which items are predicted together",
    ),
    "one item in both pools": (
        "",
        [
            ("    return x, np.sin(x).sum(1)", "    x[1] = x[0]\n    return table(x), np.sin(x).sum(1)"),
            ("normal(size=300) / 10", "normal(size=300) * 0"),
            (
                "def features(x, weights):",
                "def table(x): return {'x': x, 'is_test': np.arange(300) % 2}\n"
                "def features(x, weights):\n    x = x['x']",
            ),
            ("test=0.3", "test='is_test'"),
        ],
        "data",
        "1 different rows stand in both pools",
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(write: Write, fault: str) -> None:
    """By its line of the table; nothing else is called bad. What the data show is known before any training."""
    head, changes, check, text = PLANTED[fault]
    file = write(*changes, head=head)
    lines = before_trainings(file) if check == "data" else findings(file)
    assert text in " ".join(line.text for line in lines if line.check == check and line.level != "ok"), lines
    assert {line.check for line in lines if line.level == "BAD"} <= {check}


def test_globals_as_long_as_the_data_are_told(write: Write) -> None:
    """Before any training; one that is read by none is no fault."""
    file = write(("mine = ", "X, Y = load()\nmine = "))
    (line,) = [line for line in before_trainings(file) if line.check == "data"]
    assert (line.level, line.text) == (
        "note",
        "X, Y in mine.py: as long as the data; trainings that read such globals see what judges them",
    )


def test_a_training_whose_state_is_kept_passes(write: Write) -> None:
    """Killed at a checkpoint and resumed, it ends as the undisturbed one."""
    keep = KEPT.replace('{"epochs": self.epochs}', '{"epochs": self.epochs, "fitted": self.fitted}')
    keep = keep.replace('self.epochs = state["epochs"]', 'self.epochs, self.fitted = state["epochs"], state["fitted"]')
    file = write(
        ("    for epoch in run.epochs():", keep.replace("kept = State()", "kept = State()\n    kept.fitted = fitted")),
        ("run.report(lambda x: features(x, weights) @ fitted, loss=0.0)", "kept.fitted = kept.fitted * 0.9"),
        (
            "    return lambda x: features(x, weights) @ fitted",
            "    return lambda x: features(x, weights) @ kept.fitted",
        ),
    )
    assert wrong(file) == {}
    (line,) = [line for line in findings(file) if line.check == "resumed"]
    assert line.text == "equal when killed after epoch 1"


def test_a_training_that_fails_is_told_with_the_line_to_look_at(write: Write) -> None:
    file = write(("lstsq(", "lstsk("))
    assert wrong(file) == {
        "trains": f"AttributeError: module 'numpy.linalg' has no attribute 'lstsk' (look at {file}:18)"
    }


def test_the_command(write: Write, tmp_path: Path) -> None:
    """A line a check, then what it costs and what was not checked; exit code 1 where something is wrong."""
    done = command(tmp_path, "experiment", "check", str(write()), "--format", "json")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert {finding["level"] for finding in printed["findings"]} == {"ok"}
    assert printed["fewest_rounds"] == 6
    assert printed["costs"][0]["trainings"] == 200
    done = command(tmp_path, "experiment", "check", str(write(("default_rng(run.seed)", "default_rng()"))))
    assert done.returncode == 1
    (bad,) = [line for line in done.stdout.splitlines() if line.startswith("BAD")]
    assert bad.split()[1:4] == ["net", "same", "seed"]
    assert "not checked: " in done.stdout
    done = command(tmp_path, "experiment", "check", str(write()), "--model", "forest")
    assert (done.returncode, done.stderr) == (2, "hpo: experiment mine has no model 'forest'; there are net\n")


@pytest.mark.long
def test_a_new_experiment_passes_its_check(write: Write, tmp_path: Path) -> None:
    """What the template writes, unchanged."""
    assert command(tmp_path, "experiment", "new", "wines").returncode == 0
    assert [line for line in findings(tmp_path / "wines.py") if line.level != "ok"] == []


def test_a_new_experiment(write: Write, tmp_path: Path) -> None:
    """The template loads, and nothing in it is suspect; it writes over nothing, and hides no module."""
    assert command(tmp_path, "experiment", "new", "wines").returncode == 0
    assert [line.check for line in before_trainings(tmp_path / "wines.py")] == ["loads"]
    for name, message in (
        ("wines", "hpo: wines.py is there already; take another name, or delete it"),
        ("numpy", "hpo: a module called numpy is installed, which numpy.py would hide; take another name"),
        ("my-exp", "hpo: 'my-exp' cannot be an experiment's name: take letters, digits and '_', a letter first"),
    ):
        done = command(tmp_path, "experiment", "new", name)
        assert (done.returncode, done.stderr.strip()) == (2, message)


def test_the_default_of_the_command_is_that_of_the_check() -> None:
    assert commands.CHECK_EPOCHS == checks.EPOCHS
