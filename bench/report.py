"""Time and size of `hpo report` on a comparison of full size.

    python -m bench.report [--trials 200] [--epochs 40] [--rounds 20] [--random 30] [--runs 3]

Three models, each with so many search trials, confirm 5 + the paper's x 10 rounds, and so many final rounds of two
configurations, made by hand in a SQLite file: the report reads numbers, whoever has trained them. `hpo report` then
runs as a process, and once more within this one, part by part.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bench import measure
from bench.finished import finish
from hpo.digits.load import load as load_digits
from hpo.storage import migrate
from hpo.storage.engine import open_engine
from hpo.study.spec import MODELS, StudySpec, builtin_spec

T = TypeVar("T")


def spec_of(model: str, options: argparse.Namespace) -> StudySpec:
    """The shipped study of a model on this budget."""
    spec = builtin_spec(model).with_options(trials=options.trials, epochs=options.epochs, rounds=options.rounds)
    tree = spec.model_dump()
    tree["sampler"]["startup_trials"] = options.random
    return StudySpec.model_validate(tree)


def run_report(url: str, out: Path) -> dict[str, float]:
    """One `hpo report` as a process: seconds on the clock and of CPU, its page's size."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "hpo", "--db", url, "report", "--out", str(out)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu, "megabytes": (out / "report.html").stat().st_size / 1e6}


def parts_of(url: str, out: Path) -> dict[str, float]:
    """Seconds of each part of one report in this process, whose imports are counted where they come first."""
    seconds: dict[str, float] = {}

    def part(name: str, act: Callable[[], T]) -> T:
        begun = time.perf_counter()
        done = act()
        seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - begun
        return done

    def imports() -> Any:
        from hpo.analysis import comparison
        from hpo.analysis.dependence import interactions
        from hpo.report import contents, scores, views, write
        from hpo.results import queries
        from hpo.server import notes

        return notes, comparison, interactions, contents, scores, views, write, queries

    notes, comparison, interactions, contents, scores, views, write, queries = part("imports (scipy, numpy)", imports)
    engine = open_engine(url)
    actual = part("reading the database", lambda: queries.all_results(engine))
    shipped = contents.shipped_report_of(None)
    columns = part(
        "reading answers (imports torch)",
        lambda: {result.id: views.read_columns(engine, result, shipped) for result in actual},
    )
    part("comparison: pairs", lambda: comparison.paired_of(actual))
    part("comparison: and intervals", lambda: comparison.compare(actual))
    part("comparison: and new images", lambda: comparison.compare(actual, scores.scores_of(actual, columns)))
    for result in actual:
        part(f"dependence: {result.name}", partial(interactions.dependence_of, result))
    whole = part("all of these again, and pictures, models' costs", lambda: contents.gather(engine))
    part("figures, page, files (imports plotly)", lambda: write.write(whole, out))
    part("notes and figures for the dashboard", lambda: notes.write_pages(engine, whole.results, whole.comparison))
    return seconds


def main() -> None:
    """Measure, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--trials", type=int, default=200, help="of each search")
    asked.add_argument("--epochs", type=int, default=40)
    asked.add_argument("--rounds", type=int, default=20, help="final rounds of each configuration")
    asked.add_argument("--random", type=int, default=30, help="random trials at the search's start")
    asked.add_argument("--runs", type=int, default=3)
    asked.add_argument("--json", type=Path, default=Path("bench/out/report.json"))
    options = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder:
        url, out = f"sqlite:///{folder}/hpo.db", Path(folder) / "report"
        engine = open_engine(url)
        migrate.create_or_check(engine)
        finish(engine, load_digits(None), [spec_of(model, options) for model in MODELS])
        engine.dispose()
        load = os.getloadavg()[0]
        runs = [run_report(url, out) for _ in range(options.runs)]
        parts = parts_of(url, out)
    rows = []
    for name, unit in (("wall", "s"), ("cpu", "s"), ("megabytes", "MB")):
        values = [run[name] for run in runs]
        row = [f"{name}, {unit}", f"{statistics.median(values):.2f}", f"{min(values):.2f} to {max(values):.2f}"]
        rows.append(row)
    print(
        f"hpo report, 3 models x {options.trials} trials ({options.random} random) of {options.epochs} epochs, "
        f"6 x {options.rounds} final rounds, {options.runs} runs, load {load:.1f} before\n"
    )
    print(measure.table(["", "median", "range"], rows))
    print("\nParts, s, once, in one process\n")
    print(measure.table(["part", "s"], [[name, f"{seconds:.2f}"] for name, seconds in parts.items()]))
    asked_for = {k: str(v) for k, v in vars(options).items()}
    measure.store(options.json, {"asked": asked_for, "load": load, "runs": runs, "parts": parts})


if __name__ == "__main__":
    main()
