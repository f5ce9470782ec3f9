"""A model of an experiment: its search space, its reference configuration, and how it is trained."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo.errors import ExperimentError
from hpo.experiment.spaces import Choice, Hyperparameter, Space, Value
from hpo.training.recipe import Recipe

Train = Callable[[Any], Any] | Recipe  # (run) -> predictor
Predict = Callable[[Any, Any], Any]  # (predictor, x) -> outputs


@dataclass(frozen=True)
class Model:
    """How one of the compared models is trained, and what of it is tuned.

    `train` gets a run (its parameters, its training items, its seed) and returns a predictor, or is a recipe by which
    hpo trains a torch module; `predict` gives the predictor's outputs for items that it has not seen. `reference` is
    the configuration that would be used without tuning: it is tried first, confirmed, and tested beside the winner.
    With nothing in the space there is no search.
    """

    train: Train
    space: Mapping[str, Hyperparameter | Value] = field(default_factory=dict)
    reference: Mapping[str, Value] = field(default_factory=dict)
    predict: Predict | None = None  # None: `hpo.experiment.predict.default`
    epochs: int | None = None  # a model's own; None: the study's budget
    label: str = "reference"  # what the report calls the reference configuration
    published: Mapping[str, float] = field(default_factory=dict)  # by metric: what somebody else reported of it
    new_process: bool = False  # for every training; else processes stay warm between trainings

    def __post_init__(self) -> None:
        if isinstance(self.train, Recipe):
            check_recipe_space(self.parsed_space, self.train.names, self.train.structure)
            if self.predict is not None:
                raise ExperimentError("predict: a recipe says by its outputs what is measured; leave predict out")
        elif not callable(self.train):
            raise ExperimentError(f"train must be a function of a run or a hpo.Recipe, not {self.train!r}")
        if self.epochs is not None and self.epochs < 1:
            raise ExperimentError(f"epochs must be at least 1, not {self.epochs}")
        self.parsed_space.check(self.reference, "reference")

    def fit(self, run: Any) -> Any:
        """Train in this process; returns the predictor."""
        if isinstance(self.train, Recipe):
            from hpo.experiment.recipes import train_alone

            return train_alone(self.train, run)
        return self.train(run)

    @property
    def code(self) -> tuple[Any, ...]:
        """The functions that it is trained and predicts with."""
        return (*self.train.parts, self.predict) if isinstance(self.train, Recipe) else (self.train, self.predict)

    @property
    def parsed_space(self) -> Space:
        """The space, checked, its constants apart."""
        return Space.of(self.space)


def check_recipe_space(space: Space, needed: Iterable[str], structure: Collection[str] = ()) -> None:
    """ExperimentError where a recipe lacks a hyperparameter that it needs in every training, or has one with texts.

    Those that its module's structure is made from may be texts.
    """
    for name in needed:
        if name not in space.parameters and name not in space.constants:
            raise ExperimentError(
                f"the recipe needs {name!r}, which is not in the space; add it, a plain value makes it a constant"
            )
        if name in space.parameters and (when := space.parameters[name].when):
            raise ExperimentError(
                f"the recipe needs {name!r} in every training, but it is active only when {' and '.join(when)} say so; "
                "leave out its `when`"
            )
    for name, entry in {**space.parameters, **space.constants}.items():
        values = entry.values if isinstance(entry, Choice) else [entry]
        if name not in structure and any(isinstance(value, str) for value in values):
            raise ExperimentError(
                f"a recipe's hyperparameters are numbers, but {name!r} has texts; name it in `structure` if the module "
                "is made from it, or train by a function"
            )
