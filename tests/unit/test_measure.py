"""Measuring predictors: whatever they are, chunk by chunk, without a trace in them or in the global generators."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # ships no types
from sklearn.svm import SVC  # type: ignore[import-untyped]  # ships no types
from torch import nn

import hpo
from hpo.errors import ExperimentError
from hpo.experiment.items import Items
from hpo.experiment.jackknife import blocks_of
from hpo.experiment.measure import measure
from hpo.experiment.metrics import Metric
from hpo.experiment.randomness import generator, kept_state, seed_all

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 4))
Y = np.where(X[:, 0] + 0.3 * RNG.normal(size=50) > 0, "yes", "no")
ITEMS = Items(X, Y)
METRICS = [hpo.accuracy, hpo.log_loss, hpo.auc]


def values(predictor: Any, items: Items = ITEMS, **how: Any) -> list[float | None]:
    return [None if score is None else score.value for score in measure(predictor, items, METRICS, **how)]


@pytest.mark.parametrize("chunk", [1, 7, 49, 50, 1000])
def test_chunks_change_nothing(chunk: int) -> None:
    """Items' scores are joined; a metric without items gets all outputs at once."""
    fitted = LogisticRegression().fit(X, Y)
    whole, parts = measure(fitted, ITEMS, METRICS), measure(fitted, ITEMS, METRICS, chunk=chunk)
    for a, b in zip(whole, parts, strict=True):
        assert a is not None
        assert b is not None
        assert a.value == pytest.approx(b.value)
        assert (a.items is None) == (b.items is None)
    assert values(fitted)[0] == fitted.score(X, Y)


@pytest.mark.parametrize("of", [np.asarray, torch.as_tensor, list])
def test_outputs_by_name_are_joined_as_others_are(of: Callable[[Any], Any]) -> None:
    """What a recipe with several heads says; by chunks, and where units are left out one by one."""

    def predict(x: Any) -> Any:
        return {"mean": of(x[:, 0]), "both": of(x[:, :2])}

    def spread(outputs: Any, y: Any) -> float:
        return float(np.std(np.asarray(outputs["mean"])) + np.std(np.asarray(outputs["both"])))

    metric = Metric("spread", spread, diverged=1e9, maximize=False)
    blocks = blocks_of(np.arange(50) // 5)
    whole, parts = (measure(predict, Items(X), [metric], chunk=chunk, blocks=blocks)[0] for chunk in (1000, 9))
    assert whole is not None
    assert parts is not None
    assert whole.items is not None
    assert whole.value == parts.value == spread(predict(X), None)
    np.testing.assert_array_equal(whole.items, parts.items)


def test_a_classifier_without_probabilities_leaves_blanks() -> None:
    assert values(SVC().fit(X, Y))[1:] == [None, None]
    assert values(SVC().fit(X, Y), chunk=20)[1:] == [None, None]


def test_a_module_is_measured_in_evaluation_mode_and_put_back() -> None:
    """Dropout and batch statistics would make an answer depend on its neighbours; a frozen part stays frozen."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    net[1].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    items = Items(X.astype(np.float32), (Y == "yes").astype(int))
    metrics = [hpo.accuracy, hpo.cross_entropy]
    first, again = measure(net, items, metrics), measure(net, items, metrics, chunk=9)
    assert [s.value for s in first if s] == pytest.approx([s.value for s in again if s])
    assert [part.training for part in net] == [True, False, True, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_what_is_called_what_predicts_and_what_does_not() -> None:
    assert values(lambda x: np.full(len(x), "yes"))[0] == pytest.approx((Y == "yes").mean())
    assert values(3, predict=lambda predictor, x: np.full(len(x), "no"))[0] == pytest.approx((Y == "no").mean())
    with pytest.raises(ExperimentError, match="train returned a int, which is no torch module, cannot be called"):
        values(3)
    with pytest.raises(ExperimentError, match="predict gave 1 outputs for 50 items"):
        values(lambda x: np.zeros(1))


def test_items_without_targets_are_scored_by_their_outputs() -> None:
    """As seconds of a compiler's flags or returns of an episode are: there is nothing to compare with."""
    seconds = Metric("seconds", lambda outputs, y: outputs, diverged=1e9, maximize=False, combine="geometric")
    (score,) = measure(lambda x: x[:, 0] ** 2 + 1, Items(X), [seconds], chunk=8)
    assert score is not None
    assert score.value == pytest.approx(np.exp(np.log(X[:, 0] ** 2 + 1).mean()))


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(1))


def test_seeds_make_all_three_generators_the_same_again() -> None:
    seed_all(7, "train", 1)
    first = draw()
    seed_all(7, "train", 1)
    assert draw() == first
    seed_all(7, "train", 2)
    assert not set(draw()) & set(first)


def test_a_measurement_leaves_the_generators_as_they_were() -> None:
    seed_all(7)
    expected = draw()
    seed_all(7)
    with kept_state():
        seed_all(8)
        draw()
    assert draw() == expected


def test_streams_of_other_seeds_and_purposes_differ() -> None:
    keys: list[tuple[Any, ...]] = [(1, "a"), (1, "b"), (2, "a"), (1, "a", 0)]
    drawn = [generator(*key).random(3).tolist() for key in keys]
    assert len({tuple(d) for d in drawn}) == len(keys)
    assert generator(1, "a").random(3).tolist() == drawn[0]
