"""The recipes of the three networks that compare two digits: their inputs, losses, and what is measured of them.

Shapes: P lanes, B pairs of a batch, E evaluation pairs, S samples, N images, C classes (2), D digit classes (10).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from hpo.digits import models
from hpo.digits.draws import ImagePool, PairTable
from hpo.training.population import ItemMetric, Prediction
from hpo.training.recipe import Hyper, Inputs, LossColumns, Recipe
from hpo.training.windows import WindowTable

KERNEL, POOL = 5, 2  # of the first convolution and of the pooling after it, in all three networks
ACCURACY, CROSS_ENTROPY = "accuracy", "cross_entropy"


class ShiftedImages(Inputs):
    """Pairs of images, each shifted by up to a pixel, as the windows that the first convolution reads."""

    windows: WindowTable

    def __init__(self, images: Tensor) -> None:
        """`images` (N, 14, 14)."""
        self.windows = WindowTable(images, KERNEL, POOL)
        self._images = images

    def to(self, device: torch.device, dtype: torch.dtype) -> Self:
        """The windows of the same images, cut there."""
        return type(self)(self._images.to(device, dtype))

    def index(self, table: PairTable) -> Tensor:
        """The rows of both images' first windows: (S, 2)."""
        return self.windows.corners(table.image, table.shift)

    def batch(self, index: Tensor) -> Tensor:
        """The corners of the windows of pairs (P, B, 2), in the place of images: (P, B, 2, 1, 1)."""
        return index[..., None, None]


def targets(pairs: PairTable) -> Mapping[str, Tensor]:
    """Whether digit 1 <= digit 2: target (S,)."""
    return {"target": pairs.target}


def targets_and_digits(pairs: PairTable) -> Mapping[str, Tensor]:
    """target (S,) and the true digits, digit (S, 2)."""
    return {"target": pairs.target, "digit": pairs.digit}


def cross_entropies(logits: Tensor, target: Tensor) -> Tensor:
    """Of logits (..., C) against targets (...): none summed, (...)."""
    return F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none").view(target.shape)


def comparison_loss(out: tuple[Tensor, Tensor | None], columns: LossColumns, hyper: Hyper) -> tuple[Tensor, Tensor]:
    """The comparison's cross entropy is the objective too."""
    loss = cross_entropies(out[0], columns["target"]).mean(1)
    return loss, loss


def auxiliary_loss(out: tuple[Tensor, Tensor], columns: LossColumns, hyper: Hyper) -> tuple[Tensor, Tensor]:
    """The objective has the cross entropies of both digits as well, weighted."""
    logits, digit_logits = out
    comparison = cross_entropies(logits, columns["target"]).mean(1)
    digits = cross_entropies(digit_logits, columns["digit"]).mean(1).sum(-1)
    return comparison, hyper["main_weight"] * comparison + hyper["aux_weight"] * digits


def comparison_outputs(out: tuple[Tensor, Tensor | None]) -> Mapping[str, Tensor]:
    """logits (P, E, C)."""
    return {"logits": out[0]}


def auxiliary_outputs(out: tuple[Tensor, Tensor]) -> Mapping[str, Tensor]:
    """logits (P, E, C) and the digits taken for the likeliest (P, E, 2)."""
    return {"logits": out[0], "digits": out[1].argmax(-1)}


def answers(logits: Tensor) -> Tensor:
    """Whether digit 1 <= digit 2 is what logits (..., C) say: (...)."""
    return logits[..., 1] > logits[..., 0]


METRICS: Mapping[str, ItemMetric] = {
    CROSS_ENTROPY: lambda outputs, columns: cross_entropies(outputs["logits"], columns["target"]),
    ACCURACY: lambda outputs, columns: answers(outputs["logits"]) == columns["target"].bool(),
}

_PARTS: Mapping[str, tuple[Any, Any, Any]] = {
    "simple": (targets, comparison_loss, comparison_outputs),
    "ws": (targets, comparison_loss, comparison_outputs),
    "ws-aux": (targets_and_digits, auxiliary_loss, auxiliary_outputs),
}


def _module(name: str) -> torch.nn.Module:
    return models.ARCHITECTURES[name]()


def _inputs(pool: ImagePool) -> ShiftedImages:
    return ShiftedImages(pool.images)


RECIPES: Mapping[str, Recipe] = {
    name: Recipe(partial(_module, name), _inputs, columns, loss, outputs)
    for name, (columns, loss, outputs) in _PARTS.items()
}


@dataclass(frozen=True, kw_only=True)
class PairAnswers:
    """Answers on a table of pairs, dropout off; on the CPU."""

    loss: float  # cross entropy of the comparison
    accuracy: float  # fraction
    answer: Tensor  # (E,) 0 or 1
    digits: Tensor | None  # (E, 2) the predicted digits, where the model is trained to classify them

    @classmethod
    def of(cls, prediction: Prediction) -> Self:
        """What a population's prediction says of the pairs."""
        scores, outputs = prediction.scores, prediction.outputs
        digits = outputs.get("digits")
        return cls(
            loss=float(scores[CROSS_ENTROPY].mean()),
            accuracy=float(scores[ACCURACY].to(torch.float64).mean()),
            answer=answers(outputs["logits"]).cpu(),
            digits=None if digits is None else digits.cpu(),
        )
