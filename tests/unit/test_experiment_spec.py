"""Specs of users' experiments: resolved, read back without the experiment, one line where something does not fit."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hpo.errors import SpecError
from hpo.experiment.spaces import Float, Value
from hpo.results.queries import shown_label
from hpo.study.experiment_spec import spec_from
from hpo.study.spec import StudySpec, differences, load_spec, to_toml
from tests.support.described import ACCURACY, RMSE, described, described_model, described_spec

MODELS = ["svm", "flat", "own", "mean"]


@pytest.mark.parametrize("model", MODELS)
def test_a_stored_spec_is_whole(model: str) -> None:
    """It comes back with every value's kind and the order of its hyperparameters, from its text alone."""
    spec = described_spec(model, data={"rows": 7})
    again = StudySpec.from_canonical(spec.canonical())
    assert again == spec
    assert (again.canonical(), again.digest) == (spec.canonical(), spec.digest)
    assert list(again.parsed_space.parameters) == list(spec.parsed_space.parameters)
    assert (again.experiment, again.version, again.model, again.name) == ("exp", 3, model, f"exp-{model}")
    assert (again.metric, again.tie_breaker) == (RMSE, ACCURACY)
    assert again.data == {"rows": 7, "share": 0.5, "kind": "all", "shuffled": True}
    for name, value in again.reference.items():
        assert type(value) is type(spec.reference[name])


def test_parents_come_first_and_constants_apart() -> None:
    space = described_spec("svm").parsed_space
    assert list(space.parameters).index("kernel") < list(space.parameters).index("degree")
    assert space.constants == {"tolerance": 1e-3, "solver": "plain"}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("with_tuned", [False, True])
def test_both_written_formats_read_back_beside_the_experiment(model: str, with_tuned: bool) -> None:
    spec = described_spec(model)
    if with_tuned:
        spec = spec.model_copy(update={"tuned": dict(spec.reference)})
    for tree in (tomllib.loads(to_toml(spec)), json.loads(spec.model_dump_json(indent=2))):
        assert spec_from(described(), tree, "a file") == spec


def test_long_choices_and_any_text_are_toml(tmp_path: Path) -> None:
    """Values may hold quotes, lines and letters of any alphabet; study files have no long lines."""
    values = [*(f"a rather long value, number {i}" for i in range(30)), '"\\\n\t\x7f', "μ🙂", ""]
    models = {"long": described_model({"größe": Float(0, 1)}, {"größe": 0.5})}
    plain = {"größe": {"values": values}}
    spec = spec_from(
        described(models=models), {"model": "long", "space": plain, "reference": {"größe": values[-2]}}, ""
    )
    path = tmp_path / "study.toml"
    path.write_text(to_toml(spec))
    with pytest.raises(SpecError, match="metrics: missing"):  # and no complaint about its lines
        load_spec(path)
    assert spec_from(described(models=models), tomllib.loads(path.read_text()), "a file") == spec


def test_whole_numbers_and_fractions_are_one_spec() -> None:
    """In the bounds and the configurations of ranges of floats; a range of whole numbers keeps its own."""
    spec = described_spec("flat", space={"rate": {"low": 0, "high": 2}}, reference={"rate": 1, "depth": 3})
    same = described_spec("flat", space={"rate": {"low": 0.0, "high": 2.0}}, reference={"rate": 1.0, "depth": 3})
    assert (spec, spec.digest) == (same, same.digest)
    assert [type(value) for value in spec.reference.values()] == [float, int]


def test_the_file_is_above_the_experiments_defaults() -> None:
    defaults = {"budget": {"trials": 60, "epochs": 5}, "protocol": {"final_rounds": 30}}
    tree = {
        "model": "flat",
        "budget": {"trials": 10, "max_seconds": 1.5},
        "protocol": {"folds": 4},
        "space": {"rate": {"low": 0.2, "high": 0.4}},
        "paper": {"rate": 0.3, "depth": 1},
    }
    spec = spec_from(described(defaults=defaults), tree, "a file")
    assert (spec.budget.trials, spec.budget.epochs, spec.budget.max_seconds) == (10, 5, 1.5)
    assert (spec.protocol.final_rounds, spec.protocol.folds, spec.steps) == (30, 4, 4)
    assert spec.parsed_space.parameters["rate"] == Float(0.2, 0.4)
    assert spec.reference == {"rate": 0.3, "depth": 1}, "[paper] reads on"


