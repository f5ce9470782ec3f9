"""Encoding: search trials as points in the unit cube, for the surrogate; shapes as in `surrogate.py`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpo.analysis.dependence.surrogate import Floats
from hpo.analysis.search_history import SearchHistory, Trial
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Choice, Hyperparameter, Int, Value

WEIGHT_RATIO = "weight_ratio"  # main to auxiliary
RELATIVE_DECAY = "relative_decay"  # weight decay to the sum of the loss weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Coordinate:
    """One axis of the fit: a hyperparameter, or a ratio of several that matter only by their ratio."""

    name: str  # a hyperparameter's, weight_ratio or relative_decay
    low: float  # range of the fitted trials; of a choice: places among its values
    high: float
    log: bool
    reference: float  # a ratio of weights that are 0 is infinite, or NaN; of a choice: the value's place
    choices: tuple[Value, ...] = ()  # of a choice: its values
    whole: bool = False  # whether values are whole numbers

    def to_unit(self, values: Floats) -> Floats:
        """From values to 0..1; places of a choice stay."""
        if self.choices:
            return values
        low, high = (math.log(x) if self.log else x for x in (self.low, self.high))
        return ((np.log(values) if self.log else values) - low) / (high - low or 1.0)

    def from_unit(self, position: float) -> Value:
        """From 0..1, or a place among the choices, back to a value."""
        if self.choices:
            return self.choices[round(position)]
        low, high = (math.log(x) if self.log else x for x in (self.low, self.high))
        x = low + position * (high - low)
        exact = math.exp(x) if self.log else x
        return round(exact) if self.whole else exact


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """How a metric's values become what is fitted, of which more is better, and back."""

    metric: MetricInfo
    items: int | None = None  # validation items of an accuracy, whose log-odds are fitted

    def fitted(self, values: Floats) -> Floats:
        """Log-odds of an accuracy, logarithms of what is compared by ratios, else the values, the better the larger."""
        if self.items is not None:
            correct = values * self.items  # finite even where all or none are correct
            return np.log((correct + 0.5) / (self.items - correct + 0.5))
        return self.metric.sign * (np.log(values) if self.metric.is_relative else values)

    def values(self, fitted: Floats) -> Floats:
        """Back to the metric's unit."""
        if self.items is not None:
            return np.asarray(1 / (1 + np.exp(-fitted)))
        return np.asarray(np.exp(self.metric.sign * fitted) if self.metric.is_relative else self.metric.sign * fitted)

    def slope(self, value: float) -> float:
        """By how much an improvement (`MetricInfo.improvement`) grows with what is fitted, at a value."""
        return value * (1 - value) if self.items is not None else 1.0


@dataclass(frozen=True, eq=False)
class Sample:
    """Trials as the surrogate sees them."""

    coordinates: tuple[Coordinate, ...]
    points: Floats  # (T, K), each coordinate from 0 to 1 over the trials' own range; of a choice: its place
    values: Floats  # (T,) as `link` has them
    link: Link

    @property
    def levels(self) -> tuple[int, ...]:
        """How many values each coordinate can take; 0 for numbers."""
        return tuple(len(c.choices) for c in self.coordinates)


def fitted_names(search: SearchHistory) -> tuple[str, ...]:
    """The hyperparameters that every configuration has: one that depends on others by its condition is left out."""
    return tuple(name for name, p in zip(search.names, search.parameters, strict=True) if not p.when)


def sample_of(
    trials: Sequence[Trial], search: SearchHistory, reference: Mapping[str, Value], link: Link, *, ratios: bool = False
) -> Sample:
    """Trials as points and fitted values; with `ratios` loss weights become ratios, which no common factor changes.

    Multiplying both loss weights and the weight decay by the same number gives the same training under Adam (up to its
    epsilon), so two ratios remain of the three: main to auxiliary weight, and decay to the sum of the loss weights.
    """
    parameters = dict(zip(search.names, search.parameters, strict=True))
    place = {name: search.names.index(name) for name in fitted_names(search)}
    columns = {name: _column([t.params[i] for t in trials], parameters[name]) for name, i in place.items()}
    given = {name: _column([reference.get(name)], parameters[name]) for name in place}
    logs = {name: getattr(parameters[name], "log", False) for name in place}
    if ratios:
        with np.errstate(divide="ignore", invalid="ignore"):
            columns, given = _ratios(columns), _ratios(given)
        logs = {name: logs.get(name, True) for name in columns}
    table = np.stack(list(columns.values()), axis=1) if trials and columns else np.empty((len(trials), len(columns)))
    usable = np.isfinite(table).all(axis=1) & (table[:, list(logs.values())] > 0).all(axis=1)
    table, k = table[usable], range(len(columns))
    coordinates = tuple(
        Coordinate(
            name=name,
            low=float(table[:, j].min()) if len(table) else math.nan,
            high=float(table[:, j].max()) if len(table) else math.nan,
            log=logs[name],
            reference=float(given[name][0]),
            choices=parameter.values if isinstance(parameter := parameters.get(name), Choice) else (),
            whole=isinstance(parameter, Int),
        )
        for j, name in zip(k, columns, strict=True)
    )
    values = np.array([t.value for t in trials], dtype=np.float64)[usable]
    return Sample(
        coordinates=coordinates,
        points=np.stack([c.to_unit(table[:, j]) for j, c in enumerate(coordinates)], axis=1) if table.size else table,
        values=link.fitted(values),
        link=link,
    )


def _column(values: Sequence[Value | None], parameter: Hyperparameter) -> Floats:
    """Values as numbers, those of a choice as places among its values; NaN where there is none."""
    if isinstance(parameter, Choice):
        places: dict[object, int] = {(type(value), value): place for place, value in enumerate(parameter.values)}
        return np.array([places.get((type(value), value), math.nan) for value in values], dtype=np.float64)
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _ratios(columns: Mapping[str, Floats]) -> dict[str, Floats]:
    main, aux = columns["main_weight"], columns["aux_weight"]
    return {
        "learning_rate": columns["learning_rate"],
        RELATIVE_DECAY: columns["weight_decay"] / (main + 2 * aux),
        "dropout": columns["dropout"],
        WEIGHT_RATIO: main / aux,
    }
