"""hpo: a fair comparison of models, each tuned jointly, confirmed without luck, tested once.

What a user's experiment is made of is here: `hpo.Experiment`, `hpo.Model`, `hpo.rows`, ... It is loaded when it is
first used, and loads neither torch nor Optuna nor a database.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from hpo.experiment.rows import rows
    from hpo.experiment.run import Diverged, Run
    from hpo.experiment.spaces import Choice, Float, Int
    from hpo.experiment.view import View

__version__ = "0.1.0"

_METRICS = ("accuracy", "auc", "brier", "cross_entropy", "log_loss", "macro_f1", "mae", "perplexity", "rmse")
_HOMES = {
    "experiment": ("Data", "Experiment", "NoOptions"),
    "items": ("Draw", "Items"),
    "metrics": ("Metric", "Probabilities", *_METRICS),
    "model": ("Model",),
    "page": ("Section", "figure", "table"),
    "rows": ("rows",),
    "run": ("Diverged", "Run"),
    "spaces": ("Choice", "Float", "Int"),
    "view": ("View",),
}
_HOME = {name: f"hpo.experiment.{module}" for module, names in _HOMES.items() for name in names}

__all__ = [
    "Choice",
    "Data",
    "Diverged",
    "Draw",
    "Experiment",
    "Float",
    "Int",
    "Items",
    "Metric",
    "Model",
    "NoOptions",
    "Probabilities",
    "Run",
    "Section",
    "View",
    "accuracy",
    "auc",
    "brier",
    "cross_entropy",
    "figure",
    "log_loss",
    "macro_f1",
    "mae",
    "perplexity",
    "rmse",
    "rows",
    "table",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hpo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
