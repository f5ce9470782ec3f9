"""An experiment as `hpo experiment check` loads it into a child process: measured more closely, and disturbed.

What is measured leaves the child as further metrics: sums over the outputs that tell any two predictors apart, and how
many items two sets share. A disturbance is something that must change nothing.
"""

import hashlib
import math
import os
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ExperimentError
from hpo.experiment.code import users_modules
from hpo.experiment.experiment import Experiment
from hpo.experiment.items import Draw, Items
from hpo.experiment.load import load
from hpo.experiment.metrics import Metric, Probabilities, array_of
from hpo.experiment.model import Model
from hpo.experiment.rows import Rows
from hpo.experiment.tables import row_hashes
from hpo.training.recipe import Recipe

OUTPUTS, SCALE = "hpo_outputs", "hpo_scale"
SHARED_ITEMS, SHARED_UNITS, TEST_ITEMS = "hpo_shared_items", "hpo_shared_units", "hpo_test_items"
PROBES = (OUTPUTS, SCALE, SHARED_ITEMS, SHARED_UNITS, TEST_ITEMS)
REPORTS, GLOBALS, BATCHES = "reports", "globals", "batches"
DISTURBANCES = (REPORTS, GLOBALS, BATCHES)
SMALL_BATCH = 17  # items that are predicted together where batches are disturbed
_SEED = 20240607  # of the weights that outputs are summed with


def checked(locator: str, disturbances: Collection[str] = (), lengths: Collection[int] = ()) -> Experiment:
    """The experiment at a locator with probes among its metrics; `lengths` are those of the data and of its pools."""
    place = locator.partition(":")[0]
    if place.endswith(".py"):
        os.chdir(Path(place).parent)
    experiment = load(locator)
    if GLOBALS in disturbances:
        withhold_globals(experiment, lengths)
    models = experiment.models
    if REPORTS in disturbances:
        models = {name: _without_measuring(model) for name, model in models.items()}
    probe = _Probe(experiment)
    return replace(
        experiment,
        metrics=[*experiment.metrics, *probe.metrics()],
        models=models,
        draw=probe.draw,
        draw_test=probe.draw_test,
        chunk=SMALL_BATCH if BATCHES in disturbances else experiment.chunk,
    )


class _Probe:
    """What is looked at in this process, kept until the metrics tell it."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._training, self._validation = Items([]), Items([])
        self._shared: dict[str, float] = {}

    def metrics(self) -> list[Metric]:
        """A metric for each probe."""
        shared = (SHARED_ITEMS, SHARED_UNITS, TEST_ITEMS)
        return [
            Metric(OUTPUTS, lambda outputs, y: projection(outputs)[0], diverged=0.0),
            Metric(SCALE, lambda outputs, y: projection(outputs)[1], diverged=0.0),
            *(Metric(name, lambda outputs, y, name=name: self._shared.get(name, 0.0), diverged=0.0) for name in shared),
        ]

    def draw(self, pool: Any, draw: Draw) -> tuple[Items, Items]:
        """As the experiment draws; what training and validation share is counted."""
        self._training, self._validation = self._experiment.drawn(pool, draw)
        self._shared[SHARED_ITEMS] = _shared(self._training, self._validation)
        self._shared[SHARED_UNITS] = _shared_units(self._training, self._validation, self._experiment)
        return self._training, self._validation

    def draw_test(self, pool: Any, draw: Draw) -> Items:
        """As the experiment draws; what the test shares with the draw before is counted."""
        items = self._experiment.test_items(pool, draw)
        self._shared[TEST_ITEMS] = _shared(self._training, items) + _shared(self._validation, items)
        return items


def projection(outputs: Any) -> tuple[float, float]:
    """A sum over all outputs with fixed weights, and their norm: other outputs have another sum."""
    values = outputs.values if isinstance(outputs, Probabilities) else array_of(outputs)
    numbers = _numbers(values).ravel()
    weights = np.random.default_rng(_SEED).normal(size=len(numbers))
    return float(numbers @ weights), math.sqrt(float(numbers @ numbers))


def _numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    if values.dtype.kind in "biuf":
        return values.astype(np.float64)
    texts = [hashlib.sha256(str(value).encode()).digest()[:4] for value in values.ravel().tolist()]
    return np.array([int.from_bytes(text, "big") / 2**32 for text in texts], dtype=np.float64)


def _shared(some: Items, others: Items) -> float:
    """How many different items of two sets are equal; NaN where that cannot be told of such items."""
    try:
        return float(len(np.intersect1d(row_hashes(some.x, some.y), row_hashes(others.x, others.y))))
    except Exception:  # whatever features a user may have
        return math.nan


def _shared_units(some: Items, others: Items, experiment: Experiment) -> float:
    if some.unit is None or others.unit is None or (isinstance(experiment.data, Rows) and experiment.data.time):
        return 0.0
    return float(len(np.intersect1d(np.asarray(some.unit).ravel(), np.asarray(others.unit).ravel())))


def _without_measuring(model: Model) -> Model:
    """The model, its reports without a predictor to measure; those of a recipe are hpo's and change nothing."""
    if isinstance(function := model.train, Recipe):
        return model

    def train(run: Any) -> Any:
        report = run.report
        run.report = lambda predictor=None, **numbers: report(**numbers)
        return function(run)

    return replace(model, train=train)


# --- Data that a training reads past its run --------------------------------------------------------------------


def withhold_globals(experiment: Experiment, lengths: Collection[int]) -> None:
    """Make useless, in the user's modules, what is as long as the data, and the functions that load them."""
    data = experiment.data
    loads = [data.load] if isinstance(data, Rows) else [data.a, data.b]
    for module in users_modules():
        for name, value in list(vars(module).items()):
            if any(value is load for load in loads):
                setattr(module, name, _withheld)
            elif name in long_globals(module, lengths):
                setattr(module, name, _useless(value))


def long_globals(module: ModuleType, lengths: Collection[int]) -> list[str]:
    """The names in a module of arrays, frames, tensors and lists that are as long as the data or a pool."""
    names = []
    for name, value in vars(module).items():
        if name.startswith("__") or isinstance(value, str | bytes | dict | set | type | ModuleType):
            continue
        try:
            if len(value) in lengths:
                names.append(name)
        except Exception:  # it has no length
            continue
    return names


def fitted_globals(module: ModuleType) -> list[str]:
    """The names in a module of objects that were fitted to data when it was imported, after scikit-learn's manner."""
    return [
        name
        for name, value in vars(module).items()
        if not isinstance(value, type | ModuleType)
        and callable(getattr(value, "fit", None))
        and any(attribute.endswith("_") and not attribute.startswith("_") for attribute in vars(value))
    ]


def _withheld(*_: Any, **__: Any) -> Any:
    raise ExperimentError("the training loads the data past run.training")


def _useless(value: Any) -> Any:
    """As long and of the same kind, all entries the first one; in place where that can be, for whoever holds it too."""
    torch: Any = sys.modules.get("torch")
    if isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor)):
        try:
            value[...] = value[:1].copy() if isinstance(value, np.ndarray) else value[:1].clone()
            return value
        except (ValueError, RuntimeError):  # read-only
            return value[:1].repeat(len(value), 0)
    if hasattr(value, "iloc"):
        return value.iloc[[0] * len(value)]
    if isinstance(value, list):
        value[:] = value[:1] * len(value)
    return value
