"""What a studies/*.toml may say, and what a person reads where it says something else."""

import json
import math
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import hpo
from hpo.errors import SpecError, UsageError
from hpo.study.spec import HYPERPARAMETERS, MODELS, Protocol, StudySpec, builtin_spec, differences, load_spec, to_toml
from tests.support.specs import specs

STUDIES = Path(__file__).parents[2] / "studies"
PAPER = {
    "learning_rate": 3e-3,
    "weight_decay": 2.5e-5,
    "dropout": 0.15,
    "aux_weight": 1.0,
    "main_weight": 0.5,
}
# A busy machine may draw a spec slowly; that is no fault of the spec.
FEW = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def written(tmp_path: Path, old: str, new: str) -> Path:
    """Write studies/ws.toml with one text replaced."""
    text = (STUDIES / "ws.toml").read_text()
    assert text.count(old) >= 1, f"{old!r} is not in ws.toml: this test would test nothing"
    path = tmp_path / "bad.toml"
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize("model", MODELS)
def test_shipped_studies_are_complete(model: str) -> None:
    """The shipped files say every key themselves, hold the paper's values, and equal the defaults."""
    spec = builtin_spec(model)
    with open(STUDIES / f"{model}.toml", "rb") as file:
        tree = tomllib.load(file)
    unsaid = spec.model_dump(exclude={"tuned", "space"})
    assert {key: value for key, value in tree.items() if key != "space"} == unsaid
    assert spec.name == spec.model == model
    assert spec.paper == {name: PAPER[name] for name in HYPERPARAMETERS[spec.model]}
    assert spec.tuned is None
    assert (spec.budget.trials, spec.budget.epochs, spec.budget.in_flight) == (100, 40, 8)
    assert (spec.protocol.confirm_configurations, spec.protocol.confirm_rounds) == (5, 10)
    assert spec.protocol.final_rounds == 20
    assert spec.sampler.startup_trials == 30
    bare = {"model": model, "space": tree["space"], "paper": tree["paper"]}
    assert StudySpec.model_validate(bare) == spec


@pytest.mark.parametrize("model", MODELS)
def test_paper_lies_inside_the_shipped_space(model: str) -> None:
    """So the search can find what the paper found."""
    spec = builtin_spec(model)
    for name, bounds in spec.space.items():
        assert bounds.low <= spec.paper[name] <= bounds.high


def test_protocols_agree() -> None:
    """Rounds of the shipped studies are paired over the models."""
    assert len({builtin_spec(model).protocol.model_dump_json() for model in MODELS}) == 1


