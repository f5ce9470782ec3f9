"""Trainings by a recipe in this process: lanes of a population, reported and kept as a function's training is.

n items, k parameters.
"""

from collections.abc import Mapping
from typing import Any

import torch

from hpo.errors import ExperimentError
from hpo.experiment.items import Items
from hpo.experiment.run import Diverged, Run
from hpo.experiment.spaces import Value
from hpo.training.dropout import dropouts
from hpo.training.population import EpochReport, LanesFailed, LaneState, Population, Task
from hpo.training.recipe import Recipe


class RecipePredictor:
    """What a recipe has trained: called with features, it gives the recipe's outputs."""

    def __init__(self, population: Population, lane: int) -> None:
        self._population, self._lane = population, lane

    @property
    def kernels(self) -> str:
        """Which kernels the training used, or why none, in words."""
        return self._population.kernels

    def __call__(self, x: Any) -> Any:
        """Outputs (n, ...) for the features of n items, on the device."""
        items = Items(x)
        population, lane = self._population, self._lane
        buffers = {name: values[lane] for name, values in population.buffers.items()}
        return population.predict(
            population.parameters[lane], items, population.inputs_of(items), buffers=buffers
        ).outputs


class RecipeTraining:
    """One training in a lane of its own, with its state as a checkpoint keeps it."""

    def __init__(self, population: Population, lane: int, run: Run) -> None:
        self._population, self._lane, self._task = population, lane, task_of(run)
        population.start(lane, self._task)

    def state_dict(self) -> dict[str, Any]:
        """Epochs trained, parameters and the optimizer's moments (k,), the module's buffers by name."""
        return dict(vars(self._population.state(self._lane)))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        self._population.stop(self._lane)
        self._population.start(self._lane, self._task, LaneState(**state))


def loss_of(report: EpochReport) -> float:
    """The loss of an epoch; Diverged where it or the objective is not finite."""
    if report.diverged:
        raise Diverged(f"the loss of epoch {report.epoch} is {report.train_loss}")
    return report.train_loss


def step_error(traceback: str) -> ExperimentError:
    """That a step of a lane has raised, of its traceback."""
    return ExperimentError(f"a step of the recipe raised {traceback.strip().splitlines()[-1]}")


def train_alone(recipe: Recipe, run: Run) -> RecipePredictor:
    """Train by a recipe as a function would: report every epoch, keep checkpoints, stop where the run says so.

    The training items are all of the pool that the recipe is handed: those that judge it are in no reach of its code.
    """
    population = population_of(recipe, run, 1)
    predictor = RecipePredictor(population, 0)
    run.checkpoint(RecipeTraining(population, 0, run))
    for _ in run.epochs():
        try:
            (report,) = population.train_epoch()
        except LanesFailed as failed:
            raise step_error(failed.errors[0]) from failed
        run.report(predictor, loss=loss_of(report))
    return predictor


def population_of(recipe: Recipe, run: Run, lanes: int) -> Population:
    """A population for trainings on equally many items as this one's, with its batch size."""
    torch.set_num_threads(run.threads)
    batch = batch_size(recipe, run.params)
    recipe = recipe.built(run.params)
    return Population(recipe, lanes, run.training, samples=len(run.training), batch=batch, device=run.device)


def task_of(run: Run) -> Task:
    """A population's task for a training; its validation items are measured elsewhere."""
    params = {name: float(value) for name, value in run.params.items() if not isinstance(value, str)}
    return Task(key=0, params=params, seed=run.seed, epochs=run.max_epochs, training=run.training, validation=None)


def needed_by(recipe: Recipe, params: Mapping[str, Value]) -> tuple[str, ...]:
    """The hyperparameters that it needs in every training; `params` say the module's structure."""
    module = recipe.built(params).module()
    return tuple(dict.fromkeys([*recipe.names, *(layer.rate for layer in dropouts(module))]))


def batch_size(recipe: Recipe, params: Mapping[str, Value]) -> int:
    """Items a step; ExperimentError where that is no number of items."""
    size = params[recipe.batch] if isinstance(recipe.batch, str) else recipe.batch
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ExperimentError(f"a recipe's batch size must be a whole number from 1, not {size!r}")
    return size
