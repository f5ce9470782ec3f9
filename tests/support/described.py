"""Experiments as their descriptions, without a file or a process."""

from pathlib import Path
from typing import Any

from hpo.experiment.description import Description, ModelDescription
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Choice, Float, Hyperparameter, Int, Space, Value
from hpo.study.experiment_spec import spec_from
from hpo.study.spec import StudySpec

RMSE = MetricInfo(name="rmse", maximize=False, diverged=1e9, combine="root")
ACCURACY = MetricInfo(name="accuracy", maximize=True, diverged=0.0)
CONDITIONAL: dict[str, Hyperparameter | Value] = {  # as the svm of docs/experiments.md, with all kinds of values
    "degree": Int(2, 5, when={"kernel": "poly"}),
    "C": Float(1e-3, 1e3, log=True),
    "kernel": Choice("linear", "rbf", "poly"),
    "gamma": Float(1e-4, 10, log=True, when={"kernel": ("rbf", "poly")}),
    "shrinking": Choice(True, False),
    "width": Int(8, 64, step=8),
    "folds": Choice(3, 5, 10),
    "tolerance": 1e-3,
    "solver": "plain",
}
REFERENCE: dict[str, Value] = {"C": 1, "kernel": "rbf", "gamma": 0.03, "shrinking": True, "width": 32, "folds": 5}
FLAT: dict[str, Hyperparameter | Value] = {"rate": Float(0.0, 1.0), "depth": Int(1, 9)}


def described_model(
    space: dict[str, Hyperparameter | Value], reference: dict[str, Value], **more: Any
) -> ModelDescription:
    """A model as an experiment's process describes it."""
    given: dict[str, Any] = {"label": "reference", "epochs": None, "published": {}, "code_digest": "c" * 64}
    return ModelDescription(space=Space.of(space).to_plain(), reference=reference, **(given | more))


def described(**more: Any) -> Description:
    """An experiment with a model for each kind of space."""
    models = {
        "svm": described_model(CONDITIONAL, REFERENCE),
        "flat": described_model(FLAT, {"rate": 0.5, "depth": 3}),
        "own": described_model({"rate": Float(0.0, 1.0)}, {"rate": 0.1}, epochs=7, label="scikit-learn's"),
        "mean": described_model({"quantile": 0.5}, {}),
    }
    given: dict[str, Any] = {
        "locator": "/home/me/exp.py",
        "folder": Path("/nowhere"),
        "name": "exp",
        "version": 3,
        "metrics": (RMSE, ACCURACY),
        "models": models,
        "data_digest": "d" * 64,
        "options": {"rows": 100, "share": 0.5, "kind": "all", "shuffled": True},
    }
    return Description(**(given | more))


def described_spec(model: str, metrics: tuple[MetricInfo, ...] = (RMSE, ACCURACY), **tree: Any) -> StudySpec:
    """The spec of one of its models; the tree is as a study file's."""
    return spec_from(described(metrics=metrics), {"model": model, **tree}, "a test")
