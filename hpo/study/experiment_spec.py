"""Specs of a user's experiment: what it says of itself, its study file and the command line put together."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from hpo.errors import ExperimentError, SpecError
from hpo.experiment.description import Description, ModelDescription
from hpo.experiment.model import check_recipe_space
from hpo.study.labels import PAPER, claims_origin
from hpo.study.spec_errors import explain, near, shown
from hpo.study.study_spec import StudySpec, startup_trials

_TABLES = ("data", "space", "sampler", "pruner", "budget", "protocol", "reference", "paper", "tuned")
_RESOLVED = ("version", "metrics", "model_epochs", "reference_label")  # what the experiment says, and no file changes


def all_specs(description: Description) -> list[StudySpec]:
    """A spec for each model as the experiment has it; SpecError where its defaults do not fit."""
    return [spec_from(description, {"model": name}, description.locator) for name in description.models]


def spec_from(description: Description, tree: Mapping[str, Any], where: str) -> StudySpec:
    """The spec of the tree's `model`: what a study file sets, above the experiment's defaults and what it says.

    SpecError, one line that begins with `where`, where the two do not fit.
    """
    model = _model(description, tree, where)
    for key in _TABLES:
        if not isinstance(tree.get(key, {}), Mapping) and (key, tree[key]) != ("tuned", None):
            raise SpecError(f"{where}: {key}: must be a table of keys and values, not {shown(tree[key])}")
    described = description.models[model]
    if claims_origin(described.label) and described.label not in ("reference", PAPER):
        raise SpecError(f"{where}: model {model}: label {shown(described.label)}: reports say that themselves")
    whole = {
        **{key: value for key, value in tree.items() if key not in ("paper", *_TABLES)},
        **_resolved(description, described),
        "experiment": description.name,
        "model": model,
        "data": _data(description, tree.get("data", {}), where),
        "space": _space(described, model, tree.get("space", {}), where),
        "reference": (reference := _reference(described, tree)),
        "chosen_reference": reference != described.reference,
        **{section: _section(description, tree, section) for section in ("sampler", "pruner", "protocol")},
        "budget": _budget(description, described, tree),
    }
    if tree.get("tuned") is not None:
        whole["tuned"] = dict(tree["tuned"])
    trials = whole["budget"].get("trials")
    if isinstance(trials, int):
        whole["sampler"].setdefault("startup_trials", startup_trials(trials))
    try:
        spec = StudySpec.model_validate(whole)
    except ValidationError as error:
        raise SpecError(f"{where}: {explain(error, StudySpec)}") from error
    if described.needed is not None:
        try:
            check_recipe_space(spec.parsed_space, described.needed, described.structure)
        except ExperimentError as error:
            raise SpecError(f"{where}: space: {error}") from error
    _agrees(spec, tree, where)
    return spec


def _resolved(description: Description, model: ModelDescription) -> dict[str, Any]:
    """What the experiment says of itself."""
    return {
        "version": description.version,
        "metrics": description.metrics,
        "model_epochs": model.epochs,
        "reference_label": model.label,
        "published": model.published,
    }


def _model(description: Description, tree: Mapping[str, Any], where: str) -> str:
    model, models = tree.get("model"), list(description.models)
    if model is None and len(models) == 1:
        return models[0]
    if model is None:
        raise SpecError(f"{where}: model: missing; experiment {description.name} has {', '.join(models)}")
    if not isinstance(model, str) or model not in models:
        close = near(str(model), models)
        raise SpecError(
            f"{where}: experiment {description.name} has no model {shown(model)}; there are {', '.join(models)}{close}"
        )
    return model


def _data(description: Description, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options of the data with what a file sets of them."""
    for name, value in given.items():
        if name not in description.options:
            there = f"there are {', '.join(description.options)}" if description.options else "there are none"
            close = near(name, description.options)
            raise SpecError(f"{where}: data.{name}: experiment {description.name} has no such option; {there}{close}")
        usual = description.options[name]
        if not _same_kind(value, usual):
            raise SpecError(
                f"{where}: data.{name}: must be as {shown(usual)}, which it is by default, not {shown(value)}"
            )
    options = {**description.options, **given}
    return {n: float(v) if isinstance(description.options[n], float) else v for n, v in options.items()}


def _same_kind(value: object, usual: object) -> bool:
    if isinstance(usual, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(usual)


def _space(model: ModelDescription, name: str, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The model's space, single entries of it replaced."""
    for entry in given:
        if entry not in model.space:
            there = f"it has {', '.join(model.space)}" if model.space else "it has none"
            raise SpecError(
                f"{where}: space.{entry}: model {name} has no such hyperparameter; {there}{near(entry, model.space)}"
            )
    return {entry: given.get(entry, described) for entry, described in model.space.items()}


def _reference(model: ModelDescription, tree: Mapping[str, Any]) -> dict[str, Any]:
    return dict(tree.get("reference", tree.get("paper", model.reference)))


def _section(description: Description, tree: Mapping[str, Any], section: str) -> dict[str, Any]:
    return {**description.defaults.get(section, {}), **tree.get(section, {})}


def _budget(description: Description, model: ModelDescription, tree: Mapping[str, Any]) -> dict[str, Any]:
    """The budget: a model with epochs of its own has these, one with nothing to search has no trials."""
    budget = _section(description, tree, "budget")
    budget.setdefault("trials", StudySpec.model_fields["budget"].default.trials)
    if model.epochs is not None:
        budget["epochs"] = model.epochs
    searched = any(isinstance(entry, Mapping) for entry in {**model.space, **tree.get("space", {})}.values())
    return budget if searched else {**budget, "trials": 0}


def _agrees(spec: StudySpec, tree: Mapping[str, Any], where: str) -> None:
    """Raise SpecError where a file, as `study export` writes it, is of another state of the experiment."""
    now = spec.model_dump(mode="json")
    for key in ("experiment", *_RESOLVED):
        if key in tree and tree[key] != now[key] and not (key == "experiment" and is_locator(tree[key])):
            raise SpecError(f"{where}: {key}: {shown(tree[key])} in the file, {shown(now[key])} in the experiment")


def is_locator(experiment: object) -> bool:
    """Whether a file's `experiment` says where it is, and not only what it is called."""
    return isinstance(experiment, str) and (":" in experiment or experiment.endswith(".py"))
