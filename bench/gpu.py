"""Trials an hour on one GPU: the plain loop, and populations of 1 to 512 and more lanes.

    python -m bench.gpu [--models ws] [--lanes 1 8 32 128 512] [--tf32]

Needs torch with CUDA and this repository, nothing else. A trial is the shipped one: 40 epochs of 180 steps on 100
pairs, 2,000 validation pairs after each; one full epoch is timed, several times, and trials an hour follow. Beside
it: how much of an epoch is steps, validation and host (the device waits for launches), and the achieved arithmetic
(matrix products) and memory traffic (operands of all operations, each counted once) against ceilings measured in
the same process. `--device cpu` runs the same on a CPU, to try it out.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bench import measure
from bench.plain import PAPER, PlainLoop
from bench.training import flops, pool, population, products
from hpo.digits import draws, models
from hpo.digits.recipes import METRICS, RECIPES
from hpo.training.population import Population, Task

EPOCHS, PAIRS, BATCH, VALIDATION = 40, 1000, 100, 2000


class _Traffic(TorchDispatchMode):
    """Counts the bytes of the operands and results of every operation that touches memory."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            flat, _ = torch.utils._pytree.tree_flatten((args, kwargs, out))
            self.bytes += sum(t.numel() * t.element_size() for t in flat if isinstance(t, Tensor))
        return out


