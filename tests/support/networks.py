"""Small networks of the kinds that people train, and a recipe and tasks for them; torch is all that they load.

Shapes: P lanes, S items, B items of a batch, N images of a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpo.training.population import Task
from hpo.training.recipe import Adam, Hyper, LossColumns, Optimizer, Recipe, Tensors, dropout

ITEMS, BATCH, EPOCHS, CLASSES = 50, 16, 2, 3


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Items with their classes, as `hpo.experiment.items` has them where there is more than torch."""

    x: Tensor  # (S, ...)
    y: Tensor | None = None  # (S,)


class Residual(nn.Module):
    """A block of a small residual network: (N, channels, side, side), with the norm that is given."""

    def __init__(self, channels: int, norm: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = norm
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = F.relu(x + self.second(F.relu(self.norm(self.first(x)))))
        return out


class Points(nn.Module):
    """As PointNet: the same layers on every point of a cloud, the maximum over points, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Conv1d(2, 8, 1), nn.ReLU(), nn.Conv1d(8, 16, 1))
        self.top = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), dropout(8), nn.Linear(8, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.top(self.each(x).amax(-1))
        return out


class Attends(nn.Module):
    """A block of a transformer, with a parameter of its own beside its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(4, 8) * 0.02)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.block(x + self.place).mean(-2))
        return out


class Branches(nn.Module):
    """What it does depends on the numbers: that cannot be mapped over lanes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(4, 8, bias=False), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        out: Tensor = self.head(hidden.tanh() if hidden.sum() > 0 else hidden.relu())
        return out


def group_norm() -> nn.Module:
    """A small ResNet whose norms look at single images."""
    block = Residual(4, nn.GroupNorm(2, 4))
    return nn.Sequential(nn.Conv2d(1, 4, 3), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES))


def resnet() -> nn.Module:
    """A small ResNet as in the paper: BatchNorm after each convolution, two stages (He et al., CVPR 2016)."""
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), Residual(4, nn.BatchNorm2d(4)),
        nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        Residual(8, nn.BatchNorm2d(8)),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES),
    )  # fmt: skip


def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8, bias=False), nn.LayerNorm(8), nn.PReLU(), dropout(8), nn.Linear(8, CLASSES))


def batch_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), dropout(6), nn.Linear(6, CLASSES),
    )  # fmt: skip


class Placed(nn.Module):
    """Numbers of its own that no training changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.randn(4))
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(x + self.get_buffer("places"))
        return out


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {  # and the shape of an item
    "group norm": (group_norm, (1, 6, 6)),
    "resnet": (resnet, (1, 6, 6)),
    "points": (Points, (2, 5)),
    "transformer": (Attends, (4, 8)),
    "layer norm": (layer_norm, (4,)),
    "batch norm": (batch_norm, (1, 6, 6)),
    "buffer": (Placed, (4,)),
    "branches": (Branches, (4,)),
}


def loss(out: Tensor, columns: LossColumns, hyper: Hyper) -> tuple[Tensor, Tensor]:
    target = columns["y"]
    each = F.cross_entropy(out.flatten(0, -2), target.flatten(), reduction="none").view(target.shape).mean(-1)
    return each, each


def recipe_of(make: Callable[[], nn.Module], optimizer: Optimizer | None = None) -> Recipe:
    """By Adam, unless another optimizer is given."""

    def columns(items: Examples) -> dict[str, Tensor]:
        assert items.y is not None
        return {"y": items.y}

    return Recipe(make, Tensors, columns, loss, lambda out: out, batch=BATCH, optimizer=optimizer or Adam())


def task_on(shape: tuple[int, ...], lane: int) -> Task:
    generator = torch.Generator().manual_seed(lane)
    x = torch.randn(ITEMS, *shape, generator=generator, dtype=torch.float64)
    y = torch.randint(CLASSES, (ITEMS,), generator=generator)
    params = {"learning_rate": 1e-3 * (lane + 1), "weight_decay": 1e-3 * lane, "dropout": 0.2 * lane}
    return Task(key=lane, params=params, seed=lane, epochs=EPOCHS, training=Examples(x=x, y=y), validation=None)