def test_builtin_spec_from_a_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package has its studies inside; a checkout has them at the root."""
    inside = tmp_path / "hpo" / "builtin_studies"
    inside.mkdir(parents=True)
    (inside / "ws.toml").write_text((STUDIES / "ws.toml").read_text().replace("seed = 1", "seed = 77"))
    monkeypatch.setattr(hpo, "__file__", str(tmp_path / "hpo" / "__init__.py"))
    assert builtin_spec("ws").seed == 77


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (
            "trials = 100",
            "trails = 100",
            "budget.trails: unknown key; allowed are trials, epochs, in_flight (did",
        ),
        (
            "[budget]",
            "[bugdet]",
            "bugdet: unknown key; allowed are model, name, seed, space, sampler, pruner, ",
        ),
        ("low = 1e-4", "lwo = 1e-4", "space.learning_rate.lwo: unknown key; allowed are low, high, log (did"),
        ("low = 1e-4, ", "", "space.learning_rate.low: missing"),
        ('model = "ws"', "", "model: missing"),
        ("trials = 100", 'trials = "100"', 'budget.trials: must be a whole number, not "100"'),
        ("trials = 100", "trials = 10.5", "budget.trials: must be a whole number, not 10.5"),
        ("trials = 100", "trials = true", "budget.trials: must be a whole number, not true"),
        ("trials = 100", "trials = -1", "budget.trials: must be at least 0, not -1"),
        ("trials = 100", "trials = 100001", "budget.trials: must be at most 100000, not 100001"),
        ("epochs = 40", "epochs = 0", "budget.epochs: must be at least 1, not 0"),
        ("in_flight = 8", "in_flight = 0", "budget.in_flight: must be at least 1, not 0"),
        ("startup_trials = 30", "startup_trials = -3", "sampler.startup_trials: must be at least 0, not -3"),
        ("final_rounds = 20", "final_rounds = 0", "protocol.final_rounds: must be at least 1, not 0"),
        ("confirm_rounds = 10", "confirm_rounds = 0", "protocol.confirm_rounds: must be at least 1"),
        ("seed = 2019", f"seed = {2**63 - 1}0", f"protocol.seed: must be at most {2**63 - 1}"),
        ("warmup = 0.5", "warmup = 1.5", "pruner.warmup: must be at most 1.0, not 1.5"),
        (
            'name = "tpe"',
            'name = "tep"',
            "sampler.name: must be 'tpe', 'gp' or 'random', not \"tep\" (did you",
        ),
        (
            'model = "ws"',
            'model = "wss"',
            "model: must be 'simple', 'ws' or 'ws-aux', not \"wss\" (did you mean ws?)",
        ),
        (
            'name = "ws"',
            'name = "a:b"',
            "name: must be 1 to 100 letters, digits, '.', '_' or '-', not \"a:b\"",
        ),
        ('name = "ws"', 'name = ""', "name: must be 1 to 100 letters"),
        ('name = "ws"', f'name = "{"x" * 101}"', "name: must be 1 to 100 letters"),
        ('name = "ws"', "name = 5", "name: must be text in quotes, not 5"),
        (
            "low = 1e-4",
            "low = 1",
            "space.learning_rate: low must be below high, but low is 1 and high is 0.03",
        ),
        ("high = 0.6", "high = 0.0", "space.dropout: low must be below high, but low is 0 and high is 0"),
        ("low = 1e-4", "low = 0", "space.learning_rate: log = true needs low above 0, but low is 0"),
        ("low = 0.0", "low = -0.1", "space.dropout.low: must be at least 0 and below 1, not -0.1"),
        ("high = 0.6", "high = 1.0", "space.dropout.high: must be at least 0 and below 1, not 1"),
        ("low = 0.0", "low = nan", "space.dropout.low: must be a finite number, not nan"),
        ("high = 0.6", "high = inf", "space.dropout.high: must be a finite number, not inf"),
        ("low = 0.0", 'low = "0"', 'space.dropout.low: must be a number, not "0"'),
        ("log = true }", "log = 1 }", "space.learning_rate.log: must be true or false, not 1"),
        (
            "dropout = {",
            "dropuot = {",
            "space.dropuot: not a hyperparameter here; model ws has learning_rate, ",
        ),
        ("dropout = 0.15", "dropuot = 0.15", "paper.dropuot: not a hyperparameter here; model ws has"),
        ("dropout = 0.15", "dropout = 0.15\naux_weight = 1", "paper.aux_weight: not a hyperparameter here"),
        ("dropout = 0.15", "", "paper.dropout: missing; model ws has learning_rate, weight_decay, dropout"),
        ("dropout = 0.15", "dropout = 1.0", "paper.dropout: must be at least 0 and below 1, not 1"),
        ("learning_rate = 3e-3", "learning_rate = 0", "paper.learning_rate: must be above 0, not 0"),
        (
            "dropout = 0.15",
            "dropout = 0.15\n[tuned]\ndropout = 0.1",
            "tuned.learning_rate: missing; model ws has",
        ),
        ("seed = 1", "seed = = 1", "not a TOML file: Invalid value (at line "),
        ("[budget]", "[budget", "not a TOML file: Expected ']' at the end of a table declaration"),
        ('model = "ws"', 'model = "ws-aux"', "space.aux_weight: missing; model ws-aux has learning_rate, "),
        ("final_rounds = 20", "final_rounds = 20\nmargin = 0", "protocol.margin: must be above 0, not 0"),
        ("final_rounds = 20", "final_rounds = 20\nlooks = [20, 20]", "protocol.looks: must be numbers of rounds, "),
        ("final_rounds = 20", "final_rounds = 20\nlooks = [30, 60]", "protocol: looks: the first is at final_rounds, "),
        ("final_rounds = 20", "final_rounds = 20\nlooks = 40", "protocol.looks: must be a list"),
        ("dropout = 0.15", 'dropout = "a\\nb"', 'paper.dropout: must be a number, not "a\\nb"'),
    ],
)
def test_wrong_files_are_explained_in_one_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    """Each mistake names the file, the key, and what is allowed."""
    path = written(tmp_path, old, new)
    with pytest.raises(SpecError) as caught:
        load_spec(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {told}")
    assert "\n" not in message
    assert isinstance(caught.value, UsageError)
    assert caught.value.exit_code == 2


def test_a_table_where_a_value_stands(tmp_path: Path) -> None:
    """A value in place of a table is told as such."""
    path = tmp_path / "bad.toml"
    path.write_text('model = "ws"\nspace = 5\nbudget = []\n[paper]\n')
    with pytest.raises(SpecError, match=r"space: must be a table of keys and values, not 5 \(and 1 more\)"):
        load_spec(path)


def test_a_misspelt_key_is_told_before_what_is_missing_for_it(tmp_path: Path) -> None:
    """'model is missing' would send the reader the wrong way."""
    path = written(tmp_path, 'model = "ws"', 'modle = "ws"')
    with pytest.raises(SpecError, match=r"modle: unknown key; .* \(did you mean model\?\) \(and 1 more\)$"):
        load_spec(path)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """No file, a folder, and bytes that are no text."""
    with pytest.raises(SpecError, match=r"nowhere\.toml: no such file"):
        load_spec(tmp_path / "nowhere.toml")
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        load_spec(tmp_path)
    (tmp_path / "bytes.toml").write_bytes(b"seed = 1\n\xff")
    with pytest.raises(SpecError, match="not UTF-8 text at byte 9"):
        load_spec(tmp_path / "bytes.toml")


def test_unknown_model() -> None:
    """An unknown model is told with those that exist."""
    with pytest.raises(SpecError, match=r"no model \"ws-aus\"; there are simple, ws, ws-aux \(did you mean ws-aux"):
        builtin_spec("ws-aus")


def test_the_name_is_the_model_unless_given() -> None:
    """A file without a name is called as its model."""
    tree = builtin_spec("ws").model_dump(exclude={"name"})
    assert StudySpec.model_validate(tree).name == "ws"


def test_options_come_after_the_file() -> None:
    """Each option changes its own key and nothing else."""
    spec = builtin_spec("ws")
    changed = spec.with_options(name="mine", trials=0, epochs=12, rounds=3, seed=5)
    assert (changed.name, changed.seed) == ("mine", 5)
    assert (changed.budget.trials, changed.budget.epochs, changed.protocol.final_rounds) == (0, 12, 3)
    assert len(differences(spec, changed)) == 4
    assert spec.with_options() == spec


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"rounds": 0}, "--rounds: must be at least 1, not 0"),
        ({"trials": -1}, "--trials: must be at least 0, not -1"),
        ({"trials": 100_001}, "--trials: must be at most 100000, not 100001"),
        ({"epochs": 0}, "--epochs: must be at least 1, not 0"),
        ({"seed": -1}, "--seed: must be at least 0, not -1"),
        (
            {"name": "ws:confirm"},
            "--name: must be 1 to 100 letters, digits, '.', '_' or '-', not \"ws:confirm\"",
        ),
    ],
)
def test_wrong_options_are_called_by_their_name(options: dict[str, Any], told: str) -> None:
    """Somebody who typed an option reads that option's name, not a key of a file."""
    with pytest.raises(SpecError) as caught:
        builtin_spec("ws").with_options(**options)
    assert str(caught.value) == told


