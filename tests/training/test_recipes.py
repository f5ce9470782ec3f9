"""Recipes of a user's own as lanes: against the plain loop of torch.optim.Adam, and alone against many.

Shapes: P lanes, S items, D features, C classes.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hpo
from hpo.experiment.items import Items
from hpo.training import dropout, initialisation, streams
from hpo.training.population import Population, Task
from hpo.training.recipe import Hyper, LossColumns
from tests.support.training import parameters_of

FEATURES, ITEMS, BATCH = 5, 90, 32
CONFIGURATIONS = [
    {"rate": 3e-3, "decay": 1e-3, "early": 0.0, "late": 0.0, "smoothing": 0.0},
    {"rate": 1e-2, "decay": 0.0, "early": 0.0, "late": 0.0, "smoothing": 0.2},
    {"rate": 1e-3, "decay": 1e-1, "early": 0.0, "late": 0.0, "smoothing": 0.1},
]
DROPPING = {**CONFIGURATIONS[0], "early": 0.25, "late": 0.5}


def network() -> nn.Module:
    """Two hidden layers, each with a dropout rate of its own, and torch's own activations."""
    return nn.Sequential(
        nn.Linear(FEATURES, 16),
        nn.ReLU(inplace=True),
        hpo.dropout(16, rate="early"),
        nn.Linear(16, 8),
        nn.Tanh(),
        hpo.dropout(8, rate="late"),
        nn.Linear(8, 3),
    )


def loss(out: Tensor, columns: LossColumns, hyper: Hyper) -> tuple[Tensor, Tensor]:
    """Cross entropy, smoothed by lane: shown without."""
    logs = F.log_softmax(out, -1)
    shown = -logs.gather(-1, columns["y"][..., None])[..., 0].mean(-1)
    return shown, (1 - hyper["smoothing"]) * shown - hyper["smoothing"] * logs.mean((-2, -1))


RECIPE = hpo.Recipe(
    network,
    hpo.Tensors,
    lambda items: {"y": items.y},
    loss,
    lambda out: out,
    batch=BATCH,
    optimizer=hpo.Adam(rate="rate", decay="decay"),
)


def items(seed: int) -> Items:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ITEMS, FEATURES))
    return Items(x, (x[:, 0] > 0).astype(np.int32) + (x[:, 1] > 0))


def population(*tasks: Task, recipe: hpo.Recipe = RECIPE) -> Population:
    lanes = Population(recipe, len(tasks), None, samples=ITEMS, batch=BATCH, dtype=torch.float64)
    for lane, task in enumerate(tasks):
        lanes.start(lane, task)
    return lanes


def task_of(params: dict[str, float], seed: int) -> Task:
    return Task(key=seed, params=params, seed=seed, epochs=3, training=items(seed), validation=None)


def plain_training(task: Task, epochs: int) -> nn.Module:
    """As most people write it, without dropout."""
    model = network().to(torch.float64).eval()
    model.load_state_dict(initialisation.initial_parameters(model, task.seed))
    x, y = torch.from_numpy(task.training.x), torch.from_numpy(task.training.y).long()
    hyper = {name: torch.tensor(value, dtype=torch.float64) for name, value in task.params.items()}
    adam = torch.optim.Adam(model.parameters(), lr=task.params["rate"], weight_decay=task.params["decay"])
    for epoch in range(epochs):
        key = streams.step_keys(torch.tensor([streams.key(task.seed, "order")]), torch.tensor([epoch]))
        for batch in streams.permutations(key, streams.counters(ITEMS))[0].split(BATCH):
            adam.zero_grad()
            loss(model(x[batch]), {"y": y[batch]}, hyper)[1].backward()
            adam.step()
    return model


def test_lanes_of_a_recipe_equal_plain_trainings() -> None:
    """Parameters after three epochs, the last batch smaller, and outputs for items that were not trained on."""
    tasks = [task_of(params, seed) for seed, params in enumerate(CONFIGURATIONS)]
    lanes = population(*tasks)
    for _ in range(3):
        lanes.train_epoch()
    others = items(99)
    for lane, task in enumerate(tasks):
        plain = plain_training(task, 3)
        for name, values in plain.state_dict().items():
            torch.testing.assert_close(parameters_of(lanes, lane)[name], values, rtol=1e-9, atol=1e-12)
        given = lanes.predict(lanes.parameters[lane], Items(others.x))
        torch.testing.assert_close(given.outputs, plain(torch.from_numpy(others.x)).detach(), rtol=1e-9, atol=1e-12)
        assert given.scores == {}


def test_a_lane_among_others_equals_the_training_alone() -> None:
    """With dropout, whose masks are the lane's: neighbours change nothing but the rounding of a product."""
    tasks = [task_of({**DROPPING, "rate": rate}, seed) for seed, rate in enumerate((1e-3, 3e-3, 1e-2))]
    together = population(*tasks)
    reports = [together.train_epoch(), together.train_epoch()][-1]
    for lane, task in enumerate(tasks):
        alone = population(task)
        (report,) = [alone.train_epoch(), alone.train_epoch()][-1]
        torch.testing.assert_close(together.parameters[lane], alone.parameters[0], rtol=1e-8, atol=1e-12)
        assert reports[lane].train_loss == pytest.approx(report.train_loss, rel=1e-9)


def test_each_layer_drops_at_the_rate_it_names() -> None:
    """Of the step's decisions those of a layer follow its hyperparameter, lane by lane."""
    layers = dropout.dropouts(network())
    hyper = {"early": torch.tensor([0.0, 0.25]), "late": torch.tensor([0.5, 0.0])}
    counters = streams.mask_counters(24 * 501, "cpu")
    rates = dropout.drop_rates(layers, hyper, 501, counters.numel())
    masks = streams.keep_masks(torch.tensor([1, 2]), counters, streams.thresholds(rates))
    dropout.set_masks(nn.Sequential(*layers), masks, 501)
    kept = [layer.mask for layer in layers if layer.mask is not None]
    shares = [[float((mask[lane] == 0).double().mean()) for lane in range(2)] for mask in kept]
    assert shares == [[0.0, pytest.approx(0.25, abs=0.02)], [pytest.approx(0.5, abs=0.03), 0.0]]


def test_a_hyperparameter_that_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match="the recipe needs the hyperparameter 'late'"):
        population(task_of({"rate": 1e-3, "decay": 0.0, "early": 0.1}, 0))


def test_without_decay_there_is_none() -> None:
    """Adam(decay=None) is Adam with a decay of 0."""
    recipe = replace(RECIPE, optimizer=hpo.Adam(rate="rate", decay=None))
    without = population(task_of(CONFIGURATIONS[1], 1), recipe=recipe)
    with_zero = population(task_of(CONFIGURATIONS[1], 1))
    assert without.train_epoch() == with_zero.train_epoch()
    assert torch.equal(without.parameters, with_zero.parameters)


def test_texts_are_no_inputs() -> None:
    tensors = hpo.Tensors().to(torch.device("cpu"), torch.float32)
    with pytest.raises(TypeError, match="a recipe reads numbers, but x is of type <U1"):
        tensors.index(Items(np.array(["a", "b"])))
