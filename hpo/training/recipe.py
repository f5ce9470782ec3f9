"""Recipes: how a model in torch is trained, in parts that serve one training and a population of them alike.

Loads no torch, so that a user's file can be imported without it.

Shapes: P lanes, B items of a batch, S items of a table; "..." is nothing, or P lanes.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from hpo.training.windows import WindowTable

LossColumns = Mapping[str, "Tensor"]  # by name, each (P, B, ...)
Hyper = Mapping[str, "Tensor"]  # by name, each (P,); 0 in a lane where it is not active
TrainingLoss = Callable[[Any, LossColumns, Hyper], tuple["Tensor", "Tensor"]]


class Inputs(ABC):
    """What the module reads, made from a pool once and kept on the device for all lanes."""

    windows: "WindowTable | None" = None  # where the first convolution finds the windows that `batch` gives corners of

    @abstractmethod
    def to(self, device: "torch.device", dtype: "torch.dtype") -> Self:
        """The same on a device, numbers in this precision."""

    @abstractmethod
    def index(self, table: Any) -> "Tensor":
        """What of these inputs the items of a table are: (S, ...) on the device, kept for each lane."""

    @abstractmethod
    def batch(self, index: "Tensor") -> "Tensor":
        """The module's inputs (P, B, ...) for rows (P, B, ...) of that index."""


class Tensors(Inputs):
    """The features of the items themselves: numbers (S, ...), kept on the device for each lane."""

    def __init__(self, pool: Any = None) -> None:
        """Nothing is taken from the pool."""
        self._device: torch.device | None = None
        self._dtype: torch.dtype | None = None

    def to(self, device: "torch.device", dtype: "torch.dtype") -> Self:
        """Features of any items, there."""
        there = type(self)()
        there._device, there._dtype = device, dtype
        return there

    def index(self, table: Any) -> "Tensor":
        """Their features: (S, ...), whole numbers too in the population's precision."""
        return to_tensor(table.x, "x").to(self._device, self._dtype)

    def batch(self, index: "Tensor") -> "Tensor":
        """The features are the inputs."""
        return index


def to_tensor(values: Any, what: str) -> "Tensor":
    """An array, a data frame of numbers or a tensor as a tensor; TypeError names `what` holds no numbers."""
    import torch

    if isinstance(values, torch.Tensor):
        return values
    import numpy as np  # here: where there is torch alone, all are tensors

    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"a recipe reads numbers, but {what} is of type {array.dtype}; make numbers of it in load")
    tensor = torch.from_numpy(np.array(array, order="C"))  # a copy that may be written to
    return tensor if tensor.is_floating_point() else tensor.to(torch.int64)


def dropout(features: int, *, rate: str = "dropout") -> "nn.Module":
    """A dropout layer on rows of so many features, whose probability is the hyperparameter called `rate`.

    torch's own has one probability for all lanes and draws from a generator that they would share.
    """
    from hpo.training.dropout import Dropout

    return Dropout(features, rate=rate)


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam with coupled weight decay, as `torch.optim.Adam`: the hyperparameters that each lane has its own of."""

    rate: str = "learning_rate"
    decay: str | None = "weight_decay"  # None: there is none

    @property
    def names(self) -> tuple[str, ...]:
        """The hyperparameters that it needs."""
        return (self.rate,) if self.decay is None else (self.rate, self.decay)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, for one lane and for many.

    `module()` is a new network whose `forward` counts dimensions from the right. `inputs(pool)` are what it reads,
    `columns(table)` what the loss needs of each item of a table (S, ...), made once at the draw. A user's recipe gets
    the items of its training, or those to be predicted, for pool and table alike.
    `loss(out, columns, hyper)` is (P,) twice: the loss that is shown, and the objective whose gradient is followed.
    `outputs(out)` is what is measured of items: a tensor (P, B, ...), or several by name.
    """

    module: Callable[[], "nn.Module"]
    inputs: Callable[[Any], Inputs]
    columns: Callable[[Any], Mapping[str, Any]]
    loss: TrainingLoss
    outputs: Callable[[Any], Any]
    batch: str | int = "batch_size"  # items a step: a number, or the constant of the space that says it
    optimizer: Adam = Adam()

    @property
    def parts(self) -> tuple[Any, ...]:
        """Whose code decides what it trains."""
        return (self.module, self.inputs, self.columns, self.loss, self.outputs)

    @property
    def names(self) -> tuple[str, ...]:
        """The hyperparameters that it needs, beside those of the module's dropout and of the loss."""
        return (*self.optimizer.names, self.batch) if isinstance(self.batch, str) else self.optimizer.names