@pytest.mark.parametrize(("trials", "startup"), [(100, 30), (60, 30), (59, 29), (12, 6), (1, 0)])
def test_half_the_trials_start_up_where_they_are_few(trials: int, startup: int) -> None:
    assert described_spec("flat", budget={"trials": trials}).sampler.startup_trials == startup
    assert described_spec("flat").with_options(trials=trials).sampler.startup_trials == startup


def test_a_file_may_say_how_many_start_up() -> None:
    spec = described_spec("flat", budget={"trials": 40}, sampler={"startup_trials": 3})
    assert spec.with_options(trials=80).sampler.startup_trials == 3


def test_a_model_without_anything_to_search() -> None:
    """No trials, whatever is asked for; what its training gets is the constants."""
    spec = described_spec("mean", budget={"trials": 40})
    for changed in (spec, spec.with_options(trials=12), spec.demo(), spec.quick()):
        assert changed.budget.trials == 0
    assert spec.parsed_space.complete(spec.reference) == {"quantile": 0.5}
    fixed = described_spec("flat", space={"rate": 0.1, "depth": 2}, reference={})
    assert fixed.budget.trials == 0


def test_a_model_with_epochs_of_its_own() -> None:
    spec = described_spec("own", budget={"epochs": 3})
    for changed in (spec, spec.with_options(epochs=9), spec.demo()):
        assert (changed.budget.epochs, changed.model_epochs) == (7, 7)
    assert spec.reference_label == "scikit-learn's"


@pytest.mark.parametrize(
    ("tree", "told"),
    [
        ({"model": "svn"}, 'experiment exp has no model "svn"; there are svm, flat, own, mean (did you mean svm?)'),
        ({}, "model: missing; experiment exp has svm, flat, own, mean"),
        (
            {"model": "flat", "space": {"rat": 1}},
            "space.rat: model flat has no such hyperparameter; it has rate, depth",
        ),
        ({"model": "mean", "space": {"x": 1}}, "space.x: model mean has no such hyperparameter; it has quantile"),
        ({"model": "flat", "space": {"rate": {"low": 1}}}, "space: rate: high is missing; Float has high, log, low"),
        ({"model": "flat", "space": {"rate": {"low": 2, "high": 1}}}, "space: rate: Float: low must be below high"),
        ({"model": "flat", "space": {"rate": []}}, "space: rate: [] is neither a text, a finite number, True nor"),
        ({"model": "flat", "space": 5}, "space: must be a table of keys and values, not 5"),
        (
            {"model": "flat", "reference": {"rate": 2.0, "depth": 3}},
            "reference: rate = 2.0 is outside its space (0 to 1)",
        ),
        ({"model": "flat", "reference": {"rate": 0.1}}, "reference: depth is missing (1 to 9)"),
        ({"model": "flat", "reference": {"rate": "x", "depth": 1}}, "reference: rate = 'x' is outside its space"),
        ({"model": "flat", "tuned": {"rate": 0.1, "depth": 99}}, "tuned: depth = 99 is outside its space (1 to 9)"),
        ({"model": "flat", "data": {"row": 1}}, "data.row: experiment exp has no such option; there are rows, share,"),
        ({"model": "flat", "data": {"rows": 1.5}}, "data.rows: must be as 100, which it is by default, not 1.5"),
        ({"model": "flat", "data": {"shuffled": 1}}, "data.shuffled: must be as true, which it is by default, not 1"),
        (
            {"model": "flat", "budget": {"trails": 1}},
            "budget.trails: unknown key; allowed are trials, epochs, in_flight",
        ),
        ({"model": "flat", "budget": {"max_seconds": 0}}, "budget.max_seconds: "),
        ({"model": "flat", "protocol": {"folds": 0}}, "protocol.folds: must be at least 1, not 0"),
        ({"model": "flat", "protocol": {"batch_size": 5}}, "protocol.batch_size: unknown key; allowed are seed, folds"),
        ({"model": "flat", "colour": 1}, "colour: unknown key; allowed are experiment, version, model, name, seed"),
        ({"model": "flat", "version": 2}, "version: 2 in the file, 3 in the experiment"),
        ({"model": "flat", "experiment": "other"}, 'experiment: "other" in the file, "exp" in the experiment'),
        ({"model": "flat", "name": "a:b"}, "name: must be 1 to 100 letters, digits"),
    ],
)
def test_what_does_not_fit_is_one_line(tree: dict[str, Any], told: str) -> None:
    with pytest.raises(SpecError) as caught:
        spec_from(described(), tree, "mine.toml")
    assert str(caught.value).startswith(f"mine.toml: {told}")
    assert "\n" not in str(caught.value)


