"""The three architectures, as plain modules that read like the paper's tables.

They compare two 14x14 grey digits: output 1 where digit 1 <= digit 2. Every `forward` counts its dimensions
from the right, so that the same code serves one network and, its layers replaced by stacked twins
(`hpo.training.stacked`), a population of them with one more dimension in front.

Shapes: B pairs, C classes (2), D digit classes (10); "..." is nothing, or P lanes.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from hpo.training import streams


class Dropout(nn.Module):
    """Multiplies by a mask that the training sets before each step.

    `nn.Dropout` takes a float and the global generator; here probability and mask come from the lane.
    In evaluation mode it is the identity.
    """

    mask: Tensor | None = None

    def __init__(self, features: int, rows: int = 1, *, rate: str = "dropout") -> None:
        """`features` numbers a row, `rows` rows an item (2 where both images of a pair pass through it).

        `rate` is the hyperparameter that says the probability with which a number is dropped.
        """
        super().__init__()
        self.features, self.rows, self.rate = features, rows, rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        if self.mask is None:
            raise RuntimeError("Dropout has no mask: set it with hpo.training.models.set_masks")
        return x * self.mask


def dropouts(model: nn.Module) -> list[Dropout]:
    """The model's dropout layers in the order of its table."""
    return [m for m in model.modules() if isinstance(m, Dropout)]


def decisions(model: nn.Module, pairs: int) -> int:
    """How many dropout decisions a step on so many pairs takes."""
    return sum(d.features * d.rows for d in dropouts(model)) * pairs


def drop_rates(layers: Sequence[Dropout], hyper: Mapping[str, Tensor], items: int, words: int) -> Tensor:
    """The probability of each of a step's decisions (P, 4 * words), or (P,) where all layers have the same."""
    if len({layer.rate for layer in layers}) == 1:
        return hyper[layers[0].rate]
    many = [layer.features * layer.rows * items for layer in layers]
    rest = streams.DECISIONS * words - sum(many)
    rates = [hyper[layer.rate][:, None].expand(-1, n) for layer, n in zip(layers, many, strict=True)]
    return torch.cat([*rates, torch.zeros_like(rates[0][:, :1]).expand(-1, rest)], dim=1)


def set_masks(model: nn.Module, masks: Tensor, pairs: int) -> None:
    """Distribute the masks (..., decisions) of one step to the dropout layers."""
    start = 0
    for layer in dropouts(model):
        n = layer.features * layer.rows * pairs
        layer.mask = masks[..., start : start + n].reshape(*masks.shape[:-1], layer.rows * pairs, layer.features)
        start += n


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


def initial_parameters(model: nn.Module, seed: int) -> dict[str, Tensor]:
    """PyTorch's default initialisation from our streams: U(-b, b), b = 1 / sqrt(fan_in), biases too.

    The same numbers on every device; float32 tensors on the CPU by parameter name.
    """
    values: dict[str, Tensor] = {}
    for prefix, layer in model.named_modules():
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        bound = layer.weight[0].numel() ** -0.5
        for name, parameter in layer.named_parameters(prefix, recurse=False):
            u = streams.uniform(streams.key(seed, f"init {name}"), parameter.numel())
            values[name] = ((2 * u - 1) * bound).to(torch.float32).view(parameter.shape)
    return values
