"""A search as a user measures it: Optuna and a plain PyTorch loop in so many processes, against `hpo worker`.

    python -m bench.search [--models ws] [--trials 16] [--epochs 6] [--processes 2] [--turns 2]

Both search the same space with the same sampler, pruner, draws and epochs on a SQLite file, one thread a process, in
turns on one machine. The plain script is what one would write without hpo: an eager module, `nn.Dropout`,
`torch.optim.Adam`, validation after each epoch, `trial.report`, `should_prune`; each process has its share of the
trials. hpo's workers share them out themselves, and are ended when the search is.

Seconds are those from the start of the processes to the end of the last trial; of them *start* are those before the
first trial, *tail* those after the first process has trained its last. CPU seconds are of all processes, memory is
the largest one's. ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 holds both to AVX2.
"""

import argparse
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
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


@dataclass(frozen=True, kw_only=True)
class Search:
    """One search; seconds, but for the memory."""

    seconds: float
    start: float
    tail: float
    cpu: float
    memory: float  # MB


@dataclass(frozen=True, kw_only=True)
class Trials:
    """When the trials of a search began and ended, in seconds since 1970."""

    first: float  # the first one's begin
    last: float  # the last one's end
    idle: float  # the end of the last one of the process that ended first; of one that had none, the first one's begin


class Processes:
    """Processes that run at once; what they say goes to a file."""

    def __init__(self, commands: list[list[str]], environment: dict[str, str], folder: str) -> None:
        self.begun, self.log = time.time(), Path(folder) / "log"
        with self.log.open("w") as log:
            self.running = [subprocess.Popen(words, env=environment, stdout=log, stderr=log) for words in commands]

    def wait(self) -> list[tuple[float, int, resource.struct_rusage]]:
        """Of each its end, its exit code, and what it used, all its children's with it."""

        def ended(process: subprocess.Popen[bytes]) -> tuple[float, int, resource.struct_rusage]:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            return time.time(), process.returncode, usage

        with ThreadPoolExecutor(len(self.running)) as threads:
            return list(threads.map(ended, self.running))

    def search(self, ends: list[tuple[float, int, resource.struct_rusage]], trials: Trials) -> Search:
        """What the search took."""
        return Search(
            seconds=trials.last - self.begun,
            start=trials.first - self.begun,
            tail=trials.last - trials.idle,
            cpu=sum(usage.ru_utime + usage.ru_stime for _, _, usage in ends),
            memory=max(usage.ru_maxrss for _, _, usage in ends) / 1024,
        )


def by_plain(model: str, options: argparse.Namespace, environment: dict[str, str]) -> Search:
    """The plain search."""
    import optuna

    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder:
        url = f"sqlite:///{folder}/optuna.db"
        _create_tables(url)
        command = [sys.executable, "-m", "bench.search", "--process", url, "--models", model]
        command += ["--epochs", str(options.epochs), "--trials"]
        commands = [[*command, str(share)] for share in shares(options.trials, options.processes)]
        processes = Processes(commands, environment, folder)
        ends = processes.wait()
        if any(code for _, code, _ in ends):
            raise RuntimeError(processes.log.read_text()[-2000:])
        done = optuna.load_study(study_name="plain", storage=url).trials
        first = min(trial.datetime_start.timestamp() for trial in done if trial.datetime_start)
        return processes.search(
            ends, Trials(first=first, last=max(end for end, _, _ in ends), idle=min(end for end, _, _ in ends))
        )


def _create_tables(url: str) -> None:
    """Processes that begin at once would each make them, and one of them fail."""
    import optuna

    optuna.storages.RDBStorage(url)


