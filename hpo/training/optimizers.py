"""Optimizers by lane: what `hpo.training.recipe` names, step by step, each lane with hyperparameters of its own.

Held against torch's own by tests.

Shapes: P lanes, T steps of an epoch, n parameters.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hpo.training.kernels import selection
from hpo.training.recipe import SGD, AdamW, Hyper, Optimizer

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # Adam's (Kingma, Ba, ICLR 2015), as torch.optim.Adam has them
_NORM_EPS = 1e-6  # as torch.nn.utils.clip_grad_norm_ has it

StepNumbers = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class TrainedState:
    """What an optimizer changes, all (P, n): SGD has one moment, its momentum."""

    parameters: Tensor
    gradient: Tensor
    first: Tensor
    second: Tensor


def numbers_of_steps(
    optimizer: Optimizer, hyper: Hyper, steps_TP: Tensor, total: Tensor, dtype: torch.dtype
) -> dict[str, Tensor]:
    """What differs from step to step, each (T, P).

    Of hyper (P,) in float64, the steps that each lane has completed before each, and of how many in all (P,). Of Adam:
    rate and epsilon with both bias corrections taken in. lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps), with
    root = sqrt(1 - b2^t), is lr * root / (1 - b1^t) * m / (sqrt(v) + eps * root). In float64: in float32 they cost 1e-5
    after 200 steps.
    """
    rate = hyper[optimizer.rate]
    if optimizer.schedule is not None:
        rate = rate * optimizer.schedule(steps_TP.to(torch.float64) / total, hyper)
    if isinstance(optimizer, SGD):
        return {"rate": rate.expand(steps_TP.shape).to(dtype)}
    taken = (steps_TP + 1).to(torch.float64)
    root = (1 - BETA2**taken).sqrt()
    numbers = {"rate": rate * root / (1 - BETA1**taken), "eps": EPS * root}
    if isinstance(optimizer, AdamW) and optimizer.decay is not None:
        numbers["kept"] = (1 - rate * hyper[optimizer.decay]).expand(steps_TP.shape)
    return {name: values.to(dtype) for name, values in numbers.items()}


def numbers_of_training(optimizer: Optimizer, hyper: Hyper, like: Tensor) -> dict[str, Tensor]:
    """What is the same in all steps, each (P,): hyper in the precision of the population; `like` is one of them."""
    named = {"clip": optimizer.clip}
    if not isinstance(optimizer, AdamW):
        named["decay"] = optimizer.decay
    if isinstance(optimizer, SGD) and optimizer.momentum != 0:
        named["momentum"] = optimizer.momentum
    return {
        what: hyper[value] if isinstance(value, str) else torch.full_like(like, value)
        for what, value in named.items()
        if value is not None
    }


def update(optimizer: Optimizer, of: TrainedState, step: StepNumbers, training: StepNumbers) -> None:
    """One step, in place; `step` (P,) of `numbers_of_steps`, `training` (P,) of `numbers_of_training`."""
    if (clip := training.get("clip")) is not None:
        norms = torch.stack(torch._foreach_norm(of.gradient.unbind()))  # each lane's by itself: its bits are its own
        of.gradient.mul_((clip / (norms + _NORM_EPS)).clamp(max=1)[:, None])
    if isinstance(optimizer, SGD):
        _sgd(of, step["rate"], training, nesterov=optimizer.nesterov)
        return
    if (kept := step.get("kept")) is not None:
        of.parameters.mul_(kept[:, None])
    _adam(of, step["rate"], step["eps"], training.get("decay"))


def _adam(of: TrainedState, rate: Tensor, eps: Tensor, decay: Tensor | None) -> None:
    """Adam with coupled weight decay, each lane with its own rate, epsilon and decay (P,)."""
    if fast := selection.for_device(rate.device, rate.dtype):
        fast.adam(of.parameters, of.gradient, of.first, of.second, rate, eps, decay)
        return
    gradient = of.gradient if decay is None else of.gradient.addcmul_(of.parameters, decay[:, None])
    of.first.lerp_(gradient, 1 - BETA1)
    of.second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    size = torch.sqrt(of.second, out=gradient).add_(eps[:, None])
    of.parameters.addcmul_(torch.div(of.first, size, out=size), rate[:, None], value=-1)


def _sgd(of: TrainedState, rate: Tensor, training: StepNumbers, *, nesterov: bool) -> None:
    """Gradient descent with coupled weight decay and momentum (P,)."""
    gradient = of.gradient
    if (decay := training.get("decay")) is not None:
        gradient.addcmul_(of.parameters, decay[:, None])
    if (momentum := training.get("momentum")) is not None:
        moved = of.first.mul_(momentum[:, None]).add_(gradient)
        gradient = gradient.addcmul_(moved, momentum[:, None]) if nesterov else moved
    of.parameters.addcmul_(gradient, rate[:, None], value=-1)
