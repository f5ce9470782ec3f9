"""A user's recipe through real workers: from search to a report, equal to its training alone, and after kills."""

import signal
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from hpo.experiment.items import Draw
from hpo.experiment.load import load
from hpo.experiment.measure import measure
from hpo.experiment.recipes import train_alone
from hpo.experiment.rows import Rows
from hpo.experiment.run import Report, Run
from hpo.storage.slots import Slot
from hpo.training.recipe import Recipe
from tests.support.commandline import DRAIN, Hpo, finish, wait_until
from tests.support.exact import check_exact, results
from tests.support.experiments import create

CODE = """
import os, time
import hpo
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

def network():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), hpo.dropout(32), nn.Linear(32, 10))

def loss(out, columns, hyper):
    time.sleep(float(os.environ.get("SLOWNESS", "0")))
    y = columns["y"]
    each = F.cross_entropy(out.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)
    return each.mean(-1), each.mean(-1)

def load():
    x, y = load_digits(return_X_y=True)
    return x[:600] / 16, y[:600]

written = hpo.Experiment(
    "written",
    data=hpo.rows(load, test=0.3),
    metrics=[hpo.accuracy, hpo.cross_entropy],
    models={"mlp": hpo.Model(
        hpo.Recipe(network, hpo.Tensors, lambda items: {"y": items.y}, loss, lambda out: out, batch=50),
        space={"learning_rate": hpo.Float(1e-4, 1e-1, log=True), "weight_decay": 1e-4, "dropout": hpo.Float(0.0, 0.6)},
        reference={"learning_rate": 1e-2, "dropout": 0.1},
    )},
)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's file."""
    path = tmp_path_factory.mktemp("user") / "written_by_recipe.py"
    path.write_text(CODE)
    return path


@pytest.mark.long
def test_killed_it_ends_as_if_undisturbed_and_is_reported(
    hpo: Hpo, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL of a worker and SIGTERM of the next: the same results to the bit, gone on with where they were.

    A trial's result is that of the same training here; and the report says what came of it.
    """
    create(hpo, file, "mlp", trials=2, epochs=6)
    finish(hpo.start(*DRAIN, "--experiment", file))
    whole = check_exact(hpo.url, "mlp", search=2, confirm=4, rounds=2)
    check_equal_to_training_alone(whole["search"][0], file)
    again = Hpo(tmp_path, f"sqlite:///{tmp_path / 'again.db'}")
    create(again, file, "mlp", trials=2, epochs=6)
    monkeypatch.setenv("SLOWNESS", "0.05")
    for number in (signal.SIGKILL, signal.SIGTERM):
        worker = again.start(*DRAIN, "--experiment", file, "--checkpoint", "0", "--lease", "2")
        wait_until(lambda: any(epoch >= 2 and str(worker.pid) in name for _, epoch, name in again.running()))  # noqa: B023  # called before worker changes
        children = psutil.Process(worker.pid).children()
        worker.send_signal(number)
        assert worker.wait() == (-number if number == signal.SIGKILL else 128 + number)
        psutil.wait_procs(children, timeout=20)
    monkeypatch.delenv("SLOWNESS")
    finish(again.start(*DRAIN, "--experiment", file))
    actual = check_exact(again.url, "mlp", search=2, confirm=4, rounds=2)
    assert results(actual) == results(whole)
    assert any(slot.outcome and slot.outcome.resumed_at for of_kind in actual.values() for slot in of_kind)
    again("report", "--out", "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert "mlp" in page
    again.close()


def check_equal_to_training_alone(slot: Slot, file: Path) -> None:
    """A trial's value and curve are those of a population of one in this process, to the rounding of its threads."""
    experiment = load(str(file))
    model, data = experiment.model("mlp"), experiment.data
    assert isinstance(data, Rows)
    assert isinstance(model.train, Recipe)
    assert slot.outcome is not None
    assert slot.params is not None
    pool = data.split().a
    training, validation = experiment.drawn(pool, Draw(seed=slot.outcome.seeds.draw))
    losses: list[float] = []

    def keep(report: Report) -> bool:
        losses.append(report.numbers["loss"])
        return False

    run = Run(
        params=model.parsed_space.complete(slot.params),
        training=training,
        seed=slot.outcome.seeds.slot,
        device="cpu",
        threads=1,
        max_epochs=6,
        on_report=keep,
    )
    scores = measure(train_alone(model.train, run), validation, experiment.metrics)
    assert slot.outcome.train_loss == pytest.approx(losses, rel=1e-5)
    assert slot.outcome.value == pytest.approx(scores[0].value if scores[0] else None, abs=0.02)
    assert slot.outcome.loss == pytest.approx(scores[1].value if scores[1] else None, rel=1e-4)
    assert len(set(slot.outcome.train_loss)) == 6
