"""Recipes: how a model in torch is trained, in parts that serve one training and a population of them alike.

Loads no torch, so that a user's file can be imported without it.

Shapes: P lanes, B items of a batch, S items of a table; "..." is nothing, or P lanes.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from hpo.training.windows import WindowTable

LossColumns = Mapping[str, "Tensor"]  # by name, each (P, B, ...)
Hyper = Mapping[str, "Tensor"]  # by name, each (P,); 0 in a lane where it is not active
Schedule = Callable[["Tensor", Hyper], "Tensor"]  # of the share of the steps that is done (T, P), from 0 to below 1
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
class Optimizer:
    """What all optimizers have: which hyperparameters, of which each lane has its own value, they take."""

    rate: str = "learning_rate"
    decay: str | None = "weight_decay"  # None: there is none
    clip: str | float | None = None  # the largest norm of a step's gradient: a hyperparameter or a number
    schedule: "Schedule | None" = None  # what the learning rate is multiplied with, step by step

    def __post_init__(self) -> None:
        if not isinstance(self.clip, str | None) and not self.clip > 0:
            raise ValueError(f"clip must be a number above 0 or a hyperparameter's name, not {self.clip!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """The hyperparameters that it needs."""
        named = (self.rate, self.decay, self.clip, *getattr(self.schedule, "names", ()))
        return tuple(name for name in named if isinstance(name, str))


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam with coupled weight decay, as `torch.optim.Adam` (Kingma, Ba, ICLR 2015)."""


@dataclass(frozen=True, kw_only=True)
class AdamW(Optimizer):
    """Adam with decoupled weight decay, as `torch.optim.AdamW` (Loshchilov, Hutter, ICLR 2019)."""


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent, as `torch.optim.SGD`; momentum is a hyperparameter or a number."""

    momentum: str | float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.momentum, str) and not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be from 0 to below 1 or a name, not {self.momentum!r}")
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov needs a momentum above 0, as torch's does")

    @property
    def names(self) -> tuple[str, ...]:
        """The hyperparameters that it needs."""
        return (*super().names, *((self.momentum,) if isinstance(self.momentum, str) else ()))


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """The learning rate rises linearly over a first share of the steps, then falls as a half cosine.

    To zero, or to a share of its height (Loshchilov, Hutter, ICLR 2017). Both are a hyperparameter or a number.
    """

    warmup: str | float = 0.0
    floor: str | float = 0.0

    def __post_init__(self) -> None:
        for what, share in (("warmup", self.warmup), ("floor", self.floor)):
            if not isinstance(share, str) and not 0 <= share <= 1:
                raise ValueError(f"{what} must be a share from 0 to 1 or a hyperparameter's name, not {share!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """The hyperparameters that it needs."""
        return tuple(name for name in (self.warmup, self.floor) if isinstance(name, str))

    def __call__(self, done: "Tensor", hyper: Hyper) -> "Tensor":
        """What the rate is multiplied with, of the share of the steps that is done."""
        import torch

        warmup, floor = (hyper[x] if isinstance(x, str) else done.new_tensor(x) for x in (self.warmup, self.floor))
        falling = ((done - warmup) / (1 - warmup).clamp(min=1e-9)).clamp(0, 1)
        height = floor + (1 - floor) * (1 + torch.cos(torch.pi * falling)) / 2
        return torch.where(done < warmup, done / warmup.clamp(min=1e-9), height)


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, for one lane and for many.

    `module()` is a new network whose `forward` counts dimensions from the right; where `structure` names
    hyperparameters it is given their values by name, and trainings with the same ones are lanes of one population.
    `inputs(pool)` are what it reads, `columns(table)` what the loss needs of each item of a table (S, ...), made once
    at the draw. A user's recipe gets the items of its training, or those to be predicted, for pool and table alike.
    `loss(out, columns, hyper)` is (P,) twice: the loss that is shown, and the objective whose gradient is followed.
    `outputs(out)` is what is measured of items: a tensor (P, B, ...), or several by name.
    """

    module: Callable[..., "nn.Module"]
    inputs: Callable[[Any], Inputs]
    columns: Callable[[Any], Mapping[str, Any]]
    loss: TrainingLoss
    outputs: Callable[[Any], Any]
    batch: str | int = "batch_size"  # items a step: a number, or the constant of the space that says it
    optimizer: Optimizer = Adam()
    structure: tuple[str, ...] = ()  # hyperparameters that the module is made from

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, Optimizer):
            raise TypeError(f"optimizer must be hpo.Adam(), hpo.AdamW() or hpo.SGD(), not {self.optimizer!r}")
        if isinstance(self.structure, str):
            raise TypeError(f'structure must be a tuple of names: ("{self.structure}",)')

    @property
    def parts(self) -> tuple[Any, ...]:
        """Whose code decides what it trains."""
        return (self.module, self.inputs, self.columns, self.loss, self.outputs)

    @property
    def names(self) -> tuple[str, ...]:
        """The hyperparameters that it needs, beside those of the module's dropout and of the loss."""
        batch = (self.batch,) if isinstance(self.batch, str) else ()
        return (*self.optimizer.names, *batch, *self.structure)

    def built(self, params: Mapping[str, Any]) -> "Recipe":
        """The same for trainings whose structure is that of these hyperparameters."""
        values = {name: params[name] for name in self.structure}
        return replace(self, module=functools.partial(self.module, **values), structure=())
