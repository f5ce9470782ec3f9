"""What a GPU needs of a step, as far as a CPU can tell: nothing waits, and every step is the same list of operations.

Triton's kernels are held against plain torch by Triton's interpreter, and compiled for an H100, where triton is
installed (`make test-long` installs it).
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hpo.digits import draws, models
from hpo.training.lockstep import Lockstep
from hpo.training.population import Population, Task
from tests.support.training import digit_population

BATCH, PAIRS = 20, 10
PARAMS = {"learning_rate": 1e-3, "weight_decay": 1e-4, "dropout": 0.3, "aux_weight": 2.0, "main_weight": 0.5}
WAITS = {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "unique", "masked_select", "_to_copy"}

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")


class Operations(TorchDispatchMode):
    """Records each operation: its name, the shapes of its tensors, and its other arguments."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no annotations
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        flat, _ = torch.utils._pytree.tree_flatten((args, kwargs or {}))
        words = [str((tuple(x.shape), x.dtype)) if isinstance(x, Tensor) else str(x) for x in flat]
        self.seen.append(f"{func.overloadpacket.__name__}({', '.join(words)})")
        return func(*args, **(kwargs or {}))


def population(model: str, lanes: int = 3) -> Population:
    """Lanes with unlike rates on random images, a draw each."""
    images = torch.rand(60, draws.SIDE, draws.SIDE, generator=torch.Generator().manual_seed(3))
    pool = draws.ImagePool(name="A", images=images, labels=torch.arange(60) % 10)
    made = digit_population(model, lanes, pool, samples=18 * PAIRS, batch=BATCH)
    for lane in range(lanes):
        training, _ = draws.draw_training(pool, lane, PAIRS)
        params = {**PARAMS, "learning_rate": 1e-3 * (lane + 1)}
        made.start(lane, Task(key=lane, params=params, seed=lane, epochs=3, training=training, validation=None))
    return made


@pytest.mark.parametrize("model", list(models.ARCHITECTURES))
def test_every_step_is_the_same_list_of_operations(model: str) -> None:
    """So a graph that captured one is all of them: what differs from step to step are the numbers in its tensors."""
    made = population(model)
    made.train_epoch()  # tables that are made once
    steps: list[list[str]] = []
    inner = Lockstep._step

    def recorded(self: Lockstep, *words: Any) -> Tensor:
        with Operations() as mode:
            losses = inner(self, *words)
        steps.append(mode.seen)
        return losses

    with mock.patch.object(Lockstep, "_step", recorded):
        made.train_epoch()
    assert len(steps) == 18 * PAIRS // BATCH
    assert all(step == steps[0] for step in steps)
    assert len(steps[0]) > 50


@pytest.mark.parametrize("model", list(models.ARCHITECTURES))
def test_nothing_in_an_epoch_reads_a_number_back(model: str) -> None:
    """Each would wait for a GPU. Copies between types are looked at for their device."""
    made = population(model)
    made.train_epoch()
    inner, seen = Lockstep.epoch, Operations()

    def recorded(self: Lockstep, *words: Any) -> Any:
        with seen:
            return inner(self, *words)

    with mock.patch.object(Lockstep, "epoch", recorded):
        made.train_epoch()
    names = {line.partition("(")[0] for line in seen.seen}
    assert not names & (WAITS - {"_to_copy"})
    assert not [line for line in seen.seen if line.startswith("_to_copy") and "device" in line]


# --- Triton's kernels ---------------------------------------------------------------------------------------


@needs_triton
@pytest.mark.long
def test_tritons_kernels_are_plain_torch_by_its_interpreter() -> None:
    file = Path(__file__).with_name("interpreted.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)]
    ran = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "5 passed" in ran.stdout


_COMPILE = """
import re, subprocess, sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from hpo.training.kernels import gpu, triton_kernels

def types(name):
    if name in ("corners", "positions", "keys"):
        return "*i64"
    if name in ("route", "thresholds"):
        return {"route": "*i8", "thresholds": "*i16"}[name]
    return "i32" if name in ("R", "B", "n", "words", "lane_stride", "bias_stride") else "*fp32"

def compile(name, constants, tile):
    constants = constants | {size: value for size, value in tile.items() if size != "num_warps"}
    function = getattr(triton_kernels, name)
    signature = {a: "constexpr" if a in constants else types(a) for a in function.arg_names}
    places = {(function.arg_names.index(a),): value for a, value in constants.items()}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, a in enumerate(function.arg_names)
        if signature[a].startswith("*") and a not in ("weight", "bias")  # which lie in the midst of the parameters
    }
    source = ASTSource(fn=function, signature=signature, constexprs=places, attrs=aligned)
    options = {"num_warps": tile.get("num_warps", 4)}
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    Path("kernel.cubin").write_bytes(made.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run([tool, "-res-usage", "kernel.cubin"], capture_output=True, text=True, check=True).stdout
    print(name, constants.get("C"), constants.get("PRECISION"), re.search(r"STACK:(\\d+)", usage)[1])

compile("dropout_masks", {}, {"BLOCK": 512})
compile("adam", {}, {"BLOCK": 1024})
for precision in ("tf32", "tf32x3"):
    for c in (1, 2):
        sizes = {"Q": 25, "C": c, "K": 5, "S": 2, "OC": 32, "INNER": 64 * c, "PRECISION": precision}
        compile("window_forward", sizes, gpu.WINDOW_FORWARD)
        compile("window_backward", sizes, gpu.WINDOW_BACKWARD)
    sizes = {"SIDE": 5, "K": 3, "S": 3, "C": 32, "OC": 64, "PRECISION": precision}
    compile("convolution_forward", sizes | {"PLACES": 16}, gpu.FORWARD)
    compile("convolution_input_gradient", sizes, gpu.INPUT_GRADIENT)
    blocks = -(-200 // gpu.WEIGHT_GRADIENT["BLOCK"])
    compile("convolution_weight_gradient", sizes | {"BLOCKS": blocks}, gpu.WEIGHT_GRADIENT)
compile("window_fold", {"C": 1, "K": 5, "S": 2, "OC": 32, "INNER": 64, "CHUNKS": 16, "TAPS": 32}, {})
"""


@needs_triton
@pytest.mark.long
def test_tritons_kernels_compile_for_an_h100_and_spill_no_register(tmp_path: Path) -> None:
    """With the tiles that are launched, in both precisions."""
    ran = subprocess.run([sys.executable, "-c", _COMPILE], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    assert len(lines) == 17
    assert [line for line in lines if int(line.split()[-1]) > 32] == []
