"""How many lanes a population should have: measured on the device, in a second or two."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hpo.training.memory import is_out_of_memory
from hpo.training.population import Population, Task
from hpo.training.recipe import Recipe

STEPS, TURNS = 6, 3  # a measurement is the fastest of TURNS turns of STEPS steps, or of as many as BRIEF takes
BRIEF = 0.2  # seconds: what is measured in less is measured more often, and no size is ruled out by a smaller one
LARGE = 2000  # samples: of larger batches fewer steps are enough
WORTH = 1.05  # a larger population must be faster by this factor: it also holds more trials, and ends later
CPU_LANES = (1, 2, 4)
CUDA_LANES = tuple(2**i for i in range(3, 11))
MEMORY = 0.8  # the share of the free memory that may be planned for


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many lanes, and why."""

    lanes: int
    milliseconds: Mapping[int, float]  # a step and trial, by lanes

    def __str__(self) -> str:
        tried = ", ".join(f"{lanes}: {ms:.3g}" for lanes, ms in self.milliseconds.items())
        return f"{self.lanes} lane(s) at a time (ms a step and trial, by lanes: {tried})"


def samples_to_measure(samples: int, batch: int) -> int:
    """How many samples a measurement of epochs with so many takes: within an epoch, for there are data for that."""
    return min(STEPS * batch, max(batch, LARGE), samples)


def choose_lanes(
    recipe: Recipe,
    pool: Any,
    table: Any,
    *,
    params: Mapping[str, float],
    samples: int,
    batch: int,
    device: torch.device,
    candidates: Iterable[int] | None = None,
    most: int | None = None,
    free: int | None = None,
    peak: Callable[[], int] = lambda: 0,
) -> Size:
    """The fewest lanes that are within 5% of the fastest tried; candidates ascend.

    Each lane trains on the `samples_to_measure` of the table, with the same hyperparameters. Larger populations are
    tried until one is slower (where a turn is not brief), would not fit into memory, or is above `most`; `free` is
    what a CPU's trainings may take, in bytes, None: whatever they need, and `peak` what this process has taken at its
    most. Nothing that is trained here is kept. Raises torch's error where not even the first fits.
    """
    if candidates is None:
        candidates = CUDA_LANES if device.type == "cuda" else CPU_LANES
    if most is not None:
        candidates = [lanes for lanes in candidates if lanes <= most] or [most]
    measured: dict[int, float] = {}
    before = peak()
    for lanes in candidates:
        if not _fits(lanes, measured, samples, device, peak() - before, free):
            break
        tasks = [
            Task(key=lane, params=params, seed=lane, epochs=1, training=table, validation=None) for lane in range(lanes)
        ]
        try:
            measured[lanes] = ms = _milliseconds(recipe, pool, tasks, batch, device)
        except (RuntimeError, MemoryError) as error:
            if not measured or not is_out_of_memory(error):
                raise
            break
        slower = ms > WORTH * min(measured.values())
        if slower and (device.type == "cuda" or ms * lanes * len(table) / batch > 1000 * BRIEF):
            break
    best = min(measured.values())
    return Size(lanes=next(p for p, ms in measured.items() if ms <= WORTH * best), milliseconds=measured)


def _milliseconds(recipe: Recipe, pool: Any, tasks: list[Task], batch: int, device: torch.device) -> float:
    """Milliseconds per step and trial with a lane for each of the tasks."""
    lanes, samples = len(tasks), len(tasks[0].training)
    population = Population(recipe, lanes, pool, samples=samples, batch=batch, device=device)
    for lane, task in enumerate(tasks):
        population.start(lane, task)
    population.train_epoch()  # warms caches and allocators
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time  # a core may be shared with others
    times: list[float] = []
    while len(times) < TURNS or sum(times) < BRIEF:
        begun = clock()
        population.train_epoch()  # ends with the wait for the device
        times.append(clock() - begun)
    population.evaluate_training()  # so that what is planned for has its memory too
    return 1000 * min(times) / math.ceil(samples / batch) / lanes


def _fits(
    lanes: int, measured: Mapping[int, float], samples: int, device: torch.device, grown: int, free: int | None
) -> bool:
    """Whether so many lanes fit into the free memory, by the peak of the last, smaller population.

    On a CPU the peak is what the process has `grown` by, and `free` what there was before, both in bytes.
    """
    if not measured:
        return True
    last = list(measured)[-1]
    tables = samples * 2 * 8 * 5  # bytes: image and digit of both images of a sample, and their order
    if device.type != "cuda":
        return free is None or lanes * (grown / last + tables) < MEMORY * free
    peak = torch.cuda.max_memory_allocated(device)
    unused, _ = torch.cuda.mem_get_info(device)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return lanes * (peak / last + tables) < MEMORY * (unused + cached)
