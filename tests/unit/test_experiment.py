"""Experiments: what one is, how it is found in a user's file, and one line for each mistake."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_matrix  # type: ignore[import-untyped]  # ships no types

import hpo
from hpo.errors import ExperimentError
from hpo.experiment.load import load
from hpo.experiment.rows import RowPool

CANCER = """
import hpo
from sklearn.datasets import load_breast_cancer

def logistic(run):
    from sklearn.linear_model import LogisticRegression
    x, y = run.training
    return LogisticRegression(**run.params).fit(x, y)

cancer = hpo.Experiment(
    "cancer",
    data=hpo.rows(lambda: load_breast_cancer(return_X_y=True), test=0.3),
    metrics=[hpo.accuracy, hpo.log_loss],
    models={"logistic": hpo.Model(logistic, space={"C": hpo.Float(1e-4, 1e4, log=True)}, reference={"C": 1.0})},
)
"""


@pytest.fixture
def file(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file of the user's, under a name of its own, that is forgotten after the test."""
    path = tmp_path / f"mine_{abs(hash(request.node.name))}.py"
    path.write_text(CANCER)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield path
    sys.modules.pop(path.stem, None)


def refused(locator: str | Path) -> str:
    with pytest.raises(ExperimentError) as error:
        load(str(locator))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_an_experiment_is_found_in_a_file(file: Path) -> None:
    """By its file where it is the only one, by its name, and relative to a folder."""
    cancer = load(str(file))
    assert (cancer.name, list(cancer.models), cancer.version) == ("cancer", ["logistic"], 1)
    assert load(f"{file}:cancer") is cancer
    assert load(f"{file.name}:cancer", file.parent) is cancer
    assert list(cancer.model("logistic").parsed_space.parameters) == ["C"]


def test_a_file_may_import_its_neighbours(file: Path) -> None:
    neighbour = file.with_name(f"{file.stem}_parts.py")
    neighbour.write_text(CANCER)
    file.write_text(f"from {neighbour.stem} import cancer as mine\n")
    assert load(str(file)).name == "cancer"
    sys.modules.pop(neighbour.stem)


def test_an_experiment_is_found_in_a_package(file: Path) -> None:
    sys.path.insert(0, str(file.parent))
    assert load(f"{file.stem}:cancer").name == "cancer"


def test_what_cannot_be_loaded_is_one_line(file: Path, tmp_path: Path) -> None:
    """It says where to look: the line of the user's own that led to it."""
    assert refused(tmp_path / "nowhere.py").startswith(f"experiment {tmp_path}/nowhere.py: there is no such file")
    assert refused(":x") == "experiment ':x': write FILE.py, FILE.py:NAME or MODULE:NAME"
    assert refused("no_such_module:x").startswith("experiment no_such_module cannot be imported: ModuleNotFoundError:")
    assert refused(f"{file}:nothing") == f"experiment {file}:nothing: there is no such name; there are cancer"
    assert refused(f"{file}:logistic") == f"experiment {file}:logistic: it is a function; there are cancer"
    sys.modules.pop(file.stem)
    file.write_text("def f():\n    return 1 / 0\n\nf()\n")
    assert refused(file) == (
        f"experiment {file} cannot be imported: ZeroDivisionError: division by zero (look at {file}:2)"
    )
    file.write_text("import json\n\n\ndef settings():\n    return json.loads('{')\n\n\nsettings()\n")
    assert refused(file).endswith(f"(look at {file}:5)"), "not at the library's line"
    file.write_text("x = (\n")
    assert "SyntaxError: '(' was never closed" in refused(file)
    assert f"(look at {file}:1)" in refused(file)
    file.write_text(CANCER.replace("log=True", "log=True, base=10"))
    assert refused(file).endswith(
        f"TypeError: Float.__init__() got an unexpected keyword argument 'base' (look at {file}:14)"
    )
    file.write_text("x = 1\n")
    assert refused(file) == f"experiment {file}: it holds no hpo.Experiment"
    sys.modules.pop(file.stem)
    file.write_text(CANCER + CANCER.replace("cancer = ", "other = "))
    assert refused(file) == f"experiment {file}: it holds several; name one of them: {file}:cancer, {file}:other"


def experiment_of(**changes: Any) -> hpo.Experiment:
    fields: dict[str, Any] = {
        "name": "mine",
        "data": hpo.rows(lambda: ([1], [1]), test=0.3),
        "metrics": [hpo.accuracy],
        "models": {"a": hpo.Model(lambda run: run)},
    }
    return hpo.Experiment(**{**fields, **changes})


@dataclass(frozen=True)
class NoDefault:
    size: int


@dataclass(frozen=True)
class OddType:
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Sizes:
    training: int = 3
    share: float = 0.5
    sort: bool = False


