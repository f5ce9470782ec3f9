"""A user's recipe through real workers: from search to a report, equal to its training alone, and after kills."""

import math
import signal
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hpo.experiment.items import Draw
from hpo.experiment.load import load
from hpo.experiment.measure import measure
from hpo.experiment.recipes import train_alone
from hpo.experiment.rows import Rows
from hpo.experiment.run import SEED_BITS, Report, Run
from hpo.storage.slots import Slot
from hpo.training import streams
from hpo.training.dropout import Dropout, set_masks
from hpo.training.kernels import selection
from hpo.training.mapped import module_initialisation
from hpo.training.recipe import Recipe
from hpo.worker.child import ChildProcess, Ended
from tests.support.commandline import DRAIN, Hpo, finish, wait_until
from tests.support.exact import check_exact, results
from tests.support.experiments import create, slots_of

CODE = """
import os, time
import hpo
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

def network():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), hpo.dropout(32), nn.Linear(32, 10))

def dropping():
    return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10))

def normed(width, activation):
    return nn.Sequential(
        nn.Linear(64, width), nn.BatchNorm1d(width), getattr(nn, activation)(), hpo.dropout(width), nn.Linear(width, 10)
    )

def loss(out, columns, hyper):
    time.sleep(float(os.environ.get("SLOWNESS", "0")))
    with open(os.environ.get("LANES", os.devnull), "a") as lanes:
        print(len(out), file=lanes)
    if float(hyper["dropout"].max()) > float(os.environ.get("DEADLY", "1")):
        os._exit(9)
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
    ), "drops": hpo.Model(
        hpo.Recipe(dropping, hpo.Tensors, lambda items: {"y": items.y}, loss, lambda out: out, batch=50),
        space={"learning_rate": hpo.Float(1e-4, 1e-1, log=True), "weight_decay": 1e-4, "dropout": 0.0},
        reference={"learning_rate": 1e-2},
    ), "norm": hpo.Model(
        hpo.Recipe(
            normed, hpo.Tensors, lambda items: {"y": items.y}, loss, lambda out: out, batch=50,
            structure=("width", "activation"),
            optimizer=hpo.SGD(momentum="momentum", nesterov=True, clip=1.0, schedule=hpo.Cosine(warmup=0.1)),
        ),
        space={
            "learning_rate": hpo.Float(1e-3, 1e-1, log=True), "weight_decay": 1e-4, "dropout": hpo.Float(0.0, 0.6),
            "momentum": hpo.Float(0.5, 0.95), "width": hpo.Int(16, 32, step=16),
            "activation": hpo.Choice("ReLU", "Tanh"),
        },
        reference={"learning_rate": 5e-2, "dropout": 0.1, "momentum": 0.9, "width": 32, "activation": "ReLU"},
    ), "bare": hpo.Model(
        hpo.Recipe(
            lambda: nn.Linear(64, 10), hpo.Tensors, lambda items: {"y": items.y}, loss, lambda out: out, batch=50,
            optimizer=hpo.SGD(),
        ),
        space={"learning_rate": hpo.Float(1e-3, 1e-1, log=True), "weight_decay": 1e-4, "dropout": 0.0},
        reference={"learning_rate": 5e-2},
    )},
)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's file."""
    path = tmp_path_factory.mktemp("user") / "written_by_recipe.py"
    path.write_text(CODE)
    return path


