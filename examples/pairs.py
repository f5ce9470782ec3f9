"""A fourth network on the pairs of digits, beside the three that ship with hpo.

It reads both digits with the same layers, as `ws` does, but has no layers that compare them: the chance that digit 1 is
at most digit 2 follows from the two distributions over digits.
"""

import torch
from torch import nn
from torch.nn import functional as F

import hpo
from hpo.digits import extended


class SoftComparison(nn.Module):
    def __init__(self):
        super().__init__()
        first = [nn.Conv2d(1, 32, 5), nn.MaxPool2d(2), nn.SELU(), nn.Conv2d(32, 64, 3), nn.MaxPool2d(3), nn.SELU()]
        self.digit = nn.Sequential(*first, nn.Flatten(-3), nn.Linear(64, 120), nn.SELU(), nn.Linear(120, 10))

    def forward(self, pairs):
        images = pairs.flatten(-4, -3).unsqueeze(-3)
        p = self.digit(images).unflatten(-2, (-1, 2)).softmax(-1)  # (..., pairs, 2, 10)
        at_least = p[..., 1, :].flip(-1).cumsum(-1).flip(-1)  # the chance that digit 2 is at least 0, 1, ... 9
        chance = (p[..., 0, :] * at_least).sum(-1).clamp(1e-6, 1 - 1e-6)
        return torch.stack([torch.log1p(-chance), chance.log()], -1)


def loss(out, columns, hyper):
    each = F.cross_entropy(out.flatten(0, -2), columns["target"].flatten(), reduction="none")
    mean = each.view(columns["target"].shape).mean(-1)
    return mean, mean


soft = hpo.Model(
    hpo.Recipe(SoftComparison, hpo.Tensors, lambda items: {"target": items.y[:, 0]}, loss, lambda out: out, batch=100),
    space={"learning_rate": hpo.Float(1e-4, 3e-2, log=True), "weight_decay": hpo.Float(1e-7, 1e-2, log=True)},
    reference={"learning_rate": 1e-3, "weight_decay": 1e-5},
)
pairs = extended({"ws-soft": soft})