def by_hpo(model: str, options: argparse.Namespace, environment: dict[str, str]) -> Search:
    """The same by workers, which are ended when all trials of the search are."""
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder:
        url = f"sqlite:///{folder}/hpo.db"
        size = ["--trials", str(options.trials), "--epochs", str(options.epochs)]
        create = [*HPO, "--db", url, "study", "create", "--model", model, *size]
        subprocess.run(create, env=environment, check=True, capture_output=True)
        worker = [*HPO, "--db", url, "worker", "--device", "cpu"]
        processes = Processes([worker] * options.processes, environment, folder)
        while (trials := _of_workers(url, options.trials, options.processes)) is None:
            if any(process.poll() is not None for process in processes.running):
                raise RuntimeError(processes.log.read_text()[-2000:])
            time.sleep(0.2)
        for process in processes.running:
            process.send_signal(signal.SIGTERM)
        return processes.search(processes.wait(), trials)


def _of_workers(url: str, trials: int, workers: int) -> Trials | None:
    """Those of a study's search; None while it goes on."""
    from sqlalchemy import select

    from hpo.storage.engine import begin_read, open_engine
    from hpo.storage.schema import slots

    engine = open_engine(url)
    with begin_read(engine) as connection:
        rows = connection.execute(
            select(slots.c.worker, slots.c.started_at, slots.c.finished_at).where(slots.c.kind == "search")
        ).all()
    engine.dispose()
    if len(rows) < trials or any(row.finished_at is None for row in rows):
        return None
    ends: dict[str, float] = {}
    for row in rows:
        ends[row.worker] = max(ends.get(row.worker, 0.0), row.finished_at)
    first = min(row.started_at for row in rows)
    return Trials(first=first, last=max(ends.values()), idle=min(ends.values()) if len(ends) == workers else first)


def cell(lives: list[Search], of: Callable[[Search], float]) -> str:
    """The median of some turns, and their range."""
    values = [of(life) for life in lives]
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


COLUMNS = {"seconds": "s", "start": "s", "tail": "s", "cpu": "s", "memory": "MB"}  # of a Search


def versions() -> dict[str, str]:
    """What decides how fast it is."""
    from importlib.metadata import version

    import torch

    return {"optuna": version("optuna"), "instructions": torch.backends.cpu.get_cpu_capability()}


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
    ways: dict[str, Callable[..., Search]] = {"plain": by_plain, "hpo": by_hpo}
    results: dict[str, Any] = {}
    rows: list[list[str]] = []
    for model in options.models:
        turns: dict[str, list[Search]] = {way: [] for way in ways}
        for turn in range(options.turns):
            for way in list(ways)[:: 1 if turn % 2 == 0 else -1]:
                turns[way].append(ways[way](model, options, environment))
                print(model, way, turns[way][-1], f"load {os.getloadavg()[0]:.1f}", flush=True)
        results[model] = {way: [asdict(life) for life in lives] for way, lives in turns.items()}
        for way, lives in turns.items():
            of_way = [cell(lives, lambda life, name=name: getattr(life, name)) for name in COLUMNS]  # type: ignore[misc]  # mypy knows no lambda's defaults
            rows.append([f"`{model}`", way, *of_way])
        faster = [a.seconds / b.seconds for a, b in zip(turns["plain"], turns["hpo"], strict=True)]
        by_cpu = [a.cpu / b.cpu for a, b in zip(turns["plain"], turns["hpo"], strict=True)]
        rows[-1][-1] += f" | {statistics.median(faster):.2f}x ({min(faster):.2f} to {max(faster):.2f})"
        rows[-1][-1] += f" | {statistics.median(by_cpu):.2f}x"
        rows[-2][-1] += " | | "
    about = {**measure.machine(), **versions()}
    print(f"\n{options.trials} trials x {options.epochs} epochs, {options.processes} processes, n = {options.turns}")
    print(", ".join(f"{name} {value}" for name, value in about.items()), "\n")
    head = ["model", "", *(f"{name}, {unit}" for name, unit in COLUMNS.items()), "times as fast", "by CPU"]
    print(measure.table(head, rows))
    measure.store(
        options.json, {"asked": {k: str(v) for k, v in vars(options).items()}, "versions": about, "turns": results}
    )


if __name__ == "__main__":
    main()
