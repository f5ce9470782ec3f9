"""What it brings to train a user's recipe in lanes of one process: seconds and CPU time of a search, by lanes.

    python -m bench.lanes [--lanes 1 4 8] [--trials 24] [--epochs 20] [--turns 2]

One real worker on SQLite with one thread, a network of 6,600 parameters on scikit-learn's digits, in turns.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import measure
from hpo.storage import slots, studies
from hpo.storage.engine import open_engine

CODE = """
import hpo
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

def network():
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), hpo.dropout(64), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

def loss(out, columns, hyper):
    y = columns["y"]
    each = F.cross_entropy(out.flatten(0, -2), y.flatten(), reduction="none").view(y.shape)
    return each.mean(-1), each.mean(-1)

def load():
    x, y = load_digits(return_X_y=True)
    return x / 16, y

small = hpo.Experiment(
    "small",
    data=hpo.rows(load, test=0.3),
    metrics=[hpo.accuracy, hpo.cross_entropy],
    models={"mlp": hpo.Model(
        hpo.Recipe(network, hpo.Tensors, lambda items: {"y": items.y}, loss, lambda out: out, batch=32),
        space={"learning_rate": hpo.Float(1e-4, 1e-1, log=True), "weight_decay": 1e-4, "dropout": hpo.Float(0.0, 0.6)},
        reference={"learning_rate": 1e-2, "dropout": 0.1},
    )},
)
"""
STUDY = """
model = "mlp"
[budget]
trials = {trials}
epochs = {epochs}
[pruner]
name = "none"
[sampler]
name = "random"
[protocol]
confirm_configurations = 1
confirm_rounds = 1
final_rounds = 1
"""


def search(lanes: int, options: argparse.Namespace) -> tuple[float, float]:
    """Seconds from the first trial's start to the last one's end, and the CPU seconds of the worker's life."""
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as name:
        folder = Path(name)
        (folder / "small_recipe.py").write_text(CODE)
        (folder / "small.toml").write_text(STUDY.format(trials=options.trials, epochs=options.epochs))
        url, root = f"sqlite:///{folder / 'hpo.db'}", Path(__file__).parents[1]
        environment = {**os.environ, "HPO_DATABASE_URL": url, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}

        def run(*words: str) -> None:
            command = [sys.executable, "-m", "hpo", *words, "--experiment", "small_recipe.py"]
            subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)

        run("study", "create", "--file", "small.toml")
        before = os.times()
        run("worker", "--drain", "--device", "cpu", "--population", str(lanes))
        after = os.times()
        engine = open_engine(url)
        every = slots.list_slots(engine, studies.get_study(engine, "small-mlp").id, "search")
        engine.dispose()
    starts = [slot.started_at for slot in every if slot.started_at is not None]
    ends = [slot.finished_at for slot in every if slot.finished_at is not None]
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return max(ends) - min(starts), cpu


def main() -> None:
    """Measure in turns, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--lanes", type=int, nargs="+", default=[1, 4, 8])
    asked.add_argument("--trials", type=int, default=24)
    asked.add_argument("--epochs", type=int, default=20)
    asked.add_argument("--turns", type=int, default=2)
    asked.add_argument("--json", type=Path, default=Path("bench/out/lanes.json"))
    options = asked.parse_args()
    result: dict[str, Any] = {str(lanes): [] for lanes in options.lanes}
    for _ in range(options.turns):
        for lanes in options.lanes:
            result[str(lanes)].append(search(lanes, options))
    rows = [
        [lanes, " / ".join(f"{wall:.1f}" for wall, _ in turns), " / ".join(f"{cpu:.1f}" for _, cpu in turns)]
        for lanes, turns in result.items()
    ]
    print(measure.table(["lanes", "seconds of the search", "CPU seconds of the worker"], rows))
    measure.store(options.json, {"asked": {k: str(v) for k, v in vars(options).items()}, **result})


if __name__ == "__main__":
    main()