def test_scaled_down_budgets() -> None:
    """The demo's and the quick budget change the budget alone, and warm-up follows the epochs."""
    spec = builtin_spec("ws-aux")
    demo, quick = spec.demo(), spec.quick()
    assert [line.split(":")[0] for line in differences(spec, demo)] == [
        "sampler.startup_trials",
        "budget.trials",
        "budget.epochs",
        "protocol.confirm_configurations",
        "protocol.confirm_rounds",
        "protocol.final_rounds",
    ]
    assert (demo.budget.trials, demo.budget.epochs, demo.sampler.startup_trials) == (36, 5, 6)
    assert (demo.protocol.confirm_configurations, demo.protocol.confirm_rounds) == (2, 3)
    assert demo.protocol.final_rounds == 10
    assert (quick.budget.trials, quick.budget.epochs, quick.sampler.startup_trials) == (40, 8, 10)
    assert (spec.warmup_epochs, quick.warmup_epochs, demo.warmup_epochs) == (20, 4, 3)
    assert (spec.min_resource_epochs, demo.min_resource_epochs) == (4, 1)


@FEW
@given(specs())
def test_canonical_text_round_trips(spec: StudySpec) -> None:
    """What the database stores gives the same spec, text and digest again."""
    again = StudySpec.from_canonical(spec.canonical())
    assert again == spec
    assert again.canonical() == spec.canonical()
    assert again.digest == spec.digest
    assert differences(spec, again) == []


@FEW
@given(specs())
def test_toml_round_trips(spec: StudySpec) -> None:
    """An exported study reads back as the same one."""
    assert StudySpec.model_validate(tomllib.loads(to_toml(spec))) == spec


