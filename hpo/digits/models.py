"""The three architectures, as plain modules that read like the paper's tables.

They compare two 14x14 grey digits: output 1 where digit 1 <= digit 2. Every `forward` counts its dimensions
from the right, so that the same code serves one network and, its layers replaced by stacked twins
(`hpo.training.stacked`), a population of them with one more dimension in front.

Shapes: B pairs, C classes (2), D digit classes (10); "..." is nothing, or P lanes.
"""

import functools
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from hpo.training.dropout import Dropout


def _features(channels: int) -> list[nn.Module]:
    """Two convolutions: an image (channels, 14, 14) becomes 64 features (64, 1, 1)."""
    return [
        nn.Conv2d(channels, 32, 5),
        nn.MaxPool2d(2),
        nn.SELU(),
        nn.Conv2d(32, 64, 3),
        nn.MaxPool2d(3),
        nn.SELU(),
        nn.Flatten(-3),
    ]


def _comparison(inputs: int) -> list[nn.Module]:
    """The classifier on top: whether digit 1 <= digit 2."""
    return [
        nn.Linear(inputs, 230),
        nn.SELU(),
        Dropout(230),
        nn.Linear(230, 100),
        nn.SELU(),
        Dropout(100),
        nn.Linear(100, 2),
    ]


class Simple(nn.Module):
    """The pair as one image of two channels."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(*_features(2), *_comparison(64))

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pairs (..., B, 2, 14, 14) -> logits (..., B, C) and no digit logits."""
        return self.net(pairs), None


class WeightSharing(nn.Module):
    """The same layers read both images; their two outputs are compared.

    `ws` and `ws-aux` are both this network; only the training knows the auxiliary losses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.digit = nn.Sequential(
            *_features(1),
            nn.Linear(64, 120),
            nn.SELU(),
            Dropout(120, rows=2),
            nn.Linear(120, 10),
            nn.SELU(),
            Dropout(10, rows=2),
        )
        self.comparison = nn.Sequential(*_comparison(20))

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        """Pairs (..., B, 2, 14, 14) -> logits (..., B, C) and digit logits (..., B, 2, D)."""
        images = pairs.flatten(-4, -3).unsqueeze(-3)  # (..., 2B, 1, 14, 14)
        digits = self.digit(images).unflatten(-2, (-1, 2))
        return self.comparison(digits.flatten(-2)), digits


class Architecture(Protocol):
    """Makes a new network."""

    def __call__(self) -> nn.Module: ...


ARCHITECTURES: Mapping[str, Architecture] = {
    "simple": Simple,
    "ws": WeightSharing,
    "ws-aux": WeightSharing,
}
CLASSIFIES_DIGITS = frozenset({"ws-aux"})  # models that are trained to classify the digits too


@functools.cache
def parameter_count(name: str) -> int:
    """How many parameters an architecture has."""
    with torch.device("meta"):  # nothing is allocated or drawn
        return sum(parameter.numel() for parameter in ARCHITECTURES[name]().parameters())
