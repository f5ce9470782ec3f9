"""Encoding: search trials as points in the unit cube, for the surrogate; shapes as in `surrogate.py`."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpo.analysis.dependence.surrogate import Floats
from hpo.analysis.search_history import SearchHistory, Trial

SINGLE_ANSWER = 0.55  # accuracy of always answering yes: the share of digit 1 <= digit 2 where digits are uniform
WEIGHT_RATIO = "weight_ratio"  # main to auxiliary
RELATIVE_DECAY = "relative_decay"  # weight decay to the sum of the loss weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Coordinate:
    """One axis of the fit: a hyperparameter, or a ratio of several that matter only by their ratio."""

    name: str  # a hyperparameter's, weight_ratio or relative_decay
    low: float  # range of the fitted trials
    high: float
    log: bool
    paper: float  # a ratio of weights that are 0 is infinite, or NaN

    def to_unit(self, values: Floats) -> Floats:
        """From values to 0..1."""
        low, high = (math.log(x) if self.log else x for x in (self.low, self.high))
        return ((np.log(values) if self.log else values) - low) / (high - low or 1.0)

    def from_unit(self, position: float) -> float:
        """From 0..1 back to a value."""
        low, high = (math.log(x) if self.log else x for x in (self.low, self.high))
        x = low + position * (high - low)
        return math.exp(x) if self.log else x


@dataclass(frozen=True, eq=False)
class Sample:
    """Trials as the surrogate sees them."""

    coordinates: tuple[Coordinate, ...]
    points: Floats  # (T, K), each coordinate from 0 to 1 over the trials' own range
    values: Floats  # (T,) log-odds of the validation accuracy


def learned_least(pairs: int) -> float:
    """The accuracy on so many pairs that a constant answer does not reach: four standard errors above its mean."""
    return SINGLE_ANSWER + 4 * math.sqrt(SINGLE_ANSWER * (1 - SINGLE_ANSWER) / pairs)


def sample_of(trials: Sequence[Trial], search: SearchHistory, paper: Mapping[str, float], pairs: int) -> Sample:
    """Trials as points and log-odds of accuracy; loss weights become ratios, which no common factor changes.

    Multiplying both loss weights and the weight decay by the same number gives the same training under Adam (up to its
    epsilon), so two ratios remain of the three: main to auxiliary weight, and decay to the sum of the loss weights.
    """
    columns = {name: np.array([t.params[i] for t in trials]) for i, name in enumerate(search.names)}
    logs = {name: log for name, (_, _, log) in zip(search.names, search.ranges, strict=True)}
    paper_values = dict(paper)
    if "aux_weight" in columns:
        with np.errstate(divide="ignore", invalid="ignore"):
            columns = _ratios(columns)
            paper_values = {n: float(x[0]) for n, x in _ratios({n: np.array([x]) for n, x in paper.items()}).items()}
        logs = {name: logs.get(name, True) for name in columns}
    table = np.stack(list(columns.values()), axis=1) if trials else np.empty((0, len(columns)))
    usable = np.isfinite(table).all(axis=1) & (table[:, list(logs.values())] > 0).all(axis=1)
    table, k = table[usable], range(len(columns))
    coordinates = tuple(
        Coordinate(
            name=name,
            low=float(table[:, j].min()) if len(table) else math.nan,
            high=float(table[:, j].max()) if len(table) else math.nan,
            log=logs[name],
            paper=paper_values[name],
        )
        for j, name in zip(k, columns, strict=True)
    )
    accuracy = np.array([t.value for t in trials], dtype=np.float64)[usable]
    correct = accuracy * pairs
    return Sample(
        coordinates=coordinates,
        points=np.stack([c.to_unit(table[:, j]) for j, c in enumerate(coordinates)], axis=1) if len(table) else table,
        values=np.log((correct + 0.5) / (pairs - correct + 0.5)),  # finite even where all or none are correct
    )


def _ratios(columns: Mapping[str, Floats]) -> dict[str, Floats]:
    main, aux = columns["main_weight"], columns["aux_weight"]
    return {
        "learning_rate": columns["learning_rate"],
        RELATIVE_DECAY: columns["weight_decay"] / (main + 2 * aux),
        "dropout": columns["dropout"],
        WEIGHT_RATIO: main / aux,
    }


def accuracy_of(log_odds: Floats) -> Floats:
    """Log-odds back to accuracy."""
    return np.asarray(1 / (1 + np.exp(-log_odds)))