@FEW
@given(specs(), st.integers(0, 2**63 - 1))
def test_digest_tells_specs_apart_but_not_names(spec: StudySpec, seed: int) -> None:
    """Another name is the same science, another seed is not."""
    assert spec.with_options(name="another").digest == spec.digest
    other = spec.with_options(seed=seed)
    assert (other.digest == spec.digest) == (seed == spec.seed)
    assert (differences(spec, other) == []) == (seed == spec.seed)


@FEW
@given(specs())
def test_warmup_is_within_the_epochs(spec: StudySpec) -> None:
    """Shares of the epochs are whole epochs, rounded up, never more than there are."""
    assert 0 <= spec.warmup_epochs <= spec.budget.epochs
    assert 1 <= spec.min_resource_epochs <= spec.budget.epochs
    assert spec.warmup_epochs == math.ceil(spec.pruner.warmup * spec.budget.epochs)


def test_the_shipped_digest_is_stable() -> None:
    """Golden: stored results carry this digest; a change of the canonical form would orphan them."""
    golden = "cb17856be97f31c42959fde5a5c4091c7013d84d4f845236313b8b1212a9cfe6"
    assert builtin_spec("ws").digest == golden


def test_looks_are_declared_by_the_study_or_the_command_line(tmp_path: Path) -> None:
    """Without them text and digest are those of before there were any; a demo has its own rounds."""
    spec = builtin_spec("ws")
    assert "looks" not in spec.canonical()
    other = spec.with_options(rounds=10, looks=(10, 20))
    assert (other.protocol.looks, other.protocol.final_rounds) == ((10, 20), 10)
    path = tmp_path / "ws.toml"
    path.write_text(to_toml(other))
    assert load_spec(path) == StudySpec.from_canonical(other.canonical()) == other
    assert other.digest != spec.with_options(rounds=10).digest
    assert other.demo().protocol.looks is None
    with pytest.raises(SpecError, match=r"looks: the first is at final_rounds, that is 30, not at 10"):
        other.with_options(rounds=30)


def test_a_margin_is_the_metrics_unless_the_study_says_otherwise(tmp_path: Path) -> None:
    """One that it says is part of what the study is; without it text and digest are those of before there was one."""
    spec = builtin_spec("ws")
    assert (spec.metric.margin, spec.metric) == (0.005, spec.metrics[0])
    assert "margin" not in spec.canonical()
    path = tmp_path / "ws.toml"
    path.write_text(to_toml(spec).replace("final_rounds = 20", "final_rounds = 20\nmargin = 0.01"))
    other = load_spec(path)
    assert other.metric == replace(spec.metric, margin=0.01)
    assert other.digest != spec.digest
    path.write_text(to_toml(other))
    assert load_spec(path) == StudySpec.from_canonical(other.canonical()) == other


def test_whole_numbers_and_fractions_are_one_spec() -> None:
    """`aux_weight = 1` and `aux_weight = 1.0` mean the same study."""
    tree = json.loads(builtin_spec("ws-aux").canonical())
    assert tree["paper"]["aux_weight"] == 1.0
    tree["paper"]["aux_weight"] = 1
    assert StudySpec.from_canonical(json.dumps(tree)).digest == builtin_spec("ws-aux").digest


def test_differences_say_both_sides() -> None:
    """Every difference has the key, what is stored, and what was asked."""
    old = builtin_spec("ws")
    tuned = {"learning_rate": 1e-3, "weight_decay": 1e-6, "dropout": 0.2}
    new = StudySpec.model_validate({**old.model_dump(), "name": "other", "seed": 3, "tuned": tuned})
    assert differences(old, new) == [
        "seed: 1 in the database, 3 requested",
        "tuned.learning_rate: nothing in the database, 0.001 requested",
        "tuned.weight_decay: nothing in the database, 1e-06 requested",
        "tuned.dropout: nothing in the database, 0.2 requested",
    ]
    assert 'model: "ws" in the database, "simple" requested' in differences(old, builtin_spec("simple"))


@pytest.mark.parametrize(("text", "told"), [("{", "is not JSON"), ("{}", "model: missing"), ("[]", "table")])
def test_damaged_stored_specs(text: str, told: str) -> None:
    """A spec that the database gives back damaged is an error of ours, in one line."""
    with pytest.raises(SpecError, match=told) as caught:
        StudySpec.from_canonical(text)
    assert "\n" not in str(caught.value)


def test_specs_cannot_change() -> None:
    """A spec is a value: nobody changes it under somebody else."""
    with pytest.raises(ValidationError):
        builtin_spec("ws").seed = 2
    with pytest.raises(ValidationError):
        Protocol().final_rounds = 1
