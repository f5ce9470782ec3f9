"""One GPU: is it right, and how many trials an hour? Against the plain loop, part by part.

    python -m bench.gpu PART [--device cuda]          PART: right, ceilings, sweep, profile, shared, learning, study
    bash bench/gpu_run.sh OUT                         all of them and the CUDA tests, as many as 10 minutes hold

Needs torch with CUDA and this repository, nothing else; the study needs hpo's dependencies. Each result is a line of
JSON, printed as soon as it is there, and what was predicted stands beside. `--device cpu` runs the same on a CPU.

A step is one optimizer step on a batch of 100 pairs with all that belongs to it, a thirty-sixth of an epoch of 200
pairs (drawing the order, gathering, dropout, Adam). "Times the plain loop" is that loop's time a step, as most people
write it (cuDNN's convolutions may round to TF32, as is torch's default), times P, over the population's.

Shapes: P lanes.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench import measure
from bench.plain import PAPER, PlainLoop
from bench.training import BATCH, PAIRS, STEPS, pool, population
from hpo.digits import draws, models
from hpo.digits.recipes import METRICS, RECIPES, PairAnswers
from hpo.training import graph, streams
from hpo.training.kernels import selection
from hpo.training.population import Population, Task

# What an H100 is to take. ms a step by lanes: of `ws` by four ways and of the plain loop predicted before any GPU had
# run this (+- 40%); of the rest, as of all that follows, what one took on 2026-11-27 (BENCHMARKS.md).
PREDICTED_PLAIN = {"simple": 1.1, "ws": 1.35, "ws-aux": 1.5}
PREDICTED: dict[str, dict[str, dict[int, float]]] = {
    "ws": {
        "eager": {1: 1.5, 8: 1.5, 32: 1.5, 64: 2.6, 128: 5.2, 256: 10, 512: 21},
        "graph": {1: 0.43, 8: 0.58, 32: 1.35, 64: 2.6, 128: 5.2, 256: 10, 512: 21},
        "graph, TF32": {1: 0.32, 8: 0.39, 32: 1.05, 64: 2.0, 128: 4.0, 256: 8, 512: 16},
        "graph, kernels": {8: 0.59, 64: 1.81, 256: 6.1},
        "graph, TF32, kernels": {1: 0.12, 8: 0.17, 32: 0.40, 64: 0.70, 128: 1.3, 256: 2.6, 512: 5.2},
    },
    "simple": {
        "graph": {8: 0.82, 64: 2.2},
        "graph, kernels": {8: 0.44, 64: 1.20},
        "graph, TF32, kernels": {8: 0.36, 64: 0.90},
    },
    "ws-aux": {
        "graph": {8: 1.25, 64: 3.4},
        "graph, kernels": {8: 0.63, 64: 1.91},
        "graph, TF32, kernels": {8: 0.52, 64: 1.28},
    },
}
PREDICTED_HOURLY = {  # trials of 40 epochs, for the device alone, by lanes
    "simple": {8: 11_600, 64: 29_000}, "ws": {8: 8_300, 64: 18_100}, "ws-aux": {8: 7_700, 64: 17_500},
}  # fmt: skip
PREDICTED_CEILINGS = {
    "product_tflops": 51.0, "product_tflops, TF32": 420.0, "tb_s": 2.9, "launch_us": 7.5, "launch_in_a_graph_us": 1.0,
}  # fmt: skip
PREDICTED_SHARED = {1: 1.0, 2: 1.04, 4: 1.35}  # steps of so many processes, of one's
WAYS = {  # captured as a graph, products in TF32, our kernels
    "eager": (False, False, False),
    "graph": (True, False, False),
    "graph, TF32": (True, True, False),
    "graph, kernels": (True, False, True),
    "graph, TF32, kernels": (True, True, True),
}
REPEATS = 5
PREDICTED_ACCURACY = {
    "simple": 83.7,
    "ws": 87.2,
    "ws-aux": 97.9,
}  # %, test accuracy of the paper's values by the plain loop


def print_result(part: str, **result: Any) -> None:
    """One line, at once."""
    print(json.dumps({"part": part, **result}), flush=True)


def beside(actual: float, predicted: float | None) -> dict[str, float | None]:
    """What was predicted, and how many times as much it is: None where nothing was."""
    return {"predicted": predicted, "over_predicted": actual / predicted if predicted else None}


@contextmanager
def way(name: str) -> Iterator[None]:
    """Train as one of WAYS says."""
    captured, tf32, fast = WAYS[name]
    graph.switch(captured)
    selection.switch(fast)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    yield
    graph.switch(True)
    selection.switch(True)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True  # torch's default


def sync(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(act: Callable[[], Any], device: torch.device, per: int, repeats: int = REPEATS) -> dict[str, float]:
    """Of one of `per` in an act with all that it started: median and quartiles, after one to warm up."""
    times = []
    for _ in range(repeats + 1):
        sync(device)
        begun = time.perf_counter()
        act()
        sync(device)
        times.append(1000 * (time.perf_counter() - begun) / per)
    return measure.spread(times[1:])


# -- is it right? ------------------------------------------------------------------------------------------


def small(model: str, device: torch.device, lanes: int, dtype: torch.dtype, *, steps: int) -> Population:
    """Lanes with unlike rates on random images, with so many steps an epoch, a draw each."""
    images = pool()
    made = Population(
        RECIPES[model], lanes, images, samples=steps * BATCH, batch=BATCH, metrics=METRICS, device=device, dtype=dtype
    )
    for lane in range(lanes):
        training, _ = draws.draw_training(images, lane, -(-steps * BATCH // 18))
        part = draws.PairTable(**{n: getattr(training, n)[: steps * BATCH] for n in ("image", "shift", "digit")})
        params = {**PAPER, "learning_rate": 1e-3 * (1 + lane % 4), "dropout": 0.1 * (lane % 4)}
        made.start(lane, Task(key=lane, params=params, seed=lane, epochs=9, training=part, validation=None))
    return made


def right(options: argparse.Namespace, device: torch.device) -> None:
    """Streams bit for bit; steps against float64 on the CPU; two runs, and lanes in company, against each other."""
    keys = torch.arange(64) * 0x9E3779B97F4A7 + 5
    counters = streams.counters(18_000)
    masks = streams.thresholds(torch.linspace(0, 0.9, 64, dtype=torch.float64))
    there = streams.Thresholds(*(values.to(device) for values in masks))
    streams_agree = {
        "orders": torch.equal(
            streams.permutations(keys, counters),
            streams.permutations(keys.to(device), counters.to(device)).cpu(),
        ),
        "masks": torch.equal(
            streams.keep_masks(keys, counters, masks),
            streams.keep_masks(keys.to(device), counters.to(device), there).cpu(),
        ),
    }
    if fast := selection.for_device(device, torch.float32):
        by_kernel = fast.keep_masks(keys.to(device), len(counters), there, torch.float32).cpu()
        streams_agree["masks by kernel"] = torch.equal(streams.keep_masks(keys, counters, masks), by_kernel)
    print_result("right", streams=streams_agree)
    for model in options.models:
        for steps in (1, 9):
            exact = small(model, torch.device("cpu"), 3, torch.float64, steps=steps)
            begun = exact.parameters[:3].clone()
            exact.train_epoch()
            moved = exact.parameters[:3] - begun
            errors = {}
            for name in WAYS:
                with way(name):
                    lanes = small(model, device, 3, torch.float32, steps=steps)
                    lanes.train_epoch()
                error = lanes.parameters.cpu().double() - exact.parameters
                errors[name] = float(error.norm() / moved.norm())
            double = small(model, device, 3, torch.float64, steps=steps)
            double.train_epoch()
            errors["float64"] = float((double.parameters.cpu() - exact.parameters).norm() / moved.norm())
            print_result("right", model=model, steps=steps, error_of_the_change_to_the_parameters=errors)
        for name in ("graph", "graph, TF32, kernels"):
            with way(name):
                twice = [small(model, device, 8, torch.float32, steps=9) for _ in range(2)]
                for lanes in twice:
                    lanes.train_epoch()
                same = torch.equal(twice[0].parameters, twice[1].parameters)
                first = {}
                for count in (1, 8, 64):
                    lanes = small(model, device, count, torch.float32, steps=9)
                    lanes.train_epoch()
                    first[count] = lanes.parameters[0].cpu()
            apart = {count: float((first[count] - first[8]).norm() / first[8].norm()) for count in first}
            print_result("right", model=model, way=name, twice_equal=same, lane_0_against_P_8=apart)


# -- how fast? ---------------------------------------------------------------------------------------------


def ceilings(options: argparse.Namespace, device: torch.device) -> None:
    """Arithmetic of a large product (TFLOP/s), bandwidth of a copy (TB/s), a kernel's launch (us)."""
    n, m = (8192, 2**28) if device.type == "cuda" else (512, 2**22)
    a, b = torch.rand(n, n, device=device), torch.rand(n, n, device=device)
    for tf32 in (False, True):
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        rate = 2 * n**3 / milliseconds(lambda: torch.mm(a, b), device, 1)["median"] / 1e9
        predicted = PREDICTED_CEILINGS["product_tflops, TF32" if tf32 else "product_tflops"]
        print_result("ceilings", product_tflops=rate, tf32=tf32, **beside(rate, predicted))
    torch.set_float32_matmul_precision("highest")
    flat = torch.rand(m, device=device)
    copy = torch.empty_like(flat)
    for size in (m, m // 64):
        ms = milliseconds(lambda size=size: copy[:size].copy_(flat[:size]), device, 1)["median"]  # type: ignore[misc]  # mypy knows no lambda's defaults
        rate = 8 * size / ms / 1e9
        predicted_rate = PREDICTED_CEILINGS["tb_s"] if size == m else None
        print_result("ceilings", copied_mb=4 * size / 1e6, tb_s=rate, **beside(rate, predicted_rate))
    number = torch.zeros(1, device=device)

    def thousand() -> None:
        for _ in range(1000):
            number.add_(1)

    launch = milliseconds(thousand, device, 1)["median"]
    print_result("ceilings", launch_us=launch, **beside(launch, PREDICTED_CEILINGS["launch_us"]))
    if device.type == "cuda":
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            thousand()
        replayed = milliseconds(captured.replay, device, 1)["median"]
        predicted = PREDICTED_CEILINGS["launch_in_a_graph_us"]
        print_result("ceilings", launch_in_a_graph_us=replayed, **beside(replayed, predicted))


def plain_step(model: str, device: torch.device, *, tf32: bool = True, fused: bool = False) -> dict[str, float]:
    """Milliseconds a step of the plain loop."""
    torch.backends.cudnn.allow_tf32 = tf32
    images = pool()
    training, _ = draws.draw_training(images, 0, PAIRS)
    loop = PlainLoop(model, images.images, training, batch=BATCH, device=device)
    if fused:
        loop.adam = torch.optim.Adam(
            loop.model.parameters(), lr=PAPER["learning_rate"], weight_decay=PAPER["weight_decay"], fused=True
        )
    spread = milliseconds(loop.train_epoch, device, STEPS)
    torch.backends.cudnn.allow_tf32 = True
    return spread


def sweep(options: argparse.Namespace, device: torch.device) -> None:
    """Milliseconds a step of the plain loop and of populations of all sizes, each way."""
    for model in options.models:
        plain = plain_step(model, device)
        print_result(
            "sweep", model=model, way="plain loop", ms_a_step=plain, **beside(plain["median"], PREDICTED_PLAIN[model])
        )
        if model == "ws":
            print_result(
                "sweep", model=model, way="plain loop, no TF32", ms_a_step=plain_step(model, device, tf32=False)
            )
            if device.type == "cuda":
                print_result(
                    "sweep", model=model, way="plain loop, fused Adam", ms_a_step=plain_step(model, device, fused=True)
                )
        for lanes in options.lanes or (8, 64, 1, 32, 128, 256):
            for name in options.ways:
                with way(name):
                    try:
                        _measure_size(model, lanes, name, plain["median"], device)
                    except RuntimeError as error:
                        print_result("sweep", model=model, way=name, lanes=lanes, failed=str(error)[:300])


def _measure_size(model: str, lanes: int, name: str, plain: float, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    made = population(model, lanes, pool(), str(device))
    begun = time.perf_counter()
    made.train_epoch()
    first = time.perf_counter() - begun
    ms = milliseconds(made.train_epoch, device, STEPS)
    result: dict[str, Any] = {
        "ms_a_step": ms,
        "us_a_lane": 1000 * ms["median"] / lanes,
        "times_plain": plain * lanes / ms["median"],
    }
    result |= beside(ms["median"], PREDICTED[model].get(name, {}).get(lanes))
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
    print_result("sweep", model=model, way=name, lanes=lanes, **result, first_epoch_s=first, memory_mb=memory)


def whole(options: argparse.Namespace, device: torch.device) -> None:
    """Whole epochs of a search, with validation: trials of 40 epochs an hour, and times the plain loop's."""
    for model in options.models:
        plain = plain_step(model, device)["median"]
        for lanes in options.lanes or (8, 64):
            with way("graph, kernels" if device.type == "cuda" else "eager"):
                images = pool()
                training, left = draws.draw_training(images, 0, 1000)
                validation = draws.draw_validation(images, left, 0, 2000)
                made = Population(
                    RECIPES[model], lanes, images, samples=18_000, batch=BATCH, metrics=METRICS, device=device
                )
                for lane in range(lanes):
                    made.start(
                        lane,
                        Task(key=lane, params=PAPER, seed=lane, epochs=99, training=training, validation=validation),
                    )
                epoch = milliseconds(made.train_epoch, device, 1, 3)["median"]
                validate = functools.partial(made._validate, made.busy, made.parameters, made.buffers)
                checked = milliseconds(validate, device, 1, 3)
            hourly, by_plain = 3.6e6 * lanes / (40 * epoch), 3.6e6 / (40 * 180 * plain)
            print_result(
                "whole", model=model, lanes=lanes, epoch_ms=epoch, validation_share=checked["median"] / epoch,
                trials_an_hour=hourly, plain_without_validation=by_plain, times_plain=hourly / by_plain,
                **beside(hourly, PREDICTED_HOURLY[model].get(lanes)),
            )  # fmt: skip


def profile(options: argparse.Namespace, device: torch.device) -> None:
    """The kernels that take longest, and the device's busy share, of an epoch."""
    activity = torch.profiler.ProfilerActivity
    for lanes in (8, 64):
        with way("graph, kernels" if device.type == "cuda" else "eager"):
            made = population("ws", lanes, pool(), str(device))
            made.train_epoch()
            made.train_epoch()
            sync(device)
            begun = time.perf_counter()
            with torch.profiler.profile(
                activities=[activity.CPU, *([activity.CUDA] if device.type == "cuda" else [])]
            ) as seen:
                made.train_epoch()
                sync(device)
            wall = time.perf_counter() - begun
        rows = [
            (event.self_device_time_total, event.count, event.key[:70])
            for event in seen.key_averages()
            if event.self_device_time_total
        ]
        rows.sort(reverse=True)
        print_result("profile", lanes=lanes, wall_ms=1000 * wall, busy_ms=sum(us for us, _, _ in rows) / 1000,
            launches=sum(count for _, count, _ in rows) / STEPS)  # fmt: skip
        for us, count, name in rows[:28]:
            print_result("profile", lanes=lanes, kernel=name, us_a_step=us / STEPS, times_a_step=count / STEPS)


def shared(options: argparse.Namespace, device: torch.device) -> None:
    """Several processes on one device; and steps beside a Python thread that is busy."""
    alone = 0.0
    for count in (1, 2, 4):
        command = [sys.executable, "-m", "bench.gpu", "one-process", "--device", str(device)]
        begun = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        rates = [json.loads(process.communicate()[0].splitlines()[-1])["steps_a_second"] for process in begun]
        alone = alone or sum(rates)
        gain = beside(sum(rates) / alone, PREDICTED_SHARED[count])
        print_result("shared", processes=count, lanes=8, lane_steps_a_second=sum(rates), each=rates, **gain)
    end = threading.Event()

    def spin() -> None:
        while not end.is_set():
            sum(range(1000))

    for busy in (False, True):
        thread = threading.Thread(target=spin)
        if busy:
            thread.start()
        for name in ("graph, kernels", "eager"):
            with way(name):
                made = population("ws", 8, pool(), str(device))
                ms = milliseconds(made.train_epoch, device, STEPS, 2)
                print_result("shared", way=name, busy_thread=busy, ms_a_step=ms)
    end.set()


def single_process(options: argparse.Namespace, device: torch.device) -> None:
    """For `shared`: lane steps a second for some seconds."""
    with way("graph, kernels" if device.type == "cuda" else "eager"):
        made = population("ws", 8, pool(), str(device))
        made.train_epoch()
        until, steps, begun = time.perf_counter() + 4, 0, time.perf_counter()
        while time.perf_counter() < until:
            made.train_epoch()
            steps += 8 * STEPS
        print_result("one-process", steps_a_second=steps / (time.perf_counter() - begun))


def learning(options: argparse.Namespace, device: torch.device) -> None:
    """20 rounds by the paper's values, 40 epochs: does a population learn on the GPU what the plain loop learns?"""
    where = Path(os.environ.get("HPO_BENCH_IMAGES", "bench/out/pool.pt"))
    if not where.exists():
        print_result("learning", skipped=f"{where} is missing: python -m bench.gpu images")
        return
    kept = torch.load(where)
    images = draws.ImagePool(name="A", images=kept["images"], labels=kept["labels"])
    for name in ("graph, kernels", "graph, TF32, kernels"):
        for model in options.models:
            with way(name if device.type == "cuda" else "eager"):
                made = Population(
                    RECIPES[model], 20, images, samples=18_000, batch=BATCH, metrics=METRICS, device=device
                )
                tests = []
                for round_ in range(20):
                    training, left = draws.draw_training(images, 1000 + round_, 1000)
                    tests.append(draws.draw_validation(images, left, 1000 + round_, 500))
                    task = Task(
                        key=round_, params=PAPER, seed=round_, epochs=options.epochs, training=training, validation=None
                    )
                    made.start(round_, task)
                begun = time.perf_counter()
                for _ in range(options.epochs):
                    made.train_epoch()
                seconds = time.perf_counter() - begun
                right = [
                    100 * PairAnswers.of(made.predict(made.parameters[lane], tests[lane])).accuracy
                    for lane in range(20)
                ]
            spread = measure.spread(right)
            mean = sum(right) / len(right)
            error = (sum((x - mean) ** 2 for x in right) / 19 / 20) ** 0.5
            print_result("learning", model=model, way=name, mean=mean, standard_error=error, **spread, seconds=seconds,
                **beside(mean, PREDICTED_ACCURACY[model]), accuracies=right)  # fmt: skip


def tiles(options: argparse.Namespace, device: torch.device) -> None:
    """Other tiles for each kernel, at P = 8 and 64: microseconds of a batch; of backward's with the forward before."""
    from unittest import mock

    from triton.testing import do_bench_cudagraph

    from hpo.training.kernels import gpu
    from hpo.training.windows import WindowTable

    fast = gpu.TritonKernels()
    rows = WindowTable(pool().images.to(device), 5, 2)
    with way("graph, kernels"):
        for lanes in (8, 64):
            flat = (torch.randn(lanes, 56_470, device=device) * 0.1).requires_grad_()
            w1, b1 = flat[:, :800].view(lanes, 32, 1, 5, 5), flat[:, 800:832]
            w2, b2 = flat[:, 832 : 832 + 18_432].view(lanes, 64, 32, 3, 3), flat[:, 19_264:19_328]
            corners = torch.randint(0, 2000 * 121, (lanes, 200, 1), device=device)
            x = torch.randn(lanes, 200, 25, 32, device=device).permute(0, 1, 3, 2).unflatten(3, (5, 5))
            x.requires_grad_()

            def first(backward: bool) -> None:
                out = fast.window_convolution(rows, corners, w1, b1)  # noqa: B023 -- called before the loop goes on
                if backward:
                    torch.autograd.grad(out, [w1, b1], torch.ones_like(out))  # noqa: B023 -- as above

            def second(backward: bool) -> None:
                out = fast.convolution(x, w2, b2, 3)  # noqa: B023 -- as above
                if backward:
                    torch.autograd.grad(out, [x, w2, b2], torch.ones_like(out))  # noqa: B023 -- as above

            tried = {
                "WINDOW_FORWARD": (first, False, [(64, 4), (128, 8), (32, 4)]),
                "WINDOW_BACKWARD": (first, True, [(32, 8), (64, 8), (32, 4), (16, 4)]),
                "FORWARD": (second, False, [(2, 4), (1, 2), (2, 2), (4, 4), (8, 8)]),
                "INPUT_GRADIENT": (second, True, [(64, 8), (32, 4), (32, 8), (16, 4)]),
                "WEIGHT_GRADIENT": (second, True, [(32, 4), (64, 8), (32, 8), (16, 4)]),
            }
            for name, (act, backward, choices) in tried.items():
                for block, warps in choices:
                    with mock.patch.dict(getattr(gpu, name), BLOCK=block, num_warps=warps):
                        try:
                            act(backward)
                            ms = do_bench_cudagraph(functools.partial(act, backward), rep=10)
                        except Exception as error:
                            print_result(
                                "tiles", kernel=name, lanes=lanes, block=block, warps=warps, failed=str(error)[:200]
                            )
                            continue
                    print_result("tiles", kernel=name, lanes=lanes, block=block, warps=warps, us=1000 * ms)


def study(options: argparse.Namespace, device: torch.device) -> None:
    """The default study of all models by real workers, from search to final."""
    from bench.studied import study_by_workers

    study_by_workers(Path(options.out), str(device), print_result)


def images(options: argparse.Namespace, device: torch.device) -> None:
    """The bundled digits of pool A as a tensor file, for a machine that has torch alone."""
    from hpo.digits import load
    from hpo.digits.pools import to_network_images

    source = load.load(None)
    where = Path(os.environ.get("HPO_BENCH_IMAGES", "bench/out/pool.pt"))
    where.parent.mkdir(parents=True, exist_ok=True)
    kept = draws.ImagePool.from_numpy("A", to_network_images(source.pool_a_images()), source.pool_a_labels())
    torch.save({"images": kept.images, "labels": kept.labels}, where)
    print(where)


PARTS = {
    "right": right,
    "ceilings": ceilings,
    "sweep": sweep,
    "whole": whole,
    "profile": profile,
    "shared": shared,
    "one-process": single_process,
    "learning": learning,
    "tiles": tiles,
    "study": study,
    "images": images,
}


def main() -> None:
    """Run one part."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("part", choices=list(PARTS))
    asked.add_argument("--models", nargs="+", default=["ws", "simple", "ws-aux"], choices=list(models.ARCHITECTURES))
    asked.add_argument("--lanes", type=int, nargs="+", help="of sweep and whole")
    asked.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    asked.add_argument("--epochs", type=int, default=40, help="of learning")
    asked.add_argument("--device", default="cuda")
    asked.add_argument("--out", default="bench/out", help="folder of the study's database")
    options = asked.parse_args()
    device = torch.device(options.device)
    PARTS[options.part](options, device)


if __name__ == "__main__":
    main()
