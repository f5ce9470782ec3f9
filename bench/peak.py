"""The most that a core of this machine can multiply and add, and what a training step takes at least by that.

    python -m bench.peak [--repeats 99]

A loop of fused multiply-adds in registers, compiled for each set of instructions that the processor has, on one core;
and the arithmetic of a step on 100 pairs whose results are not zero: no step is shorter than that at this peak. By CPU
time, and the best of many short runs: what else the machine does slows a run down, nothing speeds one up.
"""

import argparse
import ctypes
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import hatch_build
from bench import measure
from bench.training import BATCH
from hpo.digits import draws, models
from hpo.training.kernels import cpu

SUMS = 12  # independent of each other: more than a core has under way at once, and they fit 16 registers
ROUNDS = 300_000
SOURCE = """
#include <stdint.h>
typedef float V __attribute__((vector_size(BYTES)));
void run(int64_t rounds, float *out) {
  V sums[SUMS], a, b;
  for (int i = 0; i < SUMS; i++) sums[i] = (V){} + (float)i;
  a = (V){} + out[0], b = (V){} + out[1];
  for (int64_t n = 0; n < rounds; n++)
#pragma GCC unroll 32
    for (int i = 0; i < SUMS; i++) sums[i] = sums[i] * a + b;
  for (int i = 0; i < SUMS; i++) out[i] = sums[i][0];
}
"""
BYTES = {"avx2": 32, "avx512": 64}  # of a vector


def loop_of(level: str, folder: Path) -> ctypes.CDLL:
    """The loop for a set of instructions."""
    (command, *_), library = hatch_build.compilers(), folder / f"{level}.so"
    (folder / "peak.c").write_text(SOURCE)
    flags = [*hatch_build.FLAGS, *hatch_build.LEVELS["x86_64"][level], f"-DBYTES={BYTES[level]}", f"-DSUMS={SUMS}"]
    subprocess.run([*command, *flags, "-o", str(library), str(folder / "peak.c")], check=True)
    return ctypes.CDLL(str(library))


def operations(model: str) -> int:
    """Floating point operations of a step whose results are not zero, a multiply-add being two.

    Forward all of them; backward each dense product twice, and of a convolution the one place of a pooled position that
    its gradient goes to, for the weights and, but for the first layer, for the inputs.
    """
    network, counted = models.ARCHITECTURES[model]().eval(), []
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    pools = [layer.kernel_size for layer in network.modules() if isinstance(layer, nn.MaxPool2d)]

    def count(layer: nn.Module, given: Any, out: Tensor) -> None:
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        forward = 2 * out.numel() * layer.weight[0].numel()
        if isinstance(layer, nn.Linear):
            counted.append(3 * forward)
        else:
            at = layers.index(layer)
            pool = pools[at]
            assert isinstance(pool, int)
            kept = (out.shape[-1] // pool / out.shape[-1]) ** 2  # share of positions that a gradient goes to
            counted.append(round(forward * (1 + kept * (1 if at == 0 else 2))))

    for layer in layers:
        layer.register_forward_hook(count)
    network(torch.zeros(BATCH, 2, draws.SIDE, draws.SIDE))
    return sum(counted)


def main() -> None:
    """Measure, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--repeats", type=measure.two_or_more, default=99)
    asked.add_argument("--json", type=Path, default=Path("bench/out/peak.json"))
    options = asked.parse_args()
    levels = cpu.LEVELS.get(torch.backends.cpu.get_cpu_capability(), ())
    if not levels or not hatch_build.compilers():
        asked.exit(1, "it needs a C compiler and a processor with AVX2\n")
    numbers = (ctypes.c_float * SUMS)(0.5, 0.25)
    with tempfile.TemporaryDirectory() as folder:
        loops = {level: loop_of(level, Path(folder)) for level in levels}
        seconds: dict[str, list[float]] = {level: [] for level in levels}
        for _ in range(options.repeats):
            for level, loop in loops.items():
                begun = time.process_time()
                loop.run(ctypes.c_int64(ROUNDS), numbers)
                seconds[level].append(time.process_time() - begun)
    results, rows = {}, []
    for level, times in seconds.items():
        rates = [ROUNDS * SUMS * BYTES[level] / 4 * 2 / s / 1e9 for s in times]
        peak, usual = max(rates), measure.spread(rates)
        floors = {model: operations(model) / peak / 1e6 for model in models.ARCHITECTURES}
        results[level] = {"peak_gflops": peak, "gflops": usual, "floor_ms": floors}
        rows.append([level, f"{peak:.0f} (median {usual['median']:.0f})", *(f"{ms:.2f}" for ms in floors.values())])
    arithmetic = ", ".join(f"`{model}` {operations(model) / 1e6:.0f}" for model in models.ARCHITECTURES)
    print(f"MFLOP a step: {arithmetic}\n")
    print(measure.table(["", "GFLOP/s of a core", *(f"`{model}`, ms a step" for model in models.ARCHITECTURES)], rows))
    measure.store(options.json, {"results": results})


if __name__ == "__main__":
    main()
