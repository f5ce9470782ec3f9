"""Parameters to begin with, from the streams of a seed."""

import torch
from torch import Tensor, nn

from hpo.training import streams


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
