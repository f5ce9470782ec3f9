"""Metrics: their values are scikit-learn's, their items combine rightly, and a wrong one is one line."""

import math
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as reference  # type: ignore[import-untyped]  # ships no types

from hpo.errors import ExperimentError
from hpo.experiment import metrics
from hpo.experiment.metrics import Metric, Probabilities

RNG = np.random.default_rng(1)
N = 200


def probabilities(classes: list[Any]) -> tuple[Probabilities, np.ndarray[Any, Any]]:
    """Random ones that know a little, and the truth."""
    truth = RNG.integers(0, len(classes), N)
    logits = RNG.normal(size=(N, len(classes)))
    logits[np.arange(N), truth] += 1
    values = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Probabilities(values=values, classes=np.array(classes)), np.array(classes)[truth]


def value(metric: Metric, outputs: Any, y: Any) -> float:
    score = metric.evaluate(outputs, y, len(y))
    assert score is not None
    if score.items is not None:
        np.testing.assert_equal(metric.combined(score.items), score.value)
    return score.value


@pytest.mark.parametrize("classes", [["no", "yes"], ["a", "b", "c"], [3, 5, 8]])
def test_probabilities_are_scored_as_scikit_learn_does(classes: list[Any]) -> None:
    """Whatever the labels are, texts too."""
    outputs, y = probabilities(classes)
    two = len(classes) == 2
    assert value(metrics.accuracy, outputs, y) == reference.accuracy_score(y, outputs.labels)
    assert value(metrics.macro_f1, outputs, y) == pytest.approx(reference.f1_score(y, outputs.labels, average="macro"))
    assert value(metrics.log_loss, outputs, y) == pytest.approx(reference.log_loss(y, outputs.values, labels=classes))
    scores = outputs.values[:, 1] if two else outputs.values
    assert value(metrics.auc, outputs, y) == pytest.approx(reference.roc_auc_score(y, scores, multi_class="ovr"))
    squares = ((outputs.values - (y[:, None] == outputs.classes)) ** 2).sum(1).mean()
    assert value(metrics.brier, outputs, y) == pytest.approx(squares / 2 if two else squares)


def test_logits_and_labels() -> None:
    """A network's outputs are scored by their index; labels alone have an accuracy and nothing that needs more."""
    outputs, y = probabilities([0, 1, 2])
    logits = np.log(outputs.values) + 5
    assert value(metrics.cross_entropy, logits, y) == pytest.approx(reference.log_loss(y, outputs.values))
    assert value(metrics.accuracy, logits, y) == value(metrics.accuracy, outputs, y)
    assert value(metrics.accuracy, outputs.labels, y) == value(metrics.accuracy, outputs, y)
    for metric in (metrics.log_loss, metrics.brier, metrics.auc, metrics.cross_entropy):
        assert metric.evaluate(outputs.labels, y, N) is None, metric.name


def test_a_class_that_the_classifier_does_not_know_costs() -> None:
    """A class that its training set lacked has no column: probability 0."""
    outputs = Probabilities(values=np.array([[0.5, 0.5]]), classes=np.array(["a", "b"]))
    assert value(metrics.log_loss, outputs, np.array(["c"])) == pytest.approx(-math.log(np.finfo(float).eps))
    assert value(metrics.accuracy, outputs, np.array(["c"])) == 0.0
    assert value(metrics.brier, outputs, np.array(["c"])) == pytest.approx(0.75)


def test_regression() -> None:
    y, outputs = RNG.normal(size=N), RNG.normal(size=N)
    assert value(metrics.mae, outputs, y) == pytest.approx(reference.mean_absolute_error(y, outputs))
    assert value(metrics.rmse, outputs, y) == pytest.approx(reference.root_mean_squared_error(y, outputs))
    assert value(metrics.rmse, outputs[:, None], y) == value(metrics.rmse, outputs, y)
    with pytest.raises(ExperimentError, match=r"outputs of the shape \(200, 2\) for targets of the shape \(200,\)"):
        value(metrics.rmse, np.stack([outputs, outputs], 1), y)


def test_items_of_unequal_size_are_pooled_before_they_are_combined() -> None:
    """A perplexity is that of all tokens, not the mean of the documents' perplexities."""
    documents = np.array([[10.0, 10.0], [4.0, 1.0]])  # nats, tokens
    assert value(metrics.perplexity, documents, [0, 0]) == pytest.approx(math.exp(14 / 11))
    rate = Metric("rate", lambda outputs, y: outputs, diverged=0.0, combine="ratio")
    assert value(rate, documents, [0, 0]) == pytest.approx(14 / 11)
    speed = Metric("speed", lambda outputs, y: outputs, diverged=1e9, maximize=False, combine="geometric")
    assert value(speed, np.array([1.0, 100.0]), [0, 0]) == pytest.approx(10.0)


def test_scikit_learns_own_functions_serve() -> None:
    outputs, y = probabilities(["no", "yes"])
    balanced = Metric("balanced", reference.balanced_accuracy_score, diverged=0.0)
    assert value(balanced, outputs, y) == reference.balanced_accuracy_score(y, outputs.labels)
    precision = Metric("ap", lambda y_true, y_score: reference.average_precision_score(y_true == "yes", y_score), 0.0)
    assert value(precision, outputs, y) == reference.average_precision_score(y == "yes", outputs.values[:, 1])


def test_nan_is_an_answer() -> None:
    """It is what a diverged training gives, and no error."""
    assert math.isnan(value(metrics.rmse, np.array([1.0, math.nan]), np.array([1.0, 1.0])))
    assert value(metrics.mae, np.array([math.inf]), np.array([1.0])) == math.inf


def test_better_follows_the_direction() -> None:
    assert metrics.accuracy.better(0.9, 0.8)
    assert metrics.rmse.better(0.8, 0.9)
    assert metrics.rmse.but(unit="mm", margin=0.5).unit == "mm"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "my metric"}, "metric 'my metric': its name must be a Python identifier"),
        (
            {"combine": "median"},
            "metric m: combine must be one of mean, root, ratio, exp_ratio, geometric, not 'median'",
        ),
        ({"diverged": math.inf}, "metric m: diverged must be a finite number, not inf"),
        ({"margin": 0.0}, "metric m: margin must be above 0, not 0.0"),
        (
            {"score": lambda a, b: 0},
            "metric m: score takes (a, b), but must take (outputs, y), (y_true, y_pred) or (y_true, y_score)",
        ),
    ],
)
def test_a_wrong_metric_is_one_line(changes: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"name": "m", "score": lambda outputs, y: 0.0, "diverged": 0.0}
    with pytest.raises(ExperimentError) as error:
        Metric(**{**fields, **changes})
    assert str(error.value) == message


def test_scores_of_another_length_are_refused() -> None:
    metric = Metric("m", lambda outputs, y: np.zeros(3), diverged=0.0)
    with pytest.raises(
        ExperimentError, match=r"metric m: its scores have the shape \(3,\), but 4 items combined by mean"
    ):
        metric.evaluate(np.zeros(4), np.zeros(4), 4)
