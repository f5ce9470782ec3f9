"""`hpo experiment check` on a recipe, right and with planted faults; and inputs of a user's own, really trained by."""

from dataclasses import replace
from pathlib import Path

import pytest

from hpo.experiment.items import Draw
from hpo.experiment.load import load
from hpo.experiment.measure import measure
from hpo.experiment.recipes import train_alone
from hpo.experiment.rows import Rows
from hpo.experiment.run import Report, Run
from hpo.training.recipe import Recipe, Tensors
from hpo.worker.check import Finding
from tests.support.checks import Write, findings, writer
from tests.support.commandline import DRAIN, Hpo, finish
from tests.support.exact import check_exact
from tests.support.experiments import create

CODE = """
import hpo
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

class Halved(hpo.Inputs):
    '''One table of half the features on the device, of which items are numbers of rows.'''

    def __init__(self, pool, table=None):
        self.table = torch.as_tensor(np.array(pool.x)[:, ::2]) if table is None else table

    def to(self, device, dtype):
        return Halved(None, self.table.to(device, dtype))

    def index(self, items):
        return torch.arange(len(items), device=self.table.device)

    def batch(self, index):
        return self.table[index]

def network():
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), hpo.dropout(16), nn.Linear(16, 2))

def loss(out, columns, hyper):
    y = columns["y"]
    each = F.cross_entropy(out.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)
    return each.mean(-1), each.mean(-1)

def outputs(out):
    return out

def load():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 8))
    return x, (x[:, 0] + x[:, 2] + rng.normal(size=300) / 2 > 0).astype(int)

halves = hpo.Experiment(
    "halves",
    data=hpo.rows(load, test=0.3),
    metrics=[hpo.cross_entropy, hpo.accuracy],
    models={"net": hpo.Model(
        hpo.Recipe(network, Halved, lambda items: {"y": items.y}, loss, outputs, batch=50),
        space={"learning_rate": hpo.Float(1e-4, 1e-1, log=True), "weight_decay": 1e-4, "dropout": hpo.Float(0.0, 0.6)},
        reference={"learning_rate": 1e-2, "dropout": 0.1},
    )},
)
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write the file with some of it replaced."""
    write = writer(tmp_path, monkeypatch, "halves_by_recipe.py")
    return lambda *changes: write(CODE, changes)


def by_check(file: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings(file)}


def test_a_right_recipe_passes(write: Write) -> None:
    lines = by_check(write())
    assert [line for line in lines.values() if line.level != "ok"] == []
    assert lines["resumed"].text == "equal when killed after epoch 1"
    assert lines["another seed"].text == "differs, as it should"
    assert lines["batches"].text == "outputs do not depend on what is predicted together"
    assert lines["test"].text == "worked; its scores are not shown"


PLANTED = {  # changes; the check that tells of it, and what it says
    "an unseeded generator in the loss": (
        [("return each.mean(-1), each.mean(-1)", "return each.mean(-1), each.mean(-1) + NOISE.normal() * out.sum()")],
        "same seed",
        "something draws from a generator that nobody seeded",
    ),
    "outputs that depend on the batch": (
        [("    return out\n\ndef load", "    return out - out.mean(-2, keepdim=True)\n\ndef load")],
        "batches",
        "outputs depend on which items are predicted together",
    ),
    "a global that the loss remembers by": (
        [
            ("loss(out, columns, hyper):", "loss(out, columns, hyper):\n    CALLS.append(1)"),
            ("return each.mean(-1), each.mean(-1)", "return each.mean(-1), each.mean(-1) + len(CALLS) * out.mean()"),
        ],
        "warm",
        "a training depends on what its process did before",
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_told(write: Write, fault: str) -> None:
    changes, name, text = PLANTED[fault]
    lines = by_check(
        write(("\nclass Halved", "\nNOISE, CALLS = np.random.default_rng(), []\n\nclass Halved"), *changes)
    )
    assert lines[name].level == "BAD"
    assert text in lines[name].text


def test_inputs_of_ones_own_are_trained_by(hpo: Hpo, write: Write) -> None:
    """Through a real worker, to what the same features give as the items' own numbers: losses, value and test."""
    file = write()
    create(hpo, file, "net", trials=2, rounds=1, epochs=3)
    finish(hpo.start(*DRAIN, "--experiment", file))
    actual = check_exact(hpo.url, "net", search=2, confirm=4, rounds=1)
    experiment = load(str(file))
    model, data = experiment.model("net"), experiment.data
    assert isinstance(data, Rows)
    assert isinstance(model.train, Recipe)
    pool = data.split().a
    for slot in actual["search"]:
        assert slot.outcome is not None
        assert slot.params is not None
        training, validation = experiment.drawn(pool, Draw(seed=slot.outcome.seeds.draw))
        losses: list[float] = []

        def keep(report: Report, losses: list[float] = losses) -> bool:
            losses.append(report.numbers["loss"])
            return False

        run = Run(
            params=model.parsed_space.complete(slot.params),
            training=replace(training, x=training.x[:, ::2]),
            seed=slot.outcome.seeds.slot,
            device="cpu",
            threads=1,
            max_epochs=3,
            on_report=keep,
        )
        predictor = train_alone(replace(model.train, inputs=Tensors), run)
        (score, *_) = measure(predictor, replace(validation, x=validation.x[:, ::2]), experiment.metrics)
        assert score is not None
        assert slot.outcome.train_loss == pytest.approx(losses, rel=1e-5)
        assert slot.outcome.value == pytest.approx(score.value, rel=1e-4)
        assert slot.outcome.items == len(validation)
    (final,) = actual["final"]
    assert final.outcome is not None
    assert final.outcome.value < 0.69, "it has learned more than to guess"
