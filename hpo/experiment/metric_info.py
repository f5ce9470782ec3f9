"""What those know of a metric who only compare its values: which are better, in what unit, how they combine."""

import math
from dataclasses import dataclass
from typing import Literal

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
