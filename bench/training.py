"""Milliseconds a training step and trial: the plain eager loop, the population, and torch's products alone.

    python -m bench.training [--repeats 15] [--threads 1 2] [--lanes 1 2 4] [--images]

All cases of a model run in turns in one process. A "step" is one optimizer step on a batch of 100 pairs with all
that belongs to it (drawing the order, gathering the batch, dropout, Adam), a thirty-sixth of a short epoch. Torch's
products are the matrix products of a population's step at P = 1, recorded and run again on their own: those of the
dense layers alone where the convolutions are kernels of hpo's, all of them where there are none. They are no floor of a
step; `bench.peak` gives one. With --images the population trains as an extended experiment does, on images.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench import measure
from bench.plain import PAPER, PlainLoop
from hpo.digits import draws, models
from hpo.digits.recipes import RECIPES
from hpo.training.memory import keep_freed_memory
from hpo.training.population import Population, Task
from hpo.training.recipe import Tensors

PAIRS, BATCH = 200, 100  # 3,600 samples: 36 steps an epoch
STEPS = 18 * PAIRS // BATCH

Product = tuple[Any, list[Tensor]]  # operation, operands


def pool() -> draws.ImagePool:
    """Random images; what is in them does not matter for the time."""
    images = torch.rand(3000, draws.SIDE, draws.SIDE, generator=torch.Generator().manual_seed(0))
    return draws.ImagePool(name="A", images=images, labels=torch.arange(3000) % 10)


def population(
    model: str, lanes: int, pool: draws.ImagePool, device: str = "cpu", pairs: int = PAIRS, *, images: bool = False
) -> Population:
    """A full population with the paper's configuration on every lane; `images`: as in an extended experiment."""
    training: Any = draws.draw_training(pool, 0, pairs)[0]
    recipe = RECIPES[model]
    if images:
        training = SimpleNamespace(
            x=draws.shifted(pool.images[training.image], training.shift),
            target=training.target,
            digit=training.digit,
        )
        recipe = replace(recipe, inputs=Tensors)
    full = Population(recipe, lanes, pool, samples=18 * pairs, batch=BATCH, device=device)
    for lane in range(lanes):
        full.start(lane, Task(key=lane, params=PAPER, seed=lane, epochs=10**9, training=training, validation=None))
    return full


class _Products(TorchDispatchMode):
    """Records the operands of every matrix product."""

    NAMES = ("mm", "bmm", "addmm", "baddbmm")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no annotations
        self.seen: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.NAMES:
            # Copies: the population writes some operands over. clone keeps the strides.
            self.seen.append((func, [a.detach().clone() for a in args]))
        return func(*args, **(kwargs or {}))


def products(lanes: Population) -> list[Product]:
    """The matrix products of one step of a population: (operation, operands)."""
    with _Products() as recorder:
        lanes.train_epoch()
    in_a_step = len(recorder.seen) // (lanes.samples // lanes.batch)
    seen: list[Product] = recorder.seen
    return seen[:in_a_step]


def flops(recorded: list[Product]) -> int:
    """Floating point operations of recorded products, a multiply-add being two."""
    total = 0
    for _, operands in recorded:
        a, b = operands[-2:]
        total += 2 * a.numel() * b.shape[-1]
    return total


def measure_model(name: str, lanes: list[int], repeats: int, images: bool) -> dict[str, Any]:
    """All cases of one model at the current number of threads."""
    drawn = pool()
    training, _ = draws.draw_training(drawn, 0, PAIRS)
    plain = PlainLoop(name, drawn.images, training)
    recorded = products(population(name, 1, drawn, images=images))

    def alone() -> None:
        for _ in range(STEPS):
            for operation, operands in recorded:
                operation(*operands)

    cases: dict[str, Callable[[], object]] = {"plain": plain.train_epoch, "products": alone}
    for p in lanes:
        cases[f"P={p}"] = population(name, p, drawn, images=images).train_epoch
    trials = {"plain": 1, "products": 1} | {f"P={p}": p for p in lanes}
    seconds = measure.in_turns(cases, repeats)
    each = {case: [1000 * s / STEPS / trials[case] for s in times] for case, times in seconds.items()}
    return {
        "ms": {case: measure.spread(times) for case, times in each.items()},
        "faster_than_plain": {case: measure.ratios(each["plain"], each[case]) for case in each if case != "plain"},
        "product_gflop": flops(recorded) / 1e9,
    }


def main() -> None:
    """Measure, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--repeats", type=measure.two_or_more, default=15)
    asked.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    asked.add_argument("--lanes", type=int, nargs="+", default=[1, 2, 4])
    asked.add_argument("--models", nargs="+", default=list(models.ARCHITECTURES))
    asked.add_argument("--images", action="store_true")
    asked.add_argument("--json", type=Path, default=Path("bench/out/training.json"))
    options = asked.parse_args()
    keep_freed_memory()  # as `hpo worker` does; the plain loop gains by it too
    results, rows = {}, []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for name in options.models:
            actual = measure_model(name, options.lanes, options.repeats, options.images)
            results[f"{name}, {threads} thread(s)"] = actual
            cells = [f"`{name}`", str(threads), f"{actual['ms']['plain']['median']:.1f}"]
            for case in [f"P={p}" for p in options.lanes] + ["products"]:
                ms, ratio = actual["ms"][case], actual["faster_than_plain"][case]
                cells.append(f"{ms['median']:.1f} ({ratio['median']:.2f}x, {ratio['q1']:.2f} to {ratio['q3']:.2f})")
            rows.append(cells)
            print("  ".join(cells), flush=True)
    head = ["model", "threads", "plain loop", *(f"P = {p}" for p in options.lanes), "torch's products alone"]
    print(f"\nms a step and trial, medians of {options.repeats} turns; in brackets how many times faster\n")
    print(measure.table(head, rows))
    measure.store(options.json, {"results": results})


if __name__ == "__main__":
    main()
