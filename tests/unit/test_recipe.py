"""A recipe as a model of an experiment: what is refused, in a line, before anything is trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import hpo
from hpo.errors import ExperimentError, SpecError
from hpo.experiment.items import Items
from hpo.experiment.prepare import prepared
from hpo.experiment.recipes import train_alone
from hpo.experiment.run import Run
from hpo.experiment.spaces import Hyperparameter, Value
from hpo.study.experiment_spec import spec_from

SPACE: dict[str, Hyperparameter | Value] = {
    "learning_rate": hpo.Float(1e-4, 1e-1, log=True),
    "weight_decay": 0.0,
    "batch_size": 32,
}
REFERENCE: dict[str, Value] = {"learning_rate": 1e-3}
FILE = """
import hpo
from torch import nn

mine = hpo.Experiment(
    "mine",
    data=hpo.rows(lambda: ([[float(i)] for i in range(60)], [i % 2 for i in range(60)]), test=0.3),
    metrics=[hpo.accuracy],
    models={"net": hpo.Model(
        hpo.Recipe(lambda: nn.Sequential(nn.Linear(1, 4), nn.LAYER, nn.Linear(4, 2)), hpo.Tensors,
                   lambda items: {"y": items.y}, None, lambda out: out, batch=8),
        space={"learning_rate": hpo.Float(0.1, 1.0), "weight_decay": 0.0},
        reference={"learning_rate": 0.5},
    )},
)
"""


def recipe(**options: object) -> hpo.Recipe:
    def part(*_: object) -> None:
        raise AssertionError("nothing is trained here")

    return hpo.Recipe(part, part, part, part, part, **options)  # type: ignore[arg-type]  # parts that are not called


def test_what_it_needs_stands_in_the_space() -> None:
    hpo.Model(recipe(), space=SPACE, reference=REFERENCE)
    hpo.Model(recipe(batch=10, optimizer=hpo.Adam(decay=None)), space={"learning_rate": 1e-3})
    with pytest.raises(ExperimentError, match="the recipe needs 'batch_size', which is not in the space; add it"):
        hpo.Model(recipe(), space={"learning_rate": 1e-3, "weight_decay": 0.0})
    with pytest.raises(ExperimentError, match="the recipe needs 'lr'"):
        hpo.Model(recipe(optimizer=hpo.Adam(rate="lr")), space=SPACE, reference=REFERENCE)


def test_its_hyperparameters_are_numbers() -> None:
    hpo.Model(recipe(), space={**SPACE, "weight": hpo.Choice(0, 1)}, reference={**REFERENCE, "weight": 0})
    for space in ({**SPACE, "kind": hpo.Choice("a", "b")}, {**SPACE, "kind": "a"}):
        with pytest.raises(ExperimentError, match="a recipe's hyperparameters are numbers, but 'kind' has texts"):
            hpo.Model(recipe(), space=space, reference={**REFERENCE, "kind": "a"})


@pytest.mark.parametrize("name", ["learning_rate", "weight_decay", "batch_size"])
def test_what_it_needs_is_always_active(name: str) -> None:
    """An inactive one would be 0 in its lane; what the loss alone reads may be conditional."""
    when = {"kind": 1}
    entry: Hyperparameter = hpo.Int(1, 8, when=when) if name == "batch_size" else hpo.Float(1e-4, 1e-1, when=when)
    space = {**SPACE, "kind": hpo.Choice(0, 1), name: entry}
    with pytest.raises(ExperimentError, match=f"needs '{name}' in every training, but it is active only when kind say"):
        hpo.Model(recipe(), space=space, reference={**REFERENCE, "kind": 0})
    weight: dict[str, Hyperparameter | Value] = {"kind": hpo.Choice(0, 1), "weight": hpo.Float(0, 1, when=when)}
    hpo.Model(recipe(), space={**SPACE, **weight}, reference={**REFERENCE, "kind": 0})


@pytest.mark.parametrize(
    ("rate", "message"),
    [("", "needs 'dropout', which is not in the space"), ('hpo.Float(0, 0.5, when={"kind": 1})', "in every training")],
)
def test_so_is_the_rate_of_its_dropout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: str, message: str
) -> None:
    """Known once the module is made: refused when the file is loaded, not after a week of trials."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "mine.py"
    entries = f'"kind": hpo.Choice(0, 1), "dropout": {rate}, ' if rate else ""
    code = FILE.replace("nn.LAYER", "hpo.dropout(4)").replace("space={", f"space={{{entries}")
    file.write_text(code.replace("reference={", 'reference={"kind": 0, ' if rate else "reference={"))
    with pytest.raises(ExperimentError, match=message):
        prepared(str(file))


