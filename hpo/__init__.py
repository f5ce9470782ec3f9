"""hpo: a fair comparison of models, each tuned jointly, confirmed without luck, tested once.

What a user's experiment is made of is here: `hpo.Experiment`, `hpo.Model`, `hpo.rows`, ..., and `hpo.run` and
`hpo.report`, which do what the commands of these names do. All of it is loaded when it is first used, and loads neither
torch nor Optuna nor a database before it needs them.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.api.comparison_report import ComparisonReport
    from hpo.api.python import report, run
    from hpo.errors import HpoError
    from hpo.experiment.experiment import Data, Experiment, NoOptions
    from hpo.experiment.items import Draw, Items
    from hpo.experiment.metrics import (
        Metric,
        Probabilities,
        accuracy,
        auc,
        brier,
        cross_entropy,
        log_loss,
        macro_f1,
        mae,
        perplexity,
        rmse,
    )
    from hpo.experiment.model import Model
    from hpo.experiment.page import Section, figure, table
    from hpo.experiment.recipe import SGD, Adam, AdamW, Cosine, Inputs, Recipe, Tensors, dropout
    from hpo.experiment.rows import rows
    from hpo.experiment.run import Diverged, Run
    from hpo.experiment.spaces import Choice, Float, Int

__version__ = "0.1.0"

_METRICS = ("accuracy", "auc", "brier", "cross_entropy", "log_loss", "macro_f1", "mae", "perplexity", "rmse")
_HOMES = {
    "api.comparison_report": ("ComparisonReport",),
    "api.python": ("report", "run"),
    "errors": ("HpoError",),
    "experiment.experiment": ("Data", "Experiment", "NoOptions"),
    "experiment.items": ("Draw", "Items"),
    "experiment.metrics": ("Metric", "Probabilities", *_METRICS),
    "experiment.model": ("Model",),
    "experiment.page": ("Section", "figure", "table"),
    "experiment.rows": ("rows",),
    "experiment.run": ("Diverged", "Run"),
    "experiment.spaces": ("Choice", "Float", "Int"),
    "experiment.recipe": ("SGD", "Adam", "AdamW", "Cosine", "Inputs", "Recipe", "Tensors", "dropout"),
}
_HOME = {name: f"hpo.{module}" for module, names in _HOMES.items() for name in names}

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Choice",
    "ComparisonReport",
    "Cosine",
    "Data",
    "Diverged",
    "Draw",
    "Experiment",
    "Float",
    "HpoError",
    "Inputs",
    "Int",
    "Items",
    "Metric",
    "Model",
    "NoOptions",
    "Probabilities",
    "Recipe",
    "Run",
    "Section",
    "Tensors",
    "accuracy",
    "auc",
    "brier",
    "cross_entropy",
    "dropout",
    "figure",
    "log_loss",
    "macro_f1",
    "mae",
    "perplexity",
    "report",
    "rmse",
    "rows",
    "run",
    "table",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hpo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


class _Package(ModuleType):
    """This module, of which `report` is the function: the import of a module from the folder report leaves it so."""

    def __setattr__(self, name: str, value: object) -> None:
        if name != "report":
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
