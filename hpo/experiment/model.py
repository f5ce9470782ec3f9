"""A model of an experiment: its search space, its reference configuration, and how it is trained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hpo.errors import ExperimentError
from hpo.experiment.spaces import Hyperparameter, Space, Value

Train = Callable[[Any], Any]  # (run) -> predictor
Predict = Callable[[Any, Any], Any]  # (predictor, x) -> outputs


@dataclass(frozen=True)
class Model:
    """How one of the compared models is trained, and what of it is tuned.

    `train` gets a run (its parameters, its training items, its seed) and returns a predictor; `predict` gives the
    predictor's outputs for items that it has not seen. `reference` is the configuration that would be used without
    tuning: it is tried first, confirmed, and tested beside the winner. With nothing in the space there is no search.
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
        if not callable(self.train):
            raise ExperimentError(f"train must be a function of a run, not {self.train!r}")
        if self.epochs is not None and self.epochs < 1:
            raise ExperimentError(f"epochs must be at least 1, not {self.epochs}")
        Space.of(self.space).check(self.reference, "reference")

    @property
    def parsed_space(self) -> Space:
        """The space, checked, its constants apart."""
        return Space.of(self.space)
