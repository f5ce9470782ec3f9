"""Lockstep: P trainings of one model, a step at a time, as one batched program.

It holds P lanes' parameters and Adam state side by side, contiguous, and knows nothing of trials: the population
(`hpo.training.population`) copies lanes in, has an epoch trained, and copies them out. Nothing in an epoch waits
for the device.

Shapes: P lanes, B pairs of a batch, S samples of an epoch, T steps of an epoch, n parameters.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hpo.training import models, streams
from hpo.training.stacked import WindowTable, stack

BETA1, BETA2, EPS = 0.9, 0.999, 1e-8  # Adam's (Kingma, Ba, ICLR 2015), as torch.optim.Adam has them


class Layout:
    """Where a plain module's parameters lie in a flat buffer (P, n)."""

    def __init__(self, plain: nn.Module) -> None:
        self.shapes = {name: p.shape for name, p in plain.named_parameters()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a flat buffer (P, n) by parameter name, each with P in front."""
        parts = torch.split(flat, self.sizes, dim=1)
        return {
            name: part.view(len(flat), *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def bind(self, twin: nn.Module, flat: Tensor) -> None:
        """Make a stacked twin read its parameters from a flat buffer (P, n)."""
        values = self.views(flat)
        for name, parameter in twin.named_parameters():
            parameter.data = values[name]


def losses(logits: Tensor, digit_logits: Tensor | None, target: Tensor, digit: Tensor) -> tuple[Tensor, Tensor | None]:
    """Cross entropies, none summed: of the comparison (P, B) and, given logits for them, of the digits (P, B, 2)."""
    comparison = F.cross_entropy(logits.flatten(0, -2), target.flatten(), reduction="none").view(target.shape)
    if digit_logits is None:
        return comparison, None
    digits = F.cross_entropy(digit_logits.flatten(0, -2), digit.flatten(), reduction="none")
    return comparison, digits.view(digit.shape)


class Lockstep:
    """The step over up to `width` lanes of one model."""

    def __init__(
        self,
        plain: nn.Module,
        width: int,
        windows: WindowTable,
        *,
        batch: int,
        auxiliary: bool,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """`auxiliary`: whether the digits' losses are part of the objective."""
        self.layout, self.windows = Layout(plain), windows
        self.width, self.batch, self.auxiliary, self.dtype = width, batch, auxiliary, dtype
        self.twin = stack(plain).to(device, dtype)
        self._buffers = [torch.zeros(width, sum(self.layout.sizes), device=device, dtype=dtype) for _ in range(4)]
        self._mask_counters = streams.mask_counters(models.decisions(plain, batch), device)
        self._leaves = list(self.twin.parameters())
        self._use(width)

    def _use(self, lanes: int) -> None:
        """Use the first `lanes` rows of the buffers."""
        self.parameters, self.gradient, self.first, self.second = (buffer[:lanes] for buffer in self._buffers)
        self.layout.bind(self.twin, self.parameters)
        self._gradients = list(self.layout.views(self.gradient).values())

    def load(self, parameters: Tensor, first: Tensor, second: Tensor) -> None:
        """Take P <= width lanes: parameters and both moments (P, n), copied."""
        if len(parameters) != len(self.parameters):
            self._use(len(parameters))
        self.parameters.copy_(parameters)
        self.first.copy_(first)
        self.second.copy_(second)

    def epoch(
        self,
        corner: Tensor,
        digit: Tensor,
        hyper: Mapping[str, Tensor],
        steps: Tensor,
        dropout_keys: Tensor,
        stop: Callable[[], bool],
    ) -> Tensor | None:
        """Train all lanes on their samples in the order given; None where `stop` returned true before a step.

        corner and digit (P, S, 2), hyper (P,) float64 by name, steps (P,) that each lane has completed, dropout_keys
        (P,). The last batch has the samples that are left over. Returns the means over the epoch's samples of the
        comparison's loss and of the objective (2, P).
        """
        target = (digit[..., 0] <= digit[..., 1]).to(torch.int64)
        batches = list(zip(*(table.split(self.batch, dim=1) for table in (corner, digit, target)), strict=True))
        steps_TP = steps + torch.arange(len(batches), device=steps.device)[:, None]
        keys_TP = streams.step_keys(dropout_keys, steps_TP)
        rate_TP, eps_TP = self._corrections(hyper["learning_rate"], steps_TP + 1)
        decay, main, aux = (hyper[name].to(self.dtype) for name in ("weight_decay", "main_weight", "aux_weight"))
        shares_T = self._shares(target)
        seen = []
        self.twin.train()
        for t, (corner_PB, digit_PB, target_PB) in enumerate(batches):
            if stop():
                return None
            self._draw_masks(keys_TP[t], hyper["dropout"], target_PB.shape[1])
            logits, digit_logits = self.twin(self.windows.gather(corner_PB))
            digit_logits = digit_logits if self.auxiliary else None
            comparison_PB, digits = losses(logits, digit_logits, target_PB, digit_PB)
            comparison = objective = comparison_PB.mean(1)
            if digits is not None:
                objective = main * comparison + aux * digits.mean(1).sum(-1)
            gradients = torch.autograd.grad(objective.sum(), self._leaves)
            seen.append(torch.stack([comparison, objective]).detach())
            self._adam(gradients, rate_TP[t], eps_TP[t], decay)
        return torch.stack(seen).to(torch.float64).mul_(shares_T[:, None, None]).mean(0)

    def _draw_masks(self, keys: Tensor, drop: Tensor, pairs: int) -> None:
        """Set the dropout masks of one step, keys (P,) and drop (P,), on so many pairs."""
        counters = self._mask_counters
        if pairs < self.batch:
            counters = streams.mask_counters(models.decisions(self.twin, pairs), counters.device)
        masks = streams.keep_masks(keys, counters, drop)
        models.set_masks(self.twin, masks.to(self.dtype), pairs)

    def _shares(self, target: Tensor) -> Tensor:
        """Of each batch of an epoch (P, S): its size over their mean size (T,), which is 1 where all are equal."""
        sizes = [batch.shape[1] for batch in target.split(self.batch, dim=1)]
        shares = torch.tensor(sizes, dtype=torch.float64, device=target.device)
        return shares * len(sizes) / target.shape[1]

    def _corrections(self, learning_rate: Tensor, steps_TP: Tensor) -> tuple[Tensor, Tensor]:
        """Adam's rate and epsilon (T, P) with both bias corrections taken in.

        lr / (1 - b1^t) * m / (sqrt(v / (1 - b2^t)) + eps), with root = sqrt(1 - b2^t), is
        lr * root / (1 - b1^t) * m / (sqrt(v) + eps * root). In float64: in float32 they cost 1e-5 after 200 steps.
        """
        steps = steps_TP.to(torch.float64)
        root = (1 - BETA2**steps).sqrt()
        rate = learning_rate * root / (1 - BETA1**steps)
        return rate.to(self.dtype), (EPS * root).to(self.dtype)

    @torch.no_grad()
    def _adam(self, gradients: tuple[Tensor, ...], rate: Tensor, eps: Tensor, decay: Tensor) -> None:
        """Adam with coupled weight decay, each lane with its own rate, epsilon and decay (P,)."""
        torch._foreach_copy_(self._gradients, gradients)
        gradient = self.gradient.addcmul_(self.parameters, decay[:, None])
        self.first.lerp_(gradient, 1 - BETA1)
        self.second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        size = torch.sqrt(self.second, out=gradient).add_(eps[:, None])
        self.parameters.addcmul_(torch.div(self.first, size, out=size), rate[:, None], value=-1)
