"""Dropout by lane: a layer whose mask the training sets before each step, and the masks of a step.

Shapes: P lanes, B items of a batch; "..." is nothing, or P lanes.
"""

from collections.abc import Mapping, Sequence

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
        mask = self.mask_in_force()
        return x if mask is None else x * mask

    def mask_in_force(self) -> Tensor | None:
        """The mask of this step; None in evaluation."""
        if not self.training:
            return None
        if self.mask is None:
            raise RuntimeError("Dropout has no mask: set it with hpo.training.dropout.set_masks")
        return self.mask


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