def sync(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(act: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    """Wall seconds of an act with all that it started, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        sync(device)
        begun = time.perf_counter()
        act()
        sync(device)
        times.append(time.perf_counter() - begun)
    return times[1:]


def ceilings(device: torch.device) -> dict[str, float]:
    """Arithmetic (TFLOP/s, one large product) and bandwidth (TB/s, one large copy) of the device."""
    n, m = (8192, 2**28) if device.type == "cuda" else (1024, 2**24)
    a, b, flat = torch.rand(n, n, device=device), torch.rand(n, n, device=device), torch.rand(m, device=device)
    copy = torch.empty_like(flat)
    product = min(seconds(lambda: torch.mm(a, b), device, 5))
    moved = min(seconds(lambda: copy.copy_(flat), device, 5))
    return {"tflops": 2 * n**3 / product / 1e12, "tb_s": 2 * 4 * m / moved / 1e12}


def full(model: str, lanes: int, images: draws.ImagePool, device: torch.device) -> Population:
    """A population with validation, as in a search."""
    training, left = draws.draw_training(images, 0, PAIRS)
    validation = draws.draw_validation(images, left, 0, VALIDATION)
    made = Population(RECIPES[model], lanes, images, samples=18 * PAIRS, batch=BATCH, metrics=METRICS, device=device)
    for lane in range(lanes):
        task = Task(key=lane, params=PAPER, seed=lane, epochs=10**9, training=training, validation=validation)
        made.start(lane, task)
    return made


def measure_size(model: str, lanes: int, images: draws.ImagePool, device: torch.device, repeats: int) -> dict[str, Any]:
    """Times of one size of population: of whole epochs, and of validation and launching within them."""
    made = full(model, lanes, images, device)
    epochs = seconds(made.train_epoch, device, repeats)
    group = list(range(lanes))
    validation = min(seconds(lambda: made._validate(group, made.parameters), device, 3))
    launching = _launching(made, device)
    steps = measure.spread(epochs)["median"] - validation
    trial = measure.spread(epochs)["median"] * EPOCHS / lanes
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    return {
        "epoch_s": measure.spread(epochs),
        "trials_per_hour": 3600 / trial,
        "ms_a_step_and_trial": 1000 * steps / (18 * PAIRS // BATCH) / lanes,
        "validation_share": validation / (steps + validation),
        "launching_share": launching / steps,
        "memory_gib": memory,
    }


def _launching(made: Population, device: torch.device) -> float:
    """Seconds the host takes to launch an epoch's steps; near the epoch's own time, the device waits for it."""
    program = made._lockstep
    assert program is not None
    waits: list[float] = []
    inner = program.epoch

    def timed(*words: Any) -> Any:
        sync(device)
        begun = time.perf_counter()
        result = inner(*words)
        waits.append(time.perf_counter() - begun)
        return result

    with mock.patch.object(program, "epoch", timed):
        made.train_epoch()
    return waits[0]


def work(model: str, images: draws.ImagePool, device: torch.device) -> dict[str, float]:
    """Operations and bytes of one lane's step."""
    gflop = flops(products(population(model, 1, images, str(device), pairs=50))) / 1e9
    lanes = population(model, 1, images, str(device), pairs=50)
    lanes.train_epoch()
    with _Traffic() as counted:  # type: ignore[no-untyped-call]  # torch's __init__ has no annotations
        lanes.train_epoch()
    return {"gflop": gflop, "mb": counted.bytes / (18 * 50 // BATCH) / 1e6}


def main() -> None:
    """Measure, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--models", nargs="+", default=list(models.ARCHITECTURES))
    asked.add_argument("--lanes", type=int, nargs="+", default=[1, 8, 32, 128, 512])
    asked.add_argument("--repeats", type=measure.two_or_more, default=3)
    asked.add_argument("--device", default="cuda")
    asked.add_argument("--tf32", action="store_true", help="let matrix products round to TF32")
    asked.add_argument("--json", type=Path, default=Path("bench/out/gpu.json"))
    options = asked.parse_args()
    device = torch.device(options.device)
    torch.set_float32_matmul_precision("high" if options.tf32 else "highest")
    images, top = pool(), ceilings(device)
    results: dict[str, Any] = {"ceilings": top, "tf32": options.tf32, "models": {}}
    rows = []
    for model in options.models:
        training, _ = draws.draw_training(images, 0, PAIRS)
        plain = PlainLoop(model, images.images, training, batch=BATCH, device=device)
        plain_epoch = seconds(plain.train_epoch, device, options.repeats)
        per_hour = 3600 / (measure.spread(plain_epoch)["median"] * EPOCHS)
        step = work(model, images, device)
        actual: dict[str, Any] = {"plain": {"epoch_s": measure.spread(plain_epoch), "trials_per_hour": per_hour}}
        rows.append([f"`{model}`", "plain loop, no validation", f"{per_hour:.0f}", "1", "", "", "", "", ""])
        for lanes in options.lanes:
            size = measure_size(model, lanes, images, device, options.repeats)
            rate = 1000 / size["ms_a_step_and_trial"]  # steps of one trial a second
            size |= {"tflops": step["gflop"] * rate / 1e3, "tb_s": step["mb"] * rate / 1e6}
            actual[f"P={lanes}"] = size
            rows.append(
                [
                    f"`{model}`",
                    f"P = {lanes}",
                    f"{size['trials_per_hour']:.0f}",
                    f"{size['trials_per_hour'] / per_hour:.1f}",
                    f"{size['validation_share']:.0%}",
                    f"{size['launching_share']:.0%}",
                    f"{size['tflops']:.2f} ({size['tflops'] / top['tflops']:.0%})",
                    f"{size['tb_s']:.2f} ({size['tb_s'] / top['tb_s']:.0%})",
                    "" if size["memory_gib"] is None else f"{size['memory_gib']:.1f}",
                ]
            )
            print("  ".join(rows[-1]), flush=True)
        results["models"][model] = {"step": step, **actual}
    head = ["model", "", "trials an hour", "times the plain loop", "validation", "launching / steps"]
    head += ["products, TFLOP/s", "traffic, TB/s", "memory, GiB"]
    print(f"\nceilings: {top['tflops']:.1f} TFLOP/s, {top['tb_s']:.2f} TB/s; medians of {options.repeats}\n")
    print(measure.table(head, rows))
    measure.store(options.json, results)


if __name__ == "__main__":
    main()
