"""Trainings by a recipe in this process: a population with one lane, reported and kept as a function's training is.

n items, k parameters.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hpo.errors import ExperimentError
from hpo.experiment.items import Items
from hpo.experiment.model import Model
from hpo.experiment.run import Diverged, Run
from hpo.experiment.spaces import Value
from hpo.training.dropout import dropouts
from hpo.training.population import LanesFailed, LaneState, Population, Task
from hpo.training.recipe import Recipe
from hpo.training.stacked import CannotStack, stack


class RecipePredictor:
    """What a recipe has trained: called with features, it gives the recipe's outputs."""

    def __init__(self, population: Population) -> None:
        self._population = population

    def __call__(self, x: Any) -> Any:
        """Outputs (n, ...) for the features of n items, on the device."""
        items = Items(x)
        inputs = self._population.inputs_of(items)
        return self._population.predict(self._population.parameters[0], items, inputs).outputs


class RecipeTraining:
    """One training in a lane of its own, with its state as a checkpoint keeps it."""

    def __init__(self, population: Population, task: Task) -> None:
        self._population, self._task = population, task
        population.start(0, task)

    def state_dict(self) -> dict[str, int | Tensor]:
        """Epochs trained, and parameters and both of Adam's moments (k,)."""
        return dict(vars(self._population.state(0)))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        self._population.stop(0)
        self._population.start(0, self._task, LaneState(**state))

    def train_epoch(self) -> float:
        """The loss of an epoch; Diverged where it or the objective is not finite, ExperimentError where it raises."""
        try:
            (report,) = self._population.train_epoch()
        except LanesFailed as failed:
            last = failed.errors[0].strip().splitlines()[-1]
            raise ExperimentError(f"a step of the recipe raised {last}") from failed
        if report.diverged:
            raise Diverged(f"the loss of epoch {report.epoch} is {report.train_loss}")
        return report.train_loss


def train_alone(recipe: Recipe, run: Run) -> RecipePredictor:
    """Train by a recipe as a function would: report every epoch, keep checkpoints, stop where the run says so.

    The training items are all of the pool that the recipe is handed: those that judge it are in no reach of its code.
    """
    task = Task(
        key=0,
        params=_numbers(run.params),
        seed=run.seed,
        epochs=run.max_epochs,
        training=run.training,
        validation=None,
    )
    torch.set_num_threads(run.threads)
    batch = _batch_size(recipe, run.params)
    population = Population(recipe, 1, run.training, samples=len(run.training), batch=batch, device=run.device)
    training, predictor = RecipeTraining(population, task), RecipePredictor(population)
    run.checkpoint(training)
    for _ in run.epochs():
        run.report(predictor, loss=training.train_epoch())
    return predictor


def check_recipe(model: Model, recipe: Recipe) -> None:
    """ExperimentError where the module cannot be trained as lanes of a population, or its dropout has no rate."""
    module = recipe.module()
    model.check_needed(layer.rate for layer in dropouts(module))
    try:
        stack(module)
    except CannotStack as error:
        raise ExperimentError(f"the recipe's module cannot be trained by lane: {error}") from error


def _numbers(params: Mapping[str, Value]) -> dict[str, float]:
    return {name: float(value) for name, value in params.items()}


def _batch_size(recipe: Recipe, params: Mapping[str, Value]) -> int:
    size = params[recipe.batch] if isinstance(recipe.batch, str) else recipe.batch
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ExperimentError(f"a recipe's batch size must be a whole number from 1, not {size!r}")
    return size