MISTAKES: list[tuple[dict[str, Any], str]] = [
    (
        {"name": "my exp"},
        "experiment 'my exp': its name must be 1 to 40 letters, digits, '_' or '-', the first a letter",
    ),
    ({"metrics": []}, "experiment mine: metrics: at least one is needed, to judge"),
    ({"metrics": [hpo.accuracy, hpo.accuracy]}, "experiment mine: metrics: two are called accuracy"),
    ({"models": {}}, "experiment mine: models: there are none to compare"),
    (
        {"models": {"a b": hpo.Model(lambda run: run)}},
        "experiment mine: models: 'a b' must be 1 to 32 letters, digits, '_' or '-', the first a letter",
    ),
    (
        {"models": {"a": hpo.Model(lambda run: run, published={"f1": 0.9})}},
        "experiment mine: models: a: published names f1, which is none of the metrics",
    ),
    (
        {"data": hpo.Data("d", list, list)},
        "experiment mine: data: with hpo.Data say how items are drawn: draw=... and draw_test=...",
    ),
    ({"options": dict}, "experiment mine: options must be a dataclass whose fields have defaults"),
    ({"options": NoDefault}, "experiment mine: options: size needs a default"),
    ({"options": OddType}, "experiment mine: options: sizes must be an int, a float, a str or a bool"),
    (
        {"defaults": {"budgets": {"trials": 3}}},
        "experiment mine: defaults: 'budgets' is none of budget, protocol, sampler, pruner, with its values by name",
    ),
    ({"draw": 3}, "experiment mine: draw must be a function, not 3"),
    ({"chunk": 0}, "experiment mine: chunk must be at least 1, not 0"),
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_a_wrong_experiment_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError) as error:
        experiment_of(**changes)
    assert str(error.value) == message


def test_options_are_checked_and_reach_the_draw() -> None:
    """What a study's [data] sets; the others have their defaults."""

    def draw(pool: Any, how: hpo.Draw) -> tuple[hpo.Items, hpo.Items]:
        return hpo.Items(pool[: how.options.training]), hpo.Items(pool[how.options.training :])

    mine = experiment_of(
        data=hpo.Data("d", list, list), draw=draw, draw_test=lambda pool, how: hpo.Items(pool), options=Sizes
    )
    assert mine.options_of({}) == Sizes()
    assert mine.options_of({"training": 4, "share": 1}) == Sizes(training=4, share=1)
    training, validation = mine.drawn(np.arange(10), hpo.Draw(seed=1, options=mine.options_of({"training": 4})))
    assert (len(training), len(validation)) == (4, 6)
    for values, message in (
        ({"size": 1}, "experiment mine: data: there is no option 'size'; there are training, share, sort"),
        ({"training": 2.5}, "experiment mine: data: training must be of type int, not 2.5"),
        ({"training": True}, "experiment mine: data: training must be of type int, not True"),
    ):
        with pytest.raises(ExperimentError) as error:
            mine.options_of(values)
        assert str(error.value) == message
    with pytest.raises(ExperimentError, match="experiment mine: draw gave no validation items"):
        mine.drawn(np.arange(3), hpo.Draw(seed=1, options=Sizes()))


def test_draws_of_the_users_are_checked() -> None:
    """What they return is named, in one line."""
    data = hpo.Data("d", list, list)
    mine = experiment_of(data=data, draw=lambda pool, how: pool, draw_test=lambda pool, how: hpo.Items(pool))
    with pytest.raises(ExperimentError, match=r"mine: draw must give two hpo\.Items: training and validation"):
        mine.drawn([1, 2], hpo.Draw(seed=1))
    with pytest.raises(ExperimentError, match=r"mine: draw_test must give hpo\.Items, at least one"):
        mine.test_items([], hpo.Draw(seed=1))
    assert list(mine.test_items([1, 2], hpo.Draw(seed=1)).x) == [1, 2]
    assert list(experiment_of().test_items(RowPool(items=hpo.Items([3])), hpo.Draw(seed=1)).x) == [3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"x": 3}, "items: int is neither an array, a mapping of arrays nor a data frame"),
        ({"x": "text"}, "items: str is neither an array, a mapping of arrays nor a data frame"),
        ({"x": csr_matrix([[1]])}, "items: a sparse matrix has no rows that can be taken one by one; use x.toarray()"),
        ({"x": [1, 2], "y": [1]}, "items: y has 1 entries for 2 items"),
        ({"x": [1], "unit": np.zeros((1, 1, 1))}, "items: unit must be (n,) or (n, u), not (1, 1, 1)"),
        (
            {"x": {"a": [1], "b": [1, 2]}},
            "items: a mapping of equally long arrays is wanted, these have the lengths {'a': 1, 'b': 2}",
        ),
    ],
)
def test_wrong_items_are_one_line(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError) as error:
        hpo.Items(**fields)
    assert str(error.value) == message


def test_a_model_that_is_not_there_is_named() -> None:
    with pytest.raises(ExperimentError, match="experiment mine has no model 'b'; there are a"):
        experiment_of().model("b")


def test_a_reference_outside_its_space_is_refused() -> None:
    with pytest.raises(ExperimentError, match=r"reference: C = 10.0 is outside its space \(0 to 1\)"):
        hpo.Model(lambda run: run, space={"C": hpo.Float(0, 1)}, reference={"C": 10.0})


def test_everything_public_is_there_and_light() -> None:
    """`hpo.X` for each name, and none of it loads torch, Optuna, a database or pandas."""
    code = (
        "import sys, hpo\n"
        "for name in hpo.__all__: getattr(hpo, name)\n"
        "heavy = {'torch', 'optuna', 'sqlalchemy', 'pandas', 'sklearn', 'plotly'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert set(hpo.__all__) < set(dir(hpo))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(hpo.__all__) == set(hpo._HOME)
    with pytest.raises(AttributeError, match="module 'hpo' has no attribute 'nothing'"):
        _ = hpo.nothing
