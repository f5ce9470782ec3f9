"""The loop as most people write it: an eager `nn.Module`, NCHW images, `nn.Dropout`, `torch.optim.Adam`.

It is what the population is measured against, for speed and for what it learns.

Shapes: N images, S samples of an epoch.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpo.digits import draws, models
from hpo.training.dropout import Dropout

PAPER = {"learning_rate": 3e-3, "weight_decay": 2.5e-5, "dropout": 0.15, "aux_weight": 1.0, "main_weight": 0.5}


def module(name: str, dropout: float) -> nn.Module:
    """The architecture with PyTorch's own initialisation and dropout."""
    model = models.ARCHITECTURES[name]()
    for parent in list(model.modules()):
        for key, child in parent.named_children():
            if isinstance(child, Dropout):
                setattr(parent, key, nn.Dropout(dropout))
    return model


class PlainLoop:
    """One training of one model."""

    def __init__(
        self,
        name: str,
        images: Tensor,
        table: draws.PairTable,
        *,
        params: Mapping[str, float] = PAPER,
        batch: int = 100,
        device: str | torch.device = "cpu",
    ) -> None:
        """`images` (N, 14, 14); `table` the S samples of the training."""
        self.name, self.params, self.batch, self.device = name, params, batch, torch.device(device)
        self.model = module(name, params["dropout"]).to(self.device)
        self.adam = torch.optim.Adam(
            self.model.parameters(), lr=params["learning_rate"], weight_decay=params["weight_decay"]
        )
        self.images = draws.shifted(images[table.image], table.shift).to(self.device)  # (S, 2, 14, 14)
        self.target, self.digit = table.target.to(self.device), table.digit.to(self.device)

    def train_epoch(self) -> float:
        """Train for one epoch; the mean loss."""
        self.model.train()
        total = torch.zeros((), device=self.device)
        for batch in torch.randperm(len(self.images), device=self.device).split(self.batch):
            logits, digits = self.model(self.images[batch])
            loss = F.cross_entropy(logits, self.target[batch])
            if self.name == "ws-aux":
                digit = self.digit[batch]
                aux = F.cross_entropy(digits[:, 0], digit[:, 0]) + F.cross_entropy(digits[:, 1], digit[:, 1])
                loss = self.params["main_weight"] * loss + self.params["aux_weight"] * aux
            self.adam.zero_grad()
            loss.backward()
            self.adam.step()
            total += loss.detach()
        return total.item() * self.batch / len(self.images)

    @torch.no_grad()
    def accuracy(self, images: Tensor, table: draws.PairTable) -> float:
        """The fraction of right answers on a table of pairs over images (N, 14, 14)."""
        self.model.eval()
        pairs = draws.shifted(images[table.image], table.shift).to(self.device)
        logits, _ = self.model(pairs)
        return float((logits.argmax(1) == table.target.to(self.device)).to(torch.float64).mean())
