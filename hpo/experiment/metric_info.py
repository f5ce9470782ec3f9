"""What those know of a metric who only compare its values: which are better, in what unit, how they combine.

Shapes: n items.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Combine = Literal["mean", "root", "ratio", "exp_ratio", "geometric"]


@dataclass(frozen=True, kw_only=True)
class MetricInfo:
    """A metric without its function, as studies store it: reports need no experiment at hand."""

    name: str
    maximize: bool = True
    diverged: float = 0.0  # what a diverged training is told with
    combine: Combine = "mean"
    unit: str = ""
    margin: float | None = None  # a difference of so much is no difference in practice; in the metric's own unit

    @property
    def sign(self) -> int:
        """1 where more is better, else -1: times a value, the larger is the better."""
        return 1 if self.maximize else -1

    @property
    def worst(self) -> float:
        """What no value is worse than."""
        return -math.inf * self.sign

    @property
    def is_relative(self) -> bool:
        """Whether values are compared by their ratio, not by their difference."""
        return self.combine in ("exp_ratio", "geometric")

    def sums(self, items: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What is added up over items: numerators (n,) and denominators (n,) of scores (n,) or (n, 2)."""
        if items.ndim == 2:
            return items[:, 0], items[:, 1]
        with np.errstate(all="ignore"):  # NaN and infinity are answers here, and below
            return np.log(items) if self.combine == "geometric" else items, np.ones(len(items))

    def of_sums(self, numerator: Any, denominator: Any) -> Any:
        """The metric of sums over items, numbers or arrays of them."""
        with np.errstate(all="ignore"):
            ratio = np.divide(numerator, denominator)
            return np.sqrt(ratio) if self.combine == "root" else np.exp(ratio) if self.is_relative else ratio

    def combined(self, items: NDArray[np.float64]) -> float:
        """One number of the scores (n,) or (n, 2) of items; NaN where there are none."""
        if not len(items):
            return math.nan
        numerators, denominators = self.sums(items)
        return float(self.of_sums(numerators.sum(), denominators.sum()))

    def influences(self, items: NDArray[np.float64]) -> NDArray[np.float64]:
        """How the metric, or its logarithm where `is_relative`, changes with the weight of each item: (n,)."""
        numerators, denominators = self.sums(items)
        with np.errstate(all="ignore"):
            ratio = numerators.sum() / denominators.sum()
            slope = 0.5 / np.sqrt(ratio) if self.combine == "root" else 1.0
            return np.asarray(slope * (numerators - ratio * denominators) / denominators.sum())

    def added_up(self, value: float) -> float:
        """What the mean over items is of which the metric is this value: the inverse of `of_sums`."""
        with np.errstate(all="ignore"):
            return float(value**2 if self.combine == "root" else np.log(value) if self.is_relative else value)

    def items_of(self, means: NDArray[np.float64]) -> NDArray[np.float64]:
        """Scores (n,) or (n, 2) of items that contribute so much (n,) to that mean."""
        if self.combine in ("ratio", "exp_ratio"):
            return np.stack([means, np.ones(len(means))], axis=1)
        return np.exp(means) if self.combine == "geometric" else means

    def improvement(self, a: Any, b: Any) -> Any:
        """By how much a is better than b: a difference in the metric's unit, or of logarithms where `is_relative`."""
        with np.errstate(all="ignore"):
            return self.sign * (np.log(a) - np.log(b) if self.is_relative else np.subtract(a, b))
