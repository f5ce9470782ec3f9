"""What it costs to have a user's functions trained in child processes of workers.

    python -m bench.functions [--trainings 10] [--seconds 1] [--workers 4] [--threads 1] [--imports]
                              [--gigabytes 1] [--epochs 120]

Real workers on SQLite, on trainings that do nothing else: (a) a training that sleeps `--seconds`: how long it takes
from one result to the next in a warm worker, in search and in final rounds; (b) `--workers` of them on trainings that
calculate: the CPU time of the trainings of all that the cores had; (c) `--epochs` epochs of a second with a state of
`--gigabytes`, which is kept whenever hpo finds that time for it is left, against the same without.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import measure
from hpo.storage import slots, studies
from hpo.storage.engine import open_engine
from hpo.storage.slots import Slot

CODE = """
import os, time
import hpo
import numpy as np

def nothing(x): return np.zeros(len(x))

def sleeps(run):
    time.sleep(run.params["seconds"])
    return nothing

def calculates(run):
    end, x = time.process_time() + run.params["seconds"], np.ones(1000)
    while time.process_time() < end:
        x = x * 0.5 + 0.5
    return nothing

class State:
    def __init__(self, gigabytes): self.values = np.random.default_rng(1).bytes(int(gigabytes * 1e9))
    def state_dict(self): return {"values": np.frombuffer(self.values, dtype=np.uint8)}
    def load_state_dict(self, state): self.values = state["values"].tobytes()

def epochs(run):
    state = State(run.params["gigabytes"])
    if run.params["kept"]:
        run.checkpoint(state)
    for _ in run.epochs():
        time.sleep(1.0)
        run.report(nothing)
    return nothing

def data(n): return np.zeros((n, 1)), np.zeros(n)

bench = hpo.Experiment(
    "bench",
    data=hpo.Data("bench-1", a=lambda: data(100), b=lambda: data(100)),
    metrics=[hpo.mae],
    draw=lambda pool, how: (hpo.Items(*pool), hpo.Items(*pool)),
    draw_test=lambda pool, how: hpo.Items(*pool),
    models={
        "sleeps": hpo.Model(sleeps, space={"x": hpo.Float(0, 1), "seconds": SECONDS}, reference={"x": 0.5}),
        "calculates": hpo.Model(calculates, space={"x": hpo.Float(0, 1), "seconds": SECONDS}, reference={"x": 0.5}),
        "kept": hpo.Model(epochs, space={"gigabytes": GIGABYTES, "kept": True}, epochs=EPOCHS),
        "plain": hpo.Model(epochs, space={"gigabytes": GIGABYTES, "kept": False}, epochs=EPOCHS),
    },
)
"""


class Bench:
    """A new database with studies of that file."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self._folder, self._url = folder, f"sqlite:///{folder / 'hpo.db'}"
        self._threads = options.threads
        values = {"SECONDS": options.seconds, "GIGABYTES": options.gigabytes, "EPOCHS": options.epochs}
        code = CODE
        for name, value in values.items():
            code = code.replace(name, repr(value))
        (folder / "bench_functions.py").write_text(code + "".join(f"import {name}\n" for name in options.imports))

    def slots_after(self, model: str, trials: int, rounds: int, workers: int = 1) -> list[Slot]:
        """All slots of a new study, once so many workers are done with it."""
        text = (
            f'model = "{model}"\n[budget]\ntrials = {trials}\n[pruner]\nname = "none"\n[sampler]\nname = "random"\n'
            f"[protocol]\nconfirm_configurations = 1\nconfirm_rounds = 1\nfinal_rounds = {rounds}\n"
        )
        (self._folder / f"{model}.toml").write_text(text)
        self._start("study", "create", "--file", f"{model}.toml", "--experiment", "bench_functions.py").wait()
        words = [
            *("worker", "--drain", "--device", "cpu", "--checkpoint", "0", "--threads", str(self._threads)),
            *("--experiment", "bench_functions.py", "--study", f"bench-{model}"),
        ]
        codes = [worker.wait() for worker in [self._start(*words) for _ in range(workers)]]
        if any(codes):
            raise SystemExit("a worker ended badly")
        engine = open_engine(self._url)
        try:
            return slots.list_slots(engine, studies.get_study(engine, f"bench-{model}").id)
        finally:
            engine.dispose()

    def _start(self, *words: str) -> subprocess.Popen[bytes]:
        root = Path(__file__).parents[1]
        environment = {**os.environ, "HPO_DATABASE_URL": self._url, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-m", "hpo", *words], cwd=self._folder, env=environment)


def seconds_each(every: list[Slot], kind: str) -> list[float]:
    """Seconds from one result of a kind to the next."""
    ends = sorted(slot.finished_at for slot in every if slot.kind == kind and slot.finished_at is not None)
    return [after - before for before, after in itertools.pairwise(ends)]


def share_of_cores(every: list[Slot], seconds: float) -> float:
    """CPU time in the user's function, of that which this process's cores had from the first training to the last."""
    starts = [slot.started_at for slot in every if slot.started_at is not None]
    ends = [slot.finished_at for slot in every if slot.finished_at is not None]
    return seconds * len(every) / (len(os.sched_getaffinity(0)) * (max(ends) - min(starts)))


def main() -> None:
    """Measure, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--trainings", type=measure.two_or_more, default=10, help="of each kind")
    asked.add_argument("--seconds", type=float, default=1.0)
    asked.add_argument("--workers", type=int, default=4)
    asked.add_argument("--threads", type=int, default=1, help="of a training; with more than one no process is forked")
    asked.add_argument("--imports", nargs="*", default=[], help="modules that take long, as a user's file has them")
    asked.add_argument("--gigabytes", type=float, default=1.0)
    asked.add_argument("--epochs", type=measure.two_or_more, default=120)
    asked.add_argument("--json", type=Path, default=Path("bench/out/functions.json"))
    options = asked.parse_args()
    result: dict[str, Any] = {"load": os.getloadavg()[0]}
    rows = []
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as name:
        bench = Bench(Path(name), options)
        every = bench.slots_after("sleeps", options.trainings + 1, options.trainings + 1)
        for kind in ("search", "final"):
            ratios = measure.spread([each / options.seconds for each in seconds_each(every, kind)])
            result[kind] = ratios
            shown = f"{ratios['median']:.2f} ({ratios['q1']:.2f} to {ratios['q3']:.2f})"
            rows.append([f"{options.seconds:g} s in {kind}, of its own time", shown])
        every = bench.slots_after("calculates", options.trainings * options.workers, 1, options.workers)
        result["cores"] = share_of_cores(every, options.seconds)
        rows.append([f"{options.workers} workers, trainings' share of the cores", f"{result['cores']:.0%}"])
        took = {}
        for model in ("plain", "kept"):
            (outcome,) = (slot.outcome for slot in bench.slots_after(model, 0, 1))
            assert outcome is not None
            took[model] = outcome.seconds
        result["checkpoints"] = took["kept"] / took["plain"]
        rows.append([f"checkpoints of {options.gigabytes:g} GB, of the time without", f"{result['checkpoints']:.3f}"])
    print(measure.table(["what", "ratio"], rows))
    measure.store(options.json, {"asked": {k: str(v) for k, v in vars(options).items()}, **result})


if __name__ == "__main__":
    main()
