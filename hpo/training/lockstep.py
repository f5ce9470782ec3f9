"""Lockstep: P trainings of one model, a step at a time, as one batched program.

It holds P lanes' parameters and Adam state side by side, contiguous, and knows nothing of trials: the population
(`hpo.training.population`) copies lanes in, has an epoch trained, and copies them out. Nothing in an epoch waits
for the device.

Shapes: P lanes, B items of a batch, S items of an epoch, T steps of an epoch, n parameters.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hpo.training import dropout, streams
from hpo.training.recipe import Hyper, Inputs, LossColumns, Recipe
from hpo.training.stacked import stack

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


class Lockstep:
    """The step over up to `width` lanes of one model."""

    def __init__(
        self,
        recipe: Recipe,
        plain: nn.Module,
        width: int,
        inputs: Inputs,
        *,
        batch: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """`plain` is the recipe's module, `inputs` are its inputs, on the device."""
        self.layout, self.recipe, self.inputs = Layout(plain), recipe, inputs
        self.width, self.batch, self.dtype = width, batch, dtype
        self.twin = stack(plain, windows=inputs.windows).to(device, dtype)
        self._buffers = [torch.zeros(width, sum(self.layout.sizes), device=device, dtype=dtype) for _ in range(4)]
        self._mask_counters = streams.mask_counters(dropout.decisions(plain, batch), device)
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
        index: Tensor,
        columns: LossColumns,
        hyper: Hyper,
        steps: Tensor,
        dropout_keys: Tensor,
        stop: Callable[[], bool],
    ) -> Tensor | None:
        """Train all lanes on their items in the order given; None where `stop` returned true before a step.

        index and columns (P, S, ...), hyper (P,) float64 by name, steps (P,) that each lane has completed, dropout_keys
        (P,). The last batch has the items that are left over. Returns the means over the epoch's items of the loss
        that is shown and of the objective (2, P).
        """
        batches = index.split(self.batch, dim=1)
        columns_T = self._split(columns, len(batches))
        steps_TP = steps + torch.arange(len(batches), device=steps.device)[:, None]
        keys_TP = streams.step_keys(dropout_keys, steps_TP)
        adam = self.recipe.optimizer
        rate_TP, eps_TP = self._corrections(hyper[adam.rate], steps_TP + 1)
        rounded = {name: values.to(self.dtype) for name, values in hyper.items()}
        decay = None if adam.decay is None else rounded[adam.decay]
        shares_T = self._shares(index)
        seen = []
        self.twin.train()
        for t, (index_PB, columns_PB) in enumerate(zip(batches, columns_T, strict=True)):
            if stop():
                return None
            self._draw_masks(keys_TP[t], hyper, index_PB.shape[1])
            out = self.twin(self.inputs.batch(index_PB))
            shown, objective = self.recipe.loss(out, columns_PB, rounded)
            gradients = torch.autograd.grad(objective.sum(), self._leaves)
            seen.append(torch.stack([shown, objective]).detach())
            self._adam(gradients, rate_TP[t], eps_TP[t], decay)
        return torch.stack(seen).to(torch.float64).mul_(shares_T[:, None, None]).mean(0)

    def _split(self, columns: LossColumns, batches: int) -> list[dict[str, Tensor]]:
        """The columns of each batch."""
        parts = {name: values.split(self.batch, dim=1) for name, values in columns.items()}
        return [{name: part[t] for name, part in parts.items()} for t in range(batches)]

    def _draw_masks(self, keys: Tensor, hyper: Hyper, items: int) -> None:
        """Set the dropout masks of one step, keys (P,), on so many items."""
        layers = dropout.dropouts(self.twin)
        if not layers:
            return
        counters = self._mask_counters
        if items < self.batch:
            counters = streams.mask_counters(dropout.decisions(self.twin, items), counters.device)
        masks = streams.keep_masks(keys, counters, dropout.drop_rates(layers, hyper, items, counters.numel()))
        dropout.set_masks(self.twin, masks.to(self.dtype), items)

    def _shares(self, index: Tensor) -> Tensor:
        """Of each batch of an epoch (P, S): its size over their mean size (T,), which is 1 where all are equal."""
        sizes = [batch.shape[1] for batch in index.split(self.batch, dim=1)]
        shares = torch.tensor(sizes, dtype=torch.float64, device=index.device)
        return shares * len(sizes) / index.shape[1]

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
    def _adam(self, gradients: tuple[Tensor, ...], rate: Tensor, eps: Tensor, decay: Tensor | None) -> None:
        """Adam with coupled weight decay, each lane with its own rate, epsilon and decay (P,)."""
        torch._foreach_copy_(self._gradients, gradients)
        gradient = self.gradient if decay is None else self.gradient.addcmul_(self.parameters, decay[:, None])
        self.first.lerp_(gradient, 1 - BETA1)
        self.second.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
        size = torch.sqrt(self.second, out=gradient).add_(eps[:, None])
        self.parameters.addcmul_(torch.div(self.first, size, out=size), rate[:, None], value=-1)
