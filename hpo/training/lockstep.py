"""Lockstep: P trainings of one model, a step at a time, as one batched program.

It holds P lanes' parameters and Adam state side by side, contiguous, and knows nothing of trials: the population
(`hpo.training.population`) copies lanes in, has an epoch trained, and copies them out. Nothing in an epoch waits
for the device.

Shapes: P lanes, B items of a batch, S items of an epoch, T steps of an epoch, n parameters.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from hpo.training import dropout, graph, optimizers, streams
from hpo.training.graph import Constants, StepGraph, Steps
from hpo.training.kernels import selection
from hpo.training.mapped import twin_of
from hpo.training.memory import is_out_of_memory
from hpo.training.recipe import Hyper, Inputs, LossColumns, Recipe
from hpo.training.stacked import read_windows

logger = logging.getLogger(__name__)


class Layout:
    """Where a plain module's parameters lie in a flat tensor (P, n), and what its buffers are."""

    def __init__(self, plain: nn.Module) -> None:
        self.shapes = {name: p.shape for name, p in plain.named_parameters()}
        self.sizes = [shape.numel() for shape in self.shapes.values()]
        self._buffers = {name: (buffer.shape, buffer.dtype) for name, buffer in plain.named_buffers()}

    def buffers(self, lanes: int, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """Tensors (P, ...) for the buffers of so many lanes, by name, all zero."""
        return {
            name: torch.zeros(lanes, *shape, device=device, dtype=dtype if kind.is_floating_point else kind)
            for name, (shape, kind) in self._buffers.items()
        }

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """Views of a flat tensor (P, n) by parameter name, each with P in front."""
        parts = torch.split(flat, self.sizes, dim=1)
        return {
            name: part.view(len(flat), *shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def bind(self, twin: nn.Module, flat: Tensor, buffers: Mapping[str, Tensor]) -> None:
        """Make a twin read its parameters from a flat tensor (P, n), and its buffers from tensors (P, ...) by name."""
        values = self.views(flat)
        for name, parameter in twin.named_parameters():
            parameter.data = values[name]
        for name, buffer in twin.named_buffers():
            buffer.data = buffers[name]


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
        self.width = -(-width // graph.WIDTHS) * graph.WIDTHS if device.type == "cuda" else width
        self.batch, self.device, self.dtype = batch, device, dtype
        self.twin = twin_of(plain, windows=inputs.windows is not None).to(device, dtype)
        read_windows(self.twin, inputs.windows)
        self._rows = [torch.zeros(self.width, sum(self.layout.sizes), device=device, dtype=dtype) for _ in range(4)]
        self._buffer_rows = self.layout.buffers(self.width, device, dtype)
        self._mask_counters = streams.mask_counters(dropout.decisions(plain, batch), device)
        self._dropouts = dropout.dropouts(self.twin)
        self._leaves = list(self.twin.parameters())
        self._graphs: dict[tuple[object, ...], StepGraph] = {}  # by lanes, and the names of hyperparameters
        self._uncapturable = False
        self._pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        self._use(width)

    def _use(self, lanes: int) -> None:
        """Use the first `lanes` rows."""
        self.parameters, self.gradient, self.first, self.second = (rows[:lanes] for rows in self._rows)
        self.buffers = {name: rows[:lanes] for name, rows in self._buffer_rows.items()}
        self.layout.bind(self.twin, self.parameters, self.buffers)
        self._gradients = list(self.layout.views(self.gradient).values())

    def load(self, parameters: Tensor, first: Tensor, second: Tensor, buffers: Mapping[str, Tensor]) -> None:
        """Take P <= width lanes: parameters and both moments (P, n), buffers (P, ...), copied."""
        if len(parameters) != len(self.parameters):
            self._use(len(parameters))
        self.parameters.copy_(parameters)
        self.first.copy_(first)
        self.second.copy_(second)
        for name, values in self.buffers.items():
            values.copy_(buffers[name])

    def epoch(
        self,
        index: Tensor,
        columns: LossColumns,
        hyper: Hyper,
        steps: Tensor,
        total: Tensor,
        dropout_keys: Tensor,
        stop: Callable[[], bool],
    ) -> Tensor | None:
        """Train all lanes on their items in the order given; None where `stop` returned true before a step.

        index and columns (P, S, ...), hyper (P,) float64 by name, steps (P,) that each lane has completed, and of how
        many in all (P,), dropout_keys (P,). The last batch has the items that are left over. Returns the means over the
        epoch's items of the loss that is shown and of the objective (2, P).
        """
        count = -(-index.shape[1] // self.batch)
        steps_TP = steps + torch.arange(count, device=steps.device)[:, None]
        optimizer = self.recipe.optimizer
        of_steps = optimizers.numbers_of_steps(optimizer, hyper, steps_TP, total, self.dtype)
        rounded = {name: values.to(self.dtype) for name, values in hyper.items()}
        keys_TP = streams.step_keys(dropout_keys, steps_TP)
        shares_T = self._shares(index, count)
        self.twin.train()
        seen: list[Tensor] = []
        for size in (self.batch, index.shape[1] % self.batch):
            whole = index.shape[1] // size if size == self.batch else min(size, 1)
            if not whole:
                continue
            begun = len(seen)

            def of(values: Tensor, size: int = size, whole: int = whole, begun: int = begun) -> Tensor:
                """Steps (T, P, size, ...) of items (P, S, ...)."""
                part = values[:, begun * self.batch : begun * self.batch + whole * size]
                return part.view(len(part), whole, size, *part.shape[2:]).transpose(0, 1)

            part = slice(begun, begun + whole)
            losses = self._train(
                Steps(
                    index=of(index),
                    columns={name: of(values) for name, values in columns.items()},
                    keys=keys_TP[part],
                    optimizer={name: values[part] for name, values in of_steps.items()},
                ),
                Constants(
                    hyper=rounded,
                    optimizer=optimizers.numbers_of_training(optimizer, rounded, rounded[optimizer.rate]),
                    thresholds=self._thresholds(hyper, size),
                ),
                stop,
            )
            if losses is None:
                return None
            seen += losses
        means: Tensor = torch.stack(seen).to(torch.float64).mul_(shares_T[:, None, None]).mean(0)
        return means

    def _train(self, steps: Steps, constants: Constants, stop: Callable[[], bool]) -> Sequence[Tensor] | None:
        """All steps, as a graph where the device has those; their losses, each (2, P), or None as `epoch`."""
        if (replayed := self._graph(steps, constants)) is not None:
            losses = replayed.run(steps, constants, stop)
            return None if losses is None else losses[..., : len(self.parameters)].unbind()
        seen = []
        for t in range(len(steps.index)):
            if stop():
                return None
            seen.append(self._step(steps.map(lambda values, t=t: values[t]), constants))  # type: ignore[misc]  # mypy knows no lambda's defaults
        return seen

    def _step(self, now: Steps, constants: Constants) -> Tensor:
        """One step of all lanes: the losses (2, P)."""
        self._draw_masks(now.keys, constants.thresholds, now.index.shape[1])
        out = self.twin(self.inputs.batch(now.index))
        shown, objective = self.recipe.loss(out, now.columns, constants.hyper)
        gradients = torch.autograd.grad(objective.sum(), self._leaves)
        self._update(gradients, now, constants)
        return torch.stack([shown, objective]).detach()

    def _graph(self, steps: Steps, constants: Constants) -> StepGraph | None:
        """The graph of these steps, captured where there is none yet; None where steps are launched one by one."""
        if (
            self.device.type != "cuda"
            or not graph.switched_on()
            or self._uncapturable
            or steps.index.shape[2] < self.batch
        ):
            return None
        width = -(-len(self.parameters) // graph.WIDTHS) * graph.WIDTHS
        key = (width, *sorted(constants.hyper))
        if key not in self._graphs:
            try:
                self._graphs[key] = self._captured(width, steps, constants)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                self._uncapturable = True
                logger.warning("steps are launched one by one: they cannot be captured as a graph (%s)", error)
        return self._graphs.get(key)

    def _captured(self, width: int, steps: Steps, constants: Constants) -> StepGraph:
        """The graph of steps of so many lanes; what the lanes hold is as before."""
        lanes, rows = len(self.parameters), [*self._rows, *self._buffer_rows.values()]
        kept = [values[:width].clone() for values in rows]
        self._use(width)
        try:
            with torch.random.fork_rng(devices=[self.device]):  # a module may draw in its forward, and then again
                return StepGraph(self._step, *graph.widened(steps, constants, width), self._pool)
        finally:
            for values, before in zip(rows, kept, strict=True):
                values[:width].copy_(before)
            self._use(lanes)

    def _thresholds(self, hyper: Hyper, items: int) -> streams.Thresholds | None:
        """Of the dropout masks of a step on so many items."""
        if not self._dropouts:
            return None
        words = self._counters(items).numel()
        return streams.thresholds(dropout.drop_rates(self._dropouts, hyper, items, words))

    def _counters(self, items: int) -> Tensor:
        """Of the words of a step's masks."""
        if items < self.batch:
            return streams.mask_counters(dropout.decisions(self.twin, items), self.device)
        return self._mask_counters

    def _draw_masks(self, keys: Tensor, thresholds: streams.Thresholds | None, items: int) -> None:
        """Set the dropout masks of one step, keys (P,), on so many items."""
        if thresholds is None:
            return
        counters, fast = self._counters(items), selection.for_device(self.device, self.dtype)
        if fast and thresholds.least.ndim == 1:
            masks = fast.keep_masks(keys, counters.numel(), thresholds, self.dtype)
        else:
            masks = streams.keep_masks(keys, counters, thresholds).to(self.dtype)
        dropout.set_masks(self.twin, masks, items)

    def _shares(self, index: Tensor, count: int) -> Tensor:
        """Of each of `count` batches of an epoch (P, S): its size over their mean size (T,), 1 where all are equal."""
        samples = index.shape[1]
        shares = torch.full((count,), self.batch * count / samples, dtype=torch.float64, device=index.device)
        if rest := samples % self.batch:
            shares[-1:].fill_(rest * count / samples)
        return shares

    @torch.no_grad()
    def _update(self, gradients: tuple[Tensor, ...], now: Steps, constants: Constants) -> None:
        """Change the parameters by the gradients of a step."""
        if selection.for_device(self.device, self.dtype):
            torch.cat([values.reshape(len(self.parameters), -1) for values in gradients], 1, out=self.gradient)
        else:
            torch._foreach_copy_(self._gradients, gradients)
        trained = optimizers.TrainedState(
            parameters=self.parameters, gradient=self.gradient, first=self.first, second=self.second
        )
        optimizers.update(self.recipe.optimizer, trained, now.optimizer, constants.optimizer)
