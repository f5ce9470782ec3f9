"""A step captured as a CUDA graph: hundreds of launches become one, and cost the host nothing.

Shapes: P lanes, B items of a batch, T steps of an epoch; "..." are a table's further dimensions.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hpo.training.recipe import Hyper, LossColumns
from hpo.training.streams import Thresholds

AHEAD = 32  # replays that the host may be ahead by: a signal is answered after them
WIDTHS = 8  # a graph's lanes are a multiple of this: lanes come and go, and each capture costs as much as an epoch


_on = True


def switch(on: bool) -> None:
    """Have this process capture steps as graphs, or launch them one by one."""
    global _on
    _on = on


def switched_on() -> bool:
    """Whether steps are captured."""
    return _on


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What differs from step to step: of T steps, or of one without that dimension."""

    index: Tensor  # (T, P, B, ...) what of the inputs the items are
    columns: LossColumns  # each (T, P, B, ...)
    keys: Tensor  # (T, P) of the dropout masks
    optimizer: Mapping[str, Tensor]  # each (T, P), of `optimizers.numbers_of_steps`

    def map(self, change: Callable[[Tensor], Tensor]) -> "Steps":
        """Each tensor changed."""
        return Steps(
            index=change(self.index),
            columns={name: change(values) for name, values in self.columns.items()},
            keys=change(self.keys),
            optimizer={name: change(values) for name, values in self.optimizer.items()},
        )

    def tensors(self) -> Iterator[Tensor]:
        """All of them, in one order."""
        yield from (self.index, self.keys)
        yield from (self.optimizer[name] for name in sorted(self.optimizer))
        yield from (self.columns[name] for name in sorted(self.columns))


@dataclass(frozen=True, kw_only=True)
class Constants:
    """What is the same in all steps of an epoch."""

    hyper: Hyper  # (P,) by name, in the precision of the population
    optimizer: Mapping[str, Tensor]  # each (P,), of `optimizers.numbers_of_training`
    thresholds: Thresholds | None  # of a whole batch's masks; None: there is no dropout

    def tensors(self) -> Iterator[Tensor]:
        """All of them, in one order."""
        yield from (self.hyper[name] for name in sorted(self.hyper))
        yield from (self.optimizer[name] for name in sorted(self.optimizer))
        yield from self.thresholds or ()


Step = Callable[[Steps, Constants], Tensor]  # of one step: (2, P), the losses


class StepGraph:
    """An epoch of steps of P lanes, replayed."""

    def __init__(self, step: Step, steps: Steps, constants: Constants, pool: Any) -> None:
        """Capture `step`, which these are examples of; it runs meanwhile, on numbers that do not matter afterwards.

        `pool` is the memory that graphs share which never run at once. Raises what cannot be captured.
        """
        self._steps = steps.map(lambda values: values.clone(memory_format=torch.contiguous_format))
        self._constants = _copy(constants)
        self._at = steps.index.new_zeros(1, dtype=torch.int64)
        self._seen: Tensor | None = None
        device = self._at.device
        side = _side_stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(2):  # what is made once: caches, Triton's binaries, cuBLAS's workspaces
                losses = step(self._now(), self._constants)
        torch.cuda.current_stream(device).wait_stream(side)
        self._seen = losses.new_zeros(len(steps.index), *losses.shape)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            self._seen.index_copy_(0, self._at, step(self._now(), self._constants)[None])
            self._at.add_(1)

    def _now(self) -> Steps:
        """The step whose number the device holds."""
        return self._steps.map(lambda values: values.index_select(0, self._at)[0])

    def run(self, steps: Steps, constants: Constants, stop: Callable[[], bool]) -> Tensor | None:
        """An epoch's losses (T, 2, P); None where `stop` returned true before a step."""
        assert self._seen is not None
        _fill(self._steps.tensors(), steps.tensors(), dim=1)
        _fill(self._constants.tensors(), constants.tensors(), dim=0)
        self._at.zero_()
        passed: list[torch.cuda.Event] = []
        for t in range(len(steps.index)):
            if stop():
                return None
            self._graph.replay()
            if t % (AHEAD // 2) == 0:
                passed.append(torch.cuda.Event())
                passed[-1].record()
                if len(passed) > 2:
                    passed.pop(0).synchronize()
        return self._seen


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The one stream on which steps are captured: for each that it meets cuBLAS keeps 32 MiB."""
    return torch.cuda.Stream(device)


def _copy(constants: Constants) -> Constants:
    thresholds = constants.thresholds
    return Constants(
        hyper={name: values.clone() for name, values in constants.hyper.items()},
        optimizer={name: values.clone() for name, values in constants.optimizer.items()},
        thresholds=None if thresholds is None else Thresholds(*(values.clone() for values in thresholds)),
    )


def _fill(kept: Iterator[Tensor], new: Iterator[Tensor], dim: int) -> None:
    """Copy new values into the first lanes, which are dimension `dim`, of what a graph reads."""
    for to, values in zip(kept, new, strict=True):
        to.narrow(dim, 0, values.shape[dim]).copy_(values)


def widened(steps: Steps, constants: Constants, lanes: int) -> tuple[Steps, Constants]:
    """The same for more lanes, the further ones as the first."""

    def more(values: Tensor, dim: int) -> Tensor:
        missing = lanes - values.shape[dim]
        return torch.cat([values, values.narrow(dim, 0, 1).expand(*_at(values.shape, dim, missing))], dim)

    thresholds = constants.thresholds
    return steps.map(lambda values: more(values, 1)), Constants(
        hyper={name: more(values, 0) for name, values in constants.hyper.items()},
        optimizer={name: more(values, 0) for name, values in constants.optimizer.items()},
        thresholds=None if thresholds is None else Thresholds(*(more(values, 0) for values in thresholds)),
    )


def _at(shape: torch.Size, dim: int, size: int) -> list[int]:
    return [size if d == dim else n for d, n in enumerate(shape)]