def test_a_reference_is_the_models_or_a_files() -> None:
    """A file that repeats the model's chooses none; a study of before that was recorded keeps its digest."""
    shipped = described_spec("flat")
    repeated = described_spec("flat", reference=dict(shipped.reference))
    chosen = described_spec("flat", reference={**shipped.reference, "depth": 1}, chosen_reference=False)
    assert [spec.has_shipped_reference for spec in (shipped, repeated, chosen)] == [True, True, False]
    before = chosen.model_copy(update={"chosen_reference": False})
    assert "chosen_reference" not in before.canonical()
    assert (differences(before, chosen), before.digest) == ([], chosen.digest)


def test_an_override_moves_the_reference_out() -> None:
    """Told where it happens: the file gives a [reference] too, or another range."""
    with pytest.raises(SpecError, match=r"reference: rate = 0\.5 is outside its space \(0\.6 to 1\)"):
        described_spec("flat", space={"rate": {"low": 0.6, "high": 1.0}})


def labelled(label: str) -> StudySpec:
    models = {"one": described_model({"rate": Float(0, 1)}, {"rate": 0.5}, label=label)}
    return spec_from(described(models=models), {"model": "one"}, "x")


@pytest.mark.parametrize("label", ["trial 3", "", "x" * 65, "a\nb"])
def test_labels_that_slots_need_are_not_the_references(label: str) -> None:
    with pytest.raises(SpecError, match="reference_label: must be 1 to 64 letters"):
        labelled(label)


@pytest.mark.parametrize("label", ["tuned", "published", "Published", "as published", "As-Published", "Paper"])
def test_a_reference_is_not_called_what_it_is_not(label: str) -> None:
    with pytest.raises(SpecError, match=r"^x: model one: label .*: reports say that themselves$"):
        labelled(label)


def test_labels_of_before_they_were_reserved_are_shown_as_labels() -> None:
    """Rows of an older database that somebody called the paper's, or published."""
    spec = labelled("paper")
    chosen = spec.model_copy(update={"chosen_reference": True})
    assert [shown_label(spec, label) for label in ("paper", "tuned", "mine", None)] == ["paper", "tuned", "mine", None]
    assert shown_label(chosen, "paper") == "reference"
    assert shown_label(labelled("usual"), "paper") == "labelled paper"
    assert shown_label(spec, "Published") == "labelled Published"


def test_differences_between_experiments_and_spaces() -> None:
    spec = described_spec("flat")
    wider = described_spec("flat", space={"depth": {"low": 1, "high": 12, "int": True}})
    assert differences(spec, wider) == ["space.depth.high: 9 in the database, 12 requested"]
    assert differences(spec, spec) == []
    assert spec.digest != wider.digest


def test_options_count_in_the_digest_and_names_do_not() -> None:
    spec = described_spec("flat")
    assert described_spec("flat", data={"rows": 5}).digest != spec.digest
    assert spec.with_options(name="another").digest == spec.digest


@pytest.mark.parametrize(
    "damage",
    [
        {"metrics": []},
        {"metrics": [{"name": "x", "kind": 1}]},
        {"metrics": 5},
        {"space": {"a": {"low": 1}}},
        {"version": "1"},
    ],
)
def test_damaged_stored_specs(damage: dict[str, Value]) -> None:
    tree = json.loads(described_spec("flat").canonical()) | damage
    with pytest.raises(SpecError, match=f"the spec stored in the database: {next(iter(damage))}: ") as caught:
        StudySpec.from_canonical(json.dumps(tree))
    assert "\n" not in str(caught.value)
