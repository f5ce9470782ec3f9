"""Studies of a user's experiment from the shell: created, continued, refused, in one line and with nothing lost."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.commandline import DRAIN, Hpo, finish
from tests.support.experiments import slots_of

CODE = """
import hpo
from sklearn.datasets import load_diabetes
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

def ridge(run):
    return Ridge(**run.params).fit(*run.training)

def nearest(run):
    assert run.params["algorithm"] == "brute", "constants are passed"
    assert ("p" in run.params) == (run.params["metric"] == "minkowski"), "active parameters alone"
    return KNeighborsRegressor(**run.params).fit(*run.training)

def mean(run):
    return DummyRegressor(**run.params).fit(*run.training)

sugar = hpo.Experiment(
    "sugar",
    data=hpo.rows(lambda: load_diabetes(return_X_y=True), test=0.3),
    metrics=[hpo.rmse, hpo.mae],
    models={
        "ridge": hpo.Model(ridge, space={"alpha": hpo.Float(1e-4, 100, log=True)}, reference={"alpha": 1.0}),
        "nearest": hpo.Model(
            nearest,
            space={"n_neighbors": hpo.Int(1, 40), "metric": hpo.Choice("euclidean", "minkowski"),
                   "p": hpo.Float(1.0, 4.0, when={"metric": "minkowski"}), "algorithm": "brute"},
            reference={"n_neighbors": 5, "metric": "euclidean"},
            label="library's",
        ),
        "mean": hpo.Model(mean, space={"strategy": "mean"}),
    },
    defaults={"protocol": {"confirm_rounds": 2, "confirm_configurations": 2, "final_rounds": 2}},
)
"""
SMALL = ("--trials", "4")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The user's file, in the folder where they work."""
    path = tmp_path / "sugar_study.py"
    path.write_text(CODE)
    return path


def test_all_models_of_an_experiment_to_the_end(hpo: Hpo, file: Path) -> None:
    """An error is minimised, parameters are conditional, and one model has nothing to search."""
    created = hpo.json("study", "create", "--experiment", file.name, *SMALL)
    assert [(study["name"], study["model"], study["trials"]) for study in created] == [
        ("sugar-ridge", "ridge", 4),
        ("sugar-nearest", "nearest", 4),
        ("sugar-mean", "mean", 0),
    ]
    finish(hpo.start(*DRAIN, "--experiment", file))
    for study in hpo.json("study", "list"):
        assert study["phase"] == "done"
    ridge, nearest, mean = (slots_of(hpo, f"sugar-{model}") for model in ("ridge", "nearest", "mean"))
    assert {slot.label for slot in mean} == {"reference"}
    assert {slot.kind for slot in mean} == {"final"}
    for of_model, label in ((ridge, "reference"), (nearest, "library's")):
        search = [slot for slot in of_model if slot.kind == "search"]
        values = {slot.trial_number: slot.outcome.value for slot in search if slot.outcome}
        confirm = {slot.label for slot in of_model if slot.kind == "confirm"}
        best = sorted((number for number in values if number), key=lambda number: values[number])[:2]
        assert confirm == {label, *(f"trial {number}" for number in best)}, "the lowest errors"
        assert {slot.label for slot in of_model if slot.kind == "final"} <= {label, "tuned"}


def test_a_study_file_says_where_its_experiment_is(hpo: Hpo, file: Path, tmp_path: Path) -> None:
    """Relative to itself, wherever the command runs; its tables are above what the experiment says."""
    folder = tmp_path / "studies"
    folder.mkdir()
    (folder / "mine.toml").write_text(
        'experiment = "../sugar_study.py:sugar"\nmodel = "ridge"\nseed = 3\n'
        "[budget]\ntrials = 7\nmax_seconds = 9.5\n[space]\nalpha = { low = 0.5, high = 5.0 }\n"
    )
    (created,) = hpo.json("study", "create", "--file", folder / "mine.toml")
    assert (created["name"], created["trials"], created["seed"]) == ("sugar-ridge", 7, 3)
    text = hpo("study", "export", "sugar-ridge", "--as-created", "--out", "again.toml")
    assert "written to again.toml" in text.stderr
    line = hpo.refused("study", "create", "--file", "again.toml", code=2)
    assert "'sugar' does not say where it is; write FILE.py:NAME there, or add --experiment FILE.py" in line
    again = hpo("study", "create", "--file", "again.toml", "--experiment", file, "--skip-if-exists")
    assert "study sugar-ridge: exists" in again.stderr
    (renamed,) = hpo.json("study", "create", "--file", "again.toml", "--experiment", file, "--name", "another")
    assert renamed["digest"] == created["digest"]


