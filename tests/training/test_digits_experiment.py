"""The digits as an experiment of users': the same draws and, to rounding, the same trainings as in a population."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import hpo
from hpo.digits import draws, experiment, extended, lanes
from hpo.digits.load import load
from hpo.digits.recipes import PairAnswers
from hpo.errors import ExperimentError
from hpo.experiment.items import Draw, Items
from hpo.experiment.measure import measure
from hpo.experiment.recipes import train_alone
from hpo.experiment.run import Report, Run
from hpo.study.spec import MODELS, builtin_spec
from hpo.training.population import Population, Task
from hpo.training.recipe import Recipe
from tests.support.training import digit_population

OPTIONS = experiment.Pairs(training_pairs=40, validation_pairs=300, test_pairs=200)
SEED, EPOCHS = 11, 2


@pytest.fixture(scope="module")
def drawn() -> tuple[Items, Items]:
    return experiment.draw(experiment.pool_a(), Draw(seed=SEED, options=OPTIONS))


def test_its_draws_are_the_lanes(drawn: tuple[Items, Items]) -> None:
    pool = lanes.pool_a(load())
    training, left_over = draws.draw_training(pool, SEED, OPTIONS.training_pairs)
    validation = draws.draw_validation(pool, left_over, SEED, OPTIONS.validation_pairs)
    for items, pairs in zip(drawn, (training, validation), strict=True):
        assert np.array_equal(items.x, draws.shifted(pool.images[pairs.image], pairs.shift).numpy())
        assert np.array_equal(items.y, np.column_stack([pairs.target, pairs.digit]))
        assert items.unit is not None
        assert np.array_equal(items.unit, pairs.image)
    tested = experiment.draw_test(experiment.pool_b(), Draw(seed=SEED, options=OPTIONS))
    expected = draws.draw_test(lanes.pool_b(load(), slot_id=1, attempt=1, worker="w"), SEED, OPTIONS.test_pairs)
    assert tested.unit is not None
    assert np.array_equal(tested.unit, expected.image)
    assert len(np.unique(tested.unit)) == 2 * OPTIONS.test_pairs


@pytest.mark.parametrize("name", MODELS)
def test_a_model_learns_what_it_learns_in_a_lane(name: str, drawn: tuple[Items, Items]) -> None:
    """Images instead of windows, so to the rounding of a few hundred steps."""
    training, validation = drawn
    model = extended({}).model(name)
    params = {**builtin_spec(name).reference}
    assert dict(model.reference) == dict(builtin_spec(name).reference)
    losses: list[float] = []

    def keep(report: Report) -> bool:
        losses.append(report.numbers["loss"])
        return False

    run = Run(params=params, training=training, seed=5, device="cpu", threads=1, max_epochs=EPOCHS, on_report=keep)
    assert isinstance(model.train, Recipe)
    accuracy, loss = measure(train_alone(model.train, run), validation, experiment.METRICS)
    population, reports = _in_a_lane(name, params)
    assert losses == pytest.approx(reports, rel=2e-3)
    pool = lanes.pool_a(load())
    _, left_over = draws.draw_training(pool, SEED, OPTIONS.training_pairs)
    pairs = draws.draw_validation(pool, left_over, SEED, OPTIONS.validation_pairs)
    answers = PairAnswers.of(population.predict(population.parameters[0], pairs))
    assert accuracy is not None
    assert loss is not None
    assert accuracy.value == pytest.approx(answers.accuracy, abs=0.02)
    assert loss.value == pytest.approx(answers.loss, rel=2e-2)


def _in_a_lane(name: str, params: Mapping[str, Any]) -> tuple[Population, list[float]]:
    pool = lanes.pool_a(load())
    training, _ = draws.draw_training(pool, SEED, OPTIONS.training_pairs)
    population = digit_population(name, 1, pool, samples=len(training), batch=builtin_spec(name).protocol.batch_size)
    population.start(0, Task(key=0, params=params, seed=5, epochs=EPOCHS, training=training, validation=None))
    return population, [report.train_loss for _ in range(EPOCHS) for report in population.train_epoch()]


def test_further_models_stand_beside_the_three() -> None:
    further = hpo.Model(lambda run: None)
    pairs = extended({"own": further}, name="ours")
    assert (pairs.name, [*pairs.models]) == ("ours", [*MODELS, "own"])
    with pytest.raises(ExperimentError, match="the digits have a model ws already; call yours otherwise"):
        extended({"ws": further})


def test_metrics_take_logits_however_they_are_given() -> None:
    y = np.array([[1, 2, 3], [0, 3, 2]])
    logits = torch.tensor([[0.0, 2.0], [0.0, 2.0]])
    for outputs in (logits, {"logits": logits}, logits.numpy()):
        assert experiment.right(outputs, y).tolist() == [True, False]
        assert experiment.cross_entropies(outputs, y).tolist() == pytest.approx([0.126928, 2.126928])
