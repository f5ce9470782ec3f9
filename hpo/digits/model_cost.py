"""Model cost: parameters, multiply-adds and latency of answering one pair.

Everything is measured on the plain modules of `hpo.digits.models`; the functions load torch.
"""

import platform
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

BATCHES = (1, 1000)  # pairs per pass
_LEAST_REPEATS = 3
_SECONDS = 0.1  # a measurement repeats for at least this long: two networks and two batches take under a second


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCost:
    """What a model costs on any machine."""

    model: str
    parameters: int
    multiply_adds: int  # in a forward pass of one pair: convolutions and linear layers, without biases


@dataclass(frozen=True, kw_only=True, slots=True)
class Latency:
    """How long a model takes on this machine."""

    model: str
    pairs: int  # in a pass
    seconds: float  # of one pass, median
    repeats: int

    @property
    def a_pair(self) -> float:
        """Seconds per pair."""
        return self.seconds / self.pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class Latencies:
    """Latencies on the machine that writes the report; they differ from report to report."""

    device: str
    measured: tuple[Latency, ...]  # model by model, batch by batch

    def of(self, model: str, pairs: int) -> Latency:
        """The latency of a model at that many pairs per pass."""
        return next(latency for latency in self.measured if (latency.model, latency.pairs) == (model, pairs))


def cost_of(model: str) -> ModelCost:
    """Parameters and multiply-adds of a model."""
    from hpo.digits.models import ARCHITECTURES

    network = ARCHITECTURES[model]().eval()
    return ModelCost(
        model=model,
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        multiply_adds=multiply_adds(network, _pairs(1)),
    )


def multiply_adds(network: "nn.Module", inputs: "Tensor") -> int:
    """Multiply-adds of the convolutions and linear layers in one forward pass on these inputs."""
    import torch
    from torch import nn

    total = 0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        # Every output is a sum over one row of weights: in_features, or channels x kernel.
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, torch.Tensor)
        total += output.numel() * weight[0].numel()

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.inference_mode():
            network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def latencies_of(models: Iterable[str], clock: Callable[[], float] = time.perf_counter) -> Latencies:
    """Measure the models on one CPU thread; models that share a network are measured once."""
    import torch

    from hpo.digits.models import ARCHITECTURES

    by_network: dict[tuple[object, int], tuple[float, int]] = {}
    measured = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for model in models:
            for pairs in BATCHES:
                key = (ARCHITECTURES[model], pairs)
                if key not in by_network:
                    by_network[key] = _measure(ARCHITECTURES[model]().eval(), pairs, clock)
                seconds, repeats = by_network[key]
                measured.append(Latency(model=model, pairs=pairs, seconds=seconds, repeats=repeats))
    finally:
        torch.set_num_threads(threads)
    return Latencies(device=f"{_processor()}, one thread, torch {torch.__version__}", measured=tuple(measured))


def _measure(network: "nn.Module", pairs: int, clock: Callable[[], float]) -> tuple[float, int]:
    """The median duration of a pass in seconds, and the number of passes; one pass more warms up."""
    import torch

    inputs = _pairs(pairs)
    durations: list[float] = []
    with torch.inference_mode():
        network(inputs)
        start = clock()
        while len(durations) < _LEAST_REPEATS or clock() - start < _SECONDS:
            before = clock()
            network(inputs)
            durations.append(clock() - before)
    return median(durations), len(durations)


def _pairs(pairs: int) -> "Tensor":
    """Inputs (pairs, 2, 14, 14) that are not all zero: denormal numbers could change the timing."""
    import torch

    from hpo.digits.draws import SIDE

    return torch.linspace(0, 1, pairs * 2 * SIDE * SIDE).view(pairs, 2, SIDE, SIDE)


def _processor() -> str:
    """The processor's name where Linux gives it, else its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