def test_lanes_of_one_child(hpo: Hpo, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three trials train side by side in one process, and give what they give alone; final rounds train apart.

    One whose step ends the process fails alone: those beside it go on in processes of their own.
    """
    monkeypatch.setenv("LANES", str(tmp_path / "lanes"))
    create(hpo, file, "mlp", trials=6, epochs=4)
    finish(hpo.start(*DRAIN, "--experiment", file))
    alone = check_exact(hpo.url, "mlp", search=6, confirm=6, rounds=2)
    assert {*(tmp_path / "lanes").read_text().split()} == {"1"}
    (tmp_path / "lanes").unlink()
    beside = Hpo(tmp_path, f"sqlite:///{tmp_path / 'beside.db'}")
    create(beside, file, "mlp", trials=6, epochs=4)
    log = finish(beside.start(*DRAIN, "--experiment", file, "--population", "3"))[1]
    lanes = check_exact(beside.url, "mlp", search=6, confirm=6, rounds=2)
    assert {*(tmp_path / "lanes").read_text().split()} >= {"1", "3"}
    assert "Traceback" not in log
    for one, other in zip(lanes["search"], alone["search"], strict=True):
        assert one.params == other.params
        assert one.outcome is not None
        assert other.outcome is not None
        assert one.outcome.train_loss == pytest.approx(other.outcome.train_loss, rel=1e-4)
        assert one.outcome.value == pytest.approx(other.outcome.value, abs=0.02)

    rates = sorted(float(slot.params["dropout"]) for slot in alone["search"] if slot.params)
    monkeypatch.setenv("DEADLY", str((rates[-2] + rates[-1]) / 2))
    deadly = Hpo(tmp_path, f"sqlite:///{tmp_path / 'deadly.db'}")
    create(deadly, file, "mlp", trials=6, epochs=4)
    log = finish(deadly.start(*DRAIN, "--experiment", file, "--population", "3"))[1]
    assert "trainings go on in processes of their own" in log
    search = {slot.idx: slot for slot in slots_of(deadly, "mlp") if slot.kind == "search"}
    for other in alone["search"]:
        assert other.params is not None
        assert other.outcome is not None
        slot = search[other.idx]
        if other.params["dropout"] == rates[-1]:
            assert slot.state == "failed"
            assert "ended with exit code 9" in (slot.error or "")
        else:
            assert slot.failures == 0
            assert slot.outcome is not None
            assert slot.outcome.train_loss == pytest.approx(other.outcome.train_loss, rel=1e-4)
    for command in (beside, deadly):
        command.close()


@pytest.mark.parametrize("asked", ["auto", "off"])
def test_a_record_says_which_kernels_a_recipe_used(hpo: Hpo, file: Path, asked: str) -> None:
    """In a child: Adam and dropout have some, gradient descent on a dense layer has none. Final rounds say it too."""
    there = selection.state(torch.device("cpu"))
    none = there if there.startswith("none") else f"none ({there} has none for its layers)"
    expected = {"mlp": there, "bare": none} if asked == "auto" else {"mlp": "switched off", "bare": "switched off"}
    for model, kernels in expected.items():
        create(hpo, file, model, trials=1, epochs=1)
        finish(hpo.start(*DRAIN, "--experiment", file, "--study", model, "--kernels", asked))
        outcomes = [slot.outcome for slot in slots_of(hpo, model)]
        assert {outcome.versions["kernels"] for outcome in outcomes if outcome is not None} == {kernels}
        assert {slot.kind for slot in slots_of(hpo, model)} == {"search", "confirm", "final"}


def test_lanes_of_several_structures(hpo: Hpo, file: Path, tmp_path: Path) -> None:
    """BatchNorm's statistics, momenta and schedules are each lane's; trials of one structure share a population."""
    create(hpo, file, "norm", trials=6, epochs=3)
    finish(hpo.start(*DRAIN, "--experiment", file))
    alone = check_exact(hpo.url, "norm", search=6, confirm=6, rounds=2)["search"]
    assert len({(slot.params["width"], slot.params["activation"]) for slot in alone if slot.params}) > 1
    beside = Hpo(tmp_path, f"sqlite:///{tmp_path / 'beside.db'}")
    create(beside, file, "norm", trials=6, epochs=3)
    log = finish(beside.start(*DRAIN, "--experiment", file, "--population", "4"))[1]
    assert "WARNING" not in log
    for slot, other in zip(
        check_exact(beside.url, "norm", search=6, confirm=6, rounds=2)["search"], alone, strict=True
    ):
        assert slot.params == other.params
        assert slot.outcome is not None
        assert other.outcome is not None
        assert slot.outcome.train_loss == pytest.approx(other.outcome.train_loss, rel=1e-4)
        assert slot.outcome.loss == pytest.approx(other.outcome.loss, rel=1e-3)
    by_structure = {(slot.params["width"], slot.params["activation"]): slot for slot in alone if slot.params}
    for slot in by_structure.values():
        check_equal_to_the_plain_loop(slot, file)
    beside.close()


def test_what_cannot_be_run_for_several_lanes_is_named_in_the_workers_log(hpo: Hpo, file: Path, tmp_path: Path) -> None:
    """torch's dropout: trained all the same, to the same results as alone."""
    create(hpo, file, "drops", trials=3, epochs=2)
    finish(hpo.start(*DRAIN, "--experiment", file))
    alone = check_exact(hpo.url, "drops", search=3, confirm=6, rounds=2)["search"]
    beside = Hpo(tmp_path, f"sqlite:///{tmp_path / 'beside.db'}")
    create(beside, file, "drops", trials=3, epochs=2)
    log = finish(beside.start(*DRAIN, "--experiment", file, "--population", "3"))[1]
    warnings = [line for line in log.splitlines() if "WARNING" in line]
    assert warnings
    assert all("train one at a time" in line and "Dropout (2): " in line for line in warnings)
    search = check_exact(beside.url, "drops", search=3, confirm=6, rounds=2)["search"]
    for slot, other in zip(search, alone, strict=True):
        assert slot.outcome is not None
        assert other.outcome is not None
        assert slot.outcome.train_loss == other.outcome.train_loss
    beside.close()


def test_an_order_behind_lanes_is_not_taken_for_one_of_them(file: Path, tmp_path: Path) -> None:
    """A final round that is ordered while the last lane still trains is trained to itself, and tested."""
    folder = tmp_path / "pools"
    subprocess.run([sys.executable, "-m", "hpo.experiment.prepare", str(file), str(folder)], check=True)
    with (tmp_path / "log").open("wb") as log:
        child = ChildProcess(str(file), folder, device="cpu", threads=1, log=log)
    params = {"learning_rate": 0.01, "weight_decay": 1e-4, "dropout": 0.1}
    common = {"model": "mlp", "params": params, "seed": 5, "draw_seed": 6, "options": {}, "fold": 0, "folds": 1}
    common |= {"max_epochs": 2, "device": "cpu", "threads": 1, "checkpoints": None}
    child.tell("train", {**common, "id": "lane", "lanes": 2, "tested": False})
    child.tell("train", {**common, "id": "round", "lanes": 1, "tested": True})
    child.tell("test", {"id": "round", "seed": 5, "draw_seed": 6, "options": {}})
    told = []
    while not isinstance(answer := child.poll(120), Ended):
        assert answer is not None
        told.append((answer.values.get("id"), answer.kind))
        if answer.kind == "epoch":
            child.tell("reply", {"id": answer.values["id"], "stop": False})
        if answer.kind == "tested":
            child.close()
    of_lane, of_round = ([kind for name, kind in told if name == one] for one in ("lane", "round"))
    assert of_lane == ["epoch", "epoch", "trained"]
    assert of_round[-2:] == ["trained", "tested"]
    assert told.index(("lane", "trained")) < told.index(("round", "epoch"))


@pytest.mark.long
@pytest.mark.parametrize(("population", "model"), [("1", "mlp"), ("3", "mlp"), ("3", "norm")])
def test_killed_it_ends_as_if_undisturbed_and_is_reported(
    hpo: Hpo, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, population: str, model: str
) -> None:
    """SIGKILL of a worker and SIGTERM of the next: the same results to the bit, gone on with where they were.

    A trial's result is that of the same training here; and the report says what came of it.
    """
    create(hpo, file, model, trials=2, epochs=6)
    finish(hpo.start(*DRAIN, "--experiment", file, "--population", population))
    whole = check_exact(hpo.url, model, search=2, confirm=4, rounds=2)
    check_equal_to_training_alone(whole["search"][0], file, model)
    again = Hpo(tmp_path, f"sqlite:///{tmp_path / 'again.db'}")
    create(again, file, model, trials=2, epochs=6)
    monkeypatch.setenv("SLOWNESS", "0.05")
    for number in (signal.SIGKILL, signal.SIGTERM):
        worker = again.start(
            *DRAIN, "--experiment", file, "--checkpoint", "0", "--lease", "2", "--population", population
        )
        wait_until(lambda: any(epoch >= 2 and str(worker.pid) in name for _, epoch, name in again.running()))  # noqa: B023  # called before worker changes
        children = psutil.Process(worker.pid).children()
        worker.send_signal(number)
        assert worker.wait() == (-number if number == signal.SIGKILL else 128 + number)
        psutil.wait_procs(children, timeout=20)
    monkeypatch.delenv("SLOWNESS")
    finish(again.start(*DRAIN, "--experiment", file, "--population", population))
    actual = check_exact(again.url, model, search=2, confirm=4, rounds=2)
    assert results(actual) == results(whole)
    assert any(slot.outcome and slot.outcome.resumed_at for of_kind in actual.values() for slot in of_kind)
    again("report", "--out", "report")
    page = (tmp_path / "report" / "report.html").read_text()
    assert model in page
    again.close()


def check_equal_to_the_plain_loop(slot: Slot, file: Path) -> None:
    """A trial of `norm`: its losses are those of torch's own SGD and schedule, one batch after the other."""
    experiment = load(str(file))
    data, params, outcome = experiment.data, slot.params, slot.outcome
    assert isinstance(data, Rows)
    assert params is not None
    assert outcome is not None
    training, _ = experiment.drawn(data.split().a, Draw(seed=outcome.seeds.draw))
    x, y = torch.as_tensor(training.x, dtype=torch.float32), torch.as_tensor(training.y, dtype=torch.int64)
    width, seed, batch, epochs = int(params["width"]), outcome.seeds.slot % 2**SEED_BITS, 50, 3

    def make() -> nn.Module:
        activation = getattr(nn, str(params["activation"]))()
        return nn.Sequential(
            nn.Linear(64, width), nn.BatchNorm1d(width), activation, Dropout(width), nn.Linear(width, 10)
        )

    model = make()
    model.load_state_dict(module_initialisation(make, seed))
    rate, drop = float(params["learning_rate"]), torch.tensor([float(params["dropout"])])
    sgd = torch.optim.SGD(
        model.parameters(), lr=rate, momentum=float(params["momentum"]), weight_decay=1e-4, nesterov=True
    )
    steps, step, losses = epochs * math.ceil(len(x) / batch), 0, []
    order_key, dropout_key = (torch.tensor([streams.key(seed, purpose)]) for purpose in ("order", "dropout"))
    for epoch in range(epochs):
        keys = streams.step_keys(order_key, torch.tensor([epoch]))
        total = 0.0
        for rows in streams.permutations(keys, streams.counters(len(x)))[0].split(batch):
            masks = streams.keep_masks(
                streams.step_keys(dropout_key, torch.tensor([step])),
                streams.mask_counters(len(rows) * width),
                streams.thresholds(drop),
            )
            set_masks(model, masks[0], len(rows))
            loss = F.cross_entropy(model(x[rows]), y[rows])
            sgd.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            done = step / steps
            falling = (1 + math.cos(math.pi * (done - 0.1) / 0.9)) / 2
            sgd.param_groups[0]["lr"] = rate * (done / 0.1 if done < 0.1 else falling)
            sgd.step()
            step += 1
            total += float(loss.detach()) * len(rows)
        losses.append(total / len(x))
    assert outcome.train_loss == pytest.approx(losses, rel=1e-4)


def check_equal_to_training_alone(slot: Slot, file: Path, name: str) -> None:
    """A trial's value and curve are those of a population of one in this process, to the rounding of its threads."""
    experiment = load(str(file))
    model, data = experiment.model(name), experiment.data
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