def test_code_that_changed_is_refused_until_it_is_accepted(hpo: Hpo, file: Path) -> None:
    """Of that model; then workers with the new code serve the study."""
    create = ("study", "create", "--experiment", file, "--model", "ridge", *SMALL)
    hpo(*create)
    file.write_text(CODE.replace("Ridge(**run.params)", "Ridge(**run.params, solver='svd')"))
    for more in ((), ("--skip-if-exists",), ("--dry-run",)):
        line = hpo.refused(*create, *more)
        assert "study sugar-ridge exists with other code of model ridge" in line
        assert "--accept-changes goes on all the same" in line
    assert "study sugar-ridge: exists" in hpo(*create, "--accept-changes").stderr
    finish(hpo.start(*DRAIN, "--experiment", file))
    show = hpo.json("study", "show", "sugar-ridge")
    assert show["phase"] == "done"
    (change,) = show["code_changes"]
    assert change["before"] != change["after"] == show["code_digest"]
    assert change["at"] > 1e9
    words = f"{change['before'][:12]} before, {change['after'][:12]} after"
    assert words in " ".join(hpo("study", "show", "sugar-ridge").stdout.split())
    hpo("report", "--out", "report")
    assert words in (file.parent / "report" / "report.html").read_text()


def test_data_that_changed_are_never_mixed(hpo: Hpo, file: Path) -> None:
    create = ("study", "create", "--experiment", file, "--model", "ridge", *SMALL)
    hpo(*create)
    file.write_text(CODE.replace("test=0.3", "test=0.4"))
    line = hpo.refused(*create, "--accept-changes")
    assert "study sugar-ridge exists with another spec: data: digest " in line


def test_any_configuration_is_evaluated(hpo: Hpo, file: Path) -> None:
    """Of a study with a search, and of one that is created for it."""
    (file.parent / "mine.toml").write_text(
        f'name = "mine"\nexperiment = "{file.name}"\nmodel = "nearest"\n'
        '[tuned]\nn_neighbors = 9\nmetric = "minkowski"\np = 1.5\n'
    )
    assert "(the one to compare with is called library's here)" in hpo.refused(
        "evaluate", "mine.toml", "--label", "paper", code=2
    )
    (first,) = hpo.json("evaluate", "mine.toml", "--rounds", "2")
    assert (first["study"], first["label"], first["added"]) == ("mine", "tuned", 2)
    finish(hpo.start(*DRAIN, "--experiment", file))
    assert hpo.json("study", "show", "mine")["phase"] == "done"
    assert [slot.params for slot in slots_of(hpo, "mine")] == [{"n_neighbors": 9, "metric": "minkowski", "p": 1.5}] * 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--model", "tree"), 'sugar has no model "tree"; there are ridge, nearest, mean'),
        (("--file", "space.toml"), "space.toml: space.beta: model ridge has no such hyperparameter; it has alpha"),
        (("--file", "data.toml"), "data.toml: data.rows: experiment sugar has no such option; there are none"),
        (
            ("--file", "outside.toml"),
            "outside.toml: reference: alpha = 1000000000.0 is outside its space (0.0001 to 100 (log))",
        ),
        (("--file", "gp.toml"), 'study sugar-nearest: sampler "gp": it cannot search a space with conditions'),
        (("--file", "ridge.toml", "--model", "mean"), "--model mean: ridge.toml is a study of model ridge"),
        (("--name", "one"), "--name names one study; with several models each takes its model's name"),
    ],
)
def test_what_does_not_fit_is_one_line_and_makes_no_database(
    hpo: Hpo, file: Path, tmp_path: Path, words: tuple[str, ...], told: str
) -> None:
    head = 'experiment = "sugar"\nmodel = "ridge"\n'
    files: dict[str, Any] = {
        "ridge": head,
        "space": f"{head}[space]\nbeta = 1",
        "data": f"{head}[data]\nrows = 1",
        "outside": f"{head}[reference]\nalpha = 1e9",
        "gp": 'experiment = "sugar"\nmodel = "nearest"\n[sampler]\nname = "gp"',
    }
    for name, text in files.items():
        (tmp_path / f"{name}.toml").write_text(text)
    line = hpo.refused("study", "create", "--experiment", file, *words, code=2)
    assert told in line
    assert not (tmp_path / "hpo.db").exists()


def test_an_experiment_that_is_not_there(hpo: Hpo) -> None:
    line = hpo.refused("study", "create", "--experiment", "nowhere.py", code=2)
    assert "there is no such file" in line