def test_a_study_file_cannot_take_it_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused when the study is made, in the words of the experiment's own check."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "mine.py"
    code = FILE.replace("nn.LAYER", "hpo.dropout(4)").replace(
        "space={", 'space={"kind": hpo.Choice(0, 1), "dropout": 0.1, '
    )
    file.write_text(code.replace("reference={", 'reference={"kind": 0, '))
    described = prepared(str(file))
    assert described.models["net"].needed == ("learning_rate", "weight_decay", "dropout")
    spec_from(described, {"model": "net", "space": {"dropout": 0.2}}, "a file")
    conditional = {"low": 0.0, "high": 0.5, "when": {"kind": [1]}}
    for entry, message in (
        (conditional, "the recipe needs 'dropout' in every training"),
        ("much", "'dropout' has texts"),
    ):
        with pytest.raises(SpecError, match=f"^a file: space: .*{message}"):
            spec_from(described, {"model": "net", "space": {"dropout": entry}}, "a file")


def test_its_outputs_are_what_is_measured() -> None:
    with pytest.raises(ExperimentError, match="leave predict out"):
        hpo.Model(recipe(), space=SPACE, reference=REFERENCE, predict=lambda predictor, x: x)


def test_another_layer_is_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the layers: torch's dropout is no reason to refuse a recipe."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "mine.py"
    digests = set()
    for layer in ("GELU()", "ReLU()", "Dropout(0.5)"):
        file.write_text(FILE.replace("LAYER", layer))
        digests.add(prepared(str(file)).models["net"].code_digest)
    assert len(digests) == 3


def run_of(training: Items) -> Run:
    """A training of two epochs."""
    return Run(
        params={"learning_rate": 1e-2},
        training=training,
        seed=1,
        device="cpu",
        threads=torch.get_num_threads(),
        max_epochs=2,
        on_report=lambda report: False,
    )


def small_recipe(seen: list[Any], loss: Any) -> hpo.Recipe:
    """A linear model that keeps what its parts are handed."""

    def inputs(pool: Any) -> hpo.Inputs:
        seen.append(pool)
        return hpo.Tensors(pool)

    def columns(table: Any) -> dict[str, Any]:
        seen.append(table)
        return {"y": table.y}

    module, outputs = (lambda: nn.Linear(2, 1)), (lambda out: out)
    return hpo.Recipe(module, inputs, columns, loss, outputs, batch=4, optimizer=hpo.Adam(decay=None))


def squared(out: Tensor, columns: dict[str, Tensor], hyper: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    loss = ((out[..., 0] - columns["y"]) ** 2).mean(-1)
    return loss, loss


def test_its_parts_are_handed_nothing_that_judges() -> None:
    """Only the training items, and to predict, features alone."""
    rng = np.random.default_rng(0)
    training, x = Items(rng.normal(size=(10, 2)), rng.normal(size=10)), rng.normal(size=(3, 2))
    seen: list[Any] = []
    predictor = train_alone(small_recipe(seen, squared), run_of(training))
    assert seen
    assert all(given is training for given in seen)
    seen.clear()
    assert predictor(x).shape == (3, 1)
    assert [(given.y, len(given)) for given in seen] == [(None, 3)]


def test_a_step_that_raises_says_so_in_a_line() -> None:
    """The cause has the whole traceback, with the user's own line."""

    def wrong(out: Tensor, columns: dict[str, Tensor], hyper: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return columns["z"], out

    training = Items(np.zeros((10, 2)), np.zeros(10))
    with pytest.raises(ExperimentError, match=r"^a step of the recipe raised KeyError: 'z'$") as raised:
        train_alone(small_recipe([], wrong), run_of(training))
    assert 'return columns["z"], out' in str(raised.value.__cause__)
