"""Experiments: what one is, how it is found in a user's file, and one line for each mistake."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hpo
from hpo.errors import ExperimentError
from hpo.experiment.load import load

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
]


@pytest.mark.parametrize(("changes", "message"), MISTAKES)
def test_a_wrong_experiment_is_one_line(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError) as error:
        experiment_of(**changes)
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
