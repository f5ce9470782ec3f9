"""Items, and how they are drawn: what trainings and metrics see of a data set.

n items; their features are an array (n, ...), a mapping of arrays (n, ...), or a data frame of n rows.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ExperimentError
from hpo.experiment.randomness import generator


@dataclass(frozen=True)
class Items:
    """Items with what is to be predicted of them; unpacks to (x, y)."""

    x: Any  # (n, ...)
    y: Any = None  # (n, ...); None: nothing is given
    unit: NDArray[Any] | None = None  # (n,) or (n, u): what each was sampled from, a patient, the two images of a pair

    def __post_init__(self) -> None:
        n = length(self.x)
        for name, values in (("y", self.y), ("unit", self.unit)):
            if values is not None and length(values) != n:
                raise ExperimentError(f"items: {name} has {length(values)} entries for {n} items")
        if self.unit is not None and np.ndim(self.unit) not in (1, 2):
            raise ExperimentError(f"items: unit must be (n,) or (n, u), not {np.shape(self.unit)}")

    def __len__(self) -> int:
        return length(self.x)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.x, self.y))

    def take(self, index: NDArray[np.intp]) -> "Items":
        """The items at these places, in this order."""
        return Items(
            x=take(self.x, index),
            y=None if self.y is None else take(self.y, index),
            unit=None if self.unit is None else self.unit[index],
        )


@dataclass(frozen=True)
class DrawnRows(Items):
    """Training rows of `rows`, with what a further split of them goes by."""

    stratum: NDArray[np.intp] | None = None  # (n,) the class of each
    time: NDArray[Any] | None = None  # (n,)

    def take(self, index: NDArray[np.intp]) -> "DrawnRows":
        """The rows at these places, in this order."""
        items = super().take(index)
        parts = {name: None if (part := getattr(self, name)) is None else part[index] for name in ("stratum", "time")}
        return DrawnRows(items.x, items.y, items.unit, **parts)


@dataclass(frozen=True, kw_only=True)
class Draw:
    """What a draw of items may depend on: it is the same wherever and whenever it is made."""

    seed: int  # 63 bits
    fold: int = 0
    folds: int = 1
    options: Any = None  # the study's [data], an instance of the experiment's dataclass

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator for one purpose: independent of those for others, and of any other seed's."""
        return generator(self.seed, "draw", purpose)


def length(x: Any) -> int:
    """How many items there are; ExperimentError where that cannot be told."""
    if isinstance(x, Mapping):
        lengths = {name: length(values) for name, values in x.items()}
        if len(set(lengths.values())) != 1:
            raise ExperimentError(
                f"items: a mapping of equally long arrays is wanted, these have the lengths {lengths}"
            )
        return next(iter(lengths.values()))
    if hasattr(x, "toarray"):  # SciPy's, whose len() raises
        raise ExperimentError("items: a sparse matrix has no rows that can be taken one by one; use x.toarray()")
    if isinstance(x, str) or not hasattr(x, "__len__") or not len(getattr(x, "shape", (1,))):
        raise ExperimentError(f"items: {type(x).__name__} is neither an array, a mapping of arrays nor a data frame")
    return len(x)


def take(x: Any, index: NDArray[np.intp]) -> Any:
    """The entries at these places of an array, a mapping of arrays, a data frame or a list."""
    if isinstance(x, Mapping):
        return {name: take(values, index) for name, values in x.items()}
    if hasattr(x, "iloc"):
        return x.iloc[index]
    if isinstance(x, list | tuple):
        return [x[i] for i in index]
    return x[index]
