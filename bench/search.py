"""A search as a user measures it: Optuna and a plain PyTorch loop in so many processes, against `hpo worker`.

    python -m bench.search [--models ws] [--trials 16] [--epochs 6] [--processes 2] [--turns 2]

Both search the same space with the same sampler, pruner, draws and epochs on a SQLite file, one thread a process, in
turns on one machine. The plain script is what one would write without hpo: an eager module, `nn.Dropout`,
`torch.optim.Adam`, validation after each epoch, `trial.report`, `should_prune`. Seconds are those from the start of the
processes to the end of the last one; CPU seconds are of all of them.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench import measure

HPO = [sys.executable, "-c", "from hpo.cli.main import main; main()"]


def plain_process(model: str, url: str, trials: int, epochs: int) -> None:
    """One process of the plain search: its share of the trials."""
    import optuna
    import torch

    from bench.plain import PlainLoop
    from hpo.digits import draws, load
    from hpo.digits.pools import to_network_images
    from hpo.study.spec import builtin_spec

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    source, spec = load.load(None), builtin_spec(model)
    pool = draws.ImagePool.from_numpy("A", to_network_images(source.pool_a_images()), source.pool_a_labels())
    training, left = draws.draw_training(pool, 1, 1000)
    validation = draws.draw_validation(pool, left, 1, 2000)

    def objective(trial: optuna.Trial) -> float:
        params = {
            name: trial.suggest_float(name, space.low, space.high, log=space.log) for name, space in spec.space.items()
        }
        loop, accuracy = PlainLoop(model, pool.images, training, params={**_REST, **params}), 0.0
        for epoch in range(1, epochs + 1):
            loop.train_epoch()
            accuracy = loop.accuracy(pool.images, validation)
            trial.report(accuracy, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return accuracy

    few = spec.sampler.startup_trials
    study = optuna.create_study(
        study_name="plain",
        storage=url,
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(n_startup_trials=few),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=few, n_warmup_steps=epochs // 2),
    )
    study.optimize(objective, n_trials=trials)


_REST = {"aux_weight": 1.0, "main_weight": 1.0}  # of models that have none


def shares(trials: int, processes: int) -> list[int]:
    """How many of the trials each process has."""
    return [trials // processes + (i < trials % processes) for i in range(processes)]


def run_all(commands: list[list[str]], environment: dict[str, str], folder: str) -> dict[str, float]:
    """Wall and CPU seconds of processes that run at once, and the memory of the largest, in MB."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with open(Path(folder) / "log", "w") as log:
        processes = [subprocess.Popen(words, env=environment, stdout=log, stderr=log) for words in commands]
        codes = [process.wait() for process in processes]
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    if any(codes):
        raise RuntimeError((Path(folder) / "log").read_text()[-2000:])
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "cpu": cpu, "memory": after.ru_maxrss / 1024}


def by_plain(model: str, options: argparse.Namespace, environment: dict[str, str]) -> dict[str, float]:
    """The plain search."""
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder:
        url = f"sqlite:///{folder}/optuna.db"
        _create_tables(url)
        command = [sys.executable, "-m", "bench.search", "--process", url, "--models", model]
        command += ["--epochs", str(options.epochs), "--trials"]
        return run_all(
            [[*command, str(share)] for share in shares(options.trials, options.processes)], environment, folder
        )


def _create_tables(url: str) -> None:
    """Processes that begin at once would each make them, and one of them fail."""
    import optuna

    optuna.storages.RDBStorage(url)


def by_hpo(model: str, options: argparse.Namespace, environment: dict[str, str]) -> dict[str, float]:
    """The same by workers, which end when all trials of the search are done."""
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder:
        hpo = [*HPO, "--db", f"sqlite:///{folder}/hpo.db"]
        size = ["--trials", str(options.trials), "--epochs", str(options.epochs)]
        subprocess.run(
            [*hpo, "study", "create", "--model", model, *size], env=environment, check=True, capture_output=True
        )
        return run_all(
            [
                [*hpo, "worker", "--device", "cpu", "--max-trials", str(share)]
                for share in shares(options.trials, options.processes)
            ],
            environment,
            folder,
        )


def main() -> None:
    """Measure in turns, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--models", nargs="+", default=["simple", "ws", "ws-aux"])
    asked.add_argument("--trials", type=int, default=16)
    asked.add_argument("--epochs", type=int, default=6)
    asked.add_argument("--processes", type=int, default=2)
    asked.add_argument("--turns", type=int, default=2)
    asked.add_argument("--process", metavar="URL", help=argparse.SUPPRESS)
    asked.add_argument("--json", type=Path, default=Path("bench/out/search.json"))
    options = asked.parse_args()
    if options.process:
        plain_process(options.models[0], options.process, options.trials, options.epochs)
        return
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    ways: dict[str, Callable[..., dict[str, float]]] = {"plain": by_plain, "hpo": by_hpo}
    results: dict[str, Any] = {}
    rows = []
    for model in options.models:
        turns: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for turn in range(options.turns):
            for way in list(ways)[:: 1 if turn % 2 == 0 else -1]:
                turns[way].append(ways[way](model, options, environment))
                print(model, way, turns[way][-1], flush=True)
        results[model] = turns
        faster = [a["seconds"] / b["seconds"] for a, b in zip(turns["plain"], turns["hpo"], strict=True)]
        cells = [
            " and ".join(
                f"{life['seconds']:.0f} s ({life['cpu']:.0f} s, {life['memory']:.0f} MB)" for life in turns[way]
            )
            for way in ways
        ]
        rows.append([f"`{model}`", *cells, " and ".join(f"{x:.2f}x" for x in faster)])
    print(f"\n{options.trials} trials x {options.epochs} epochs, {options.processes} processes\n")
    print(measure.table(["model", "Optuna and a plain loop: wall (CPU, memory)", "hpo", "times as fast"], rows))
    measure.store(options.json, {"asked": {k: str(v) for k, v in vars(options).items()}, "turns": results})


if __name__ == "__main__":
    main()
