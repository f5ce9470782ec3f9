"""What browsers that have the lab's pages open cost the workers, and how long the pages take.

    python -m bench.pages [--browsers 20] [--workers 4] [--trials 1000] [--seconds 30] [--turns 3] [--quick]

Three studies with so many finished trials each, workers whose trainings sleep (bench/sleeping.py), a process each, and
`hpo dashboard`, on PostgreSQL and on SQLite. A browser does what the pages' script does: it asks for its page again
every few seconds, as many as the page says. Turns without browsers, with them, and with a reader who asks for the
report of all studies again and again (it is made anew, for something has changed) alternate; compared is what the
workers wait for the database, a transaction. The other pages are asked for by one client beside the workers, the
report that is kept when they have ended.
"""

import argparse
import http.client
import math
import os
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no types
from scipy.stats import t  # type: ignore[import-untyped]  # ships no types

from bench import backlog, databases, measure
from bench.claiming import quantiles
from bench.simulated import Case, Fleet, roomy
from bench.sleeping import Tally
from hpo.digits import load
from hpo.digits.pools import Digits
from hpo.digits.study_data import DigitsData
from hpo.storage import migrate, studies
from hpo.storage.engine import open_engine
from hpo.study import operations
from hpo.study.spec import MODELS, builtin_spec

TOKEN = "of-the-benchmarks-browsers"
TRIAL_SECONDS = 10.0  # of 40 epochs
STARTUP = 30  # random trials of a study
PATIENCE = 120.0  # seconds for an answer
WANTED = 0.05  # longer, at most
ASKED = 20  # times that one client asks for a page
ALONE = ("/api/studies", "/login", "/healthz", "/metrics")  # what one client asks for
WAYS = ("without", "with", "report")


# --- The site -----------------------------------------------------------------------------------------------


@contextmanager
def dashboard(url: str) -> Iterator[tuple[int, psutil.Process]]:
    """`hpo dashboard` on a free port: the port and its process."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    command = [sys.executable, "-m", "hpo", "--db", url, "dashboard", "--port", str(port)]
    environment = os.environ | {"HPO_DASHBOARD_TOKEN": TOKEN}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "http://" in line:
                break
        else:
            raise RuntimeError("the dashboard ended before it served")
        threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop it
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(PATIENCE)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a page gave."""

    seconds: float
    status: int
    body: bytes


class Client:
    """One browser's connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def get(self, path: str) -> Answer:
        """Ask as the script does."""
        begun = time.perf_counter()
        self._connection.request("GET", path, headers={"Accept": "text/html", "Authorization": f"Bearer {TOKEN}"})
        answer = self._connection.getresponse()
        body = answer.read()
        return Answer(seconds=time.perf_counter() - begun, status=answer.status, body=body)

    def close(self) -> None:
        """Leave."""
        self._connection.close()


class Browsers:
    """So many pages open at once, while in the context."""

    def __init__(self, port: int, paths: Sequence[str], seconds: dict[str, list[float]]) -> None:
        """A browser for each path; `seconds` takes the times by `kind_of` page."""
        self._port, self._seconds = port, seconds
        self._over, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._stay, args=[path], daemon=True) for path in paths]
        self.refused = 0

    def __enter__(self) -> "Browsers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _stay(self, path: str) -> None:
        client = Client(self._port)
        every = refresh_seconds(client.get(path).body)
        due = time.monotonic() + random.uniform(0, every)  # people open pages at different times
        while not self._over.wait(max(0.0, due - time.monotonic())):
            answer = client.get(path)
            with self._lock:
                self._seconds[kind_of(path)].append(answer.seconds)
                self.refused += answer.status != 200
            due = max(due + every, time.monotonic())
        client.close()


@contextmanager
def reading(port: int, path: str, seconds: list[float]) -> Iterator[None]:
    """Somebody asks for the page, and again as soon as it has come; `seconds` takes the times."""
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            seconds.extend(_asked(port, path, 1))

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    yield
    over.set()
    thread.join(PATIENCE)


def refresh_seconds(page: bytes) -> float:
    """After how long the page asks for itself again."""
    match = re.search(rb'data-refresh="([0-9.]+)"', page)
    assert match is not None, "the page does not refresh itself"
    return float(match[1])


def kind_of(path: str) -> str:
    """All studies' pages are one kind."""
    return "/studies/NAME" if path.startswith("/studies/") else path


# --- Turns --------------------------------------------------------------------------------------------------


def prepare(url: str, digits: Digits, trials: int, spare: int) -> list[str]:
    """Three studies with so many finished trials, and more that wait; their names."""
    engine = open_engine(url)
    migrate.create_or_check(engine)
    specs = [
        roomy(builtin_spec(model), f"pages-{model}", 1, trials + spare, STARTUP, max(8, spare)) for model in MODELS
    ]
    data = DigitsData(lambda: digits)
    operations.create(engine, [operations.Planned(spec=spec, data=data) for spec in specs])
    for row in studies.list_studies(engine):
        backlog.finish_trials(engine, row, trials)
    engine.dispose()
    return [spec.name for spec in specs]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What the workers did in one turn."""

    waited_ms: float  # for the database, a transaction
    transactions: int
    fetches: Sequence[float]  # seconds from asking for a slot to its training
    begun: int  # trainings
    dashboard_cpu: float  # share of a core
    workers_cpu: float
    busy: float  # cores of the machine, whoever used them


def take_turn(fleet: Fleet, served: psutil.Process, seconds: float) -> Turn:
    """Let so many seconds pass."""
    before, begun, cpu = fleet.ask("report"), time.monotonic(), _cpu(served)
    psutil.cpu_percent()
    time.sleep(seconds)
    busy = psutil.cpu_percent() / 100 * (psutil.cpu_count() or 1)
    after, elapsed, cpu_after = fleet.ask("report"), time.monotonic() - begun, _cpu(served)

    def grown(name: str) -> float:
        return float(sum(getattr(b, name) - getattr(a, name) for a, b in zip(before, after, strict=True)))

    transactions = round(grown("reads") + grown("writes"))
    return Turn(
        waited_ms=1e3 * grown("waited") / max(1, transactions),
        transactions=transactions,
        fetches=[x for a, b in zip(before, after, strict=True) for x in b.fetches[len(a.fetches) :]],
        begun=round(grown("begun")),
        dashboard_cpu=(cpu_after - cpu) / elapsed,
        workers_cpu=grown("cpu") / elapsed,
        busy=busy,
    )


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure_database(url: str, digits: Digits, options: argparse.Namespace) -> dict[str, Any]:
    """All turns on one database, then the pages that one client asks for."""
    lasting = options.seconds * (len(WAYS) * options.turns + 2)
    names = prepare(url, digits, options.trials, round(2 * options.workers * lasting / TRIAL_SECONDS) + 60)
    paths = ["/", *(f"/studies/{name}" for name in names), "/workers"]
    opened = [paths[n % len(paths)] for n in range(options.browsers)]
    seconds: dict[str, list[float]] = defaultdict(list)
    turns: dict[str, list[Turn]] = {way: [] for way in WAYS}
    refused = 0
    with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder, dashboard(url) as (port, served):
        fleet = Fleet(url, Case(workers=options.workers, trial_seconds=TRIAL_SECONDS), Path(folder))
        fleet.sizes = [1] * options.workers
        fleet.start(fleet.sizes)
        _settle(fleet, port, paths)
        for turn in range(options.turns):
            for way in WAYS if turn % 2 == 0 else WAYS[::-1]:
                if way == "with":
                    with Browsers(port, opened, seconds) as browsers:
                        turns[way].append(take_turn(fleet, served, options.seconds))
                    refused += browsers.refused
                else:
                    reader = reading(port, "/report", seconds["/report, made"]) if way == "report" else nullcontext()
                    with reader:
                        turns[way].append(take_turn(fleet, served, options.seconds))
                print(f"  {way}: {turns[way][-1].waited_ms:.2f} ms a transaction", flush=True)
        for path in ALONE:
            seconds[path] = _asked(port, path, ASKED)
        tallies, _ = fleet.stop()
        _asked(port, "/report", 1)
        seconds["/report, kept"] = _asked(port, "/report", ASKED)
    return {
        "turns": {which: [vars(turn) for turn in each] for which, each in turns.items()},
        "ratios": {
            way: [b.waited_ms / a.waited_ms for a, b in zip(turns["without"], turns[way], strict=True)]
            for way in WAYS[1:]
        },
        "pages": dict(seconds),
        "refused": refused,
        "lost": sum(len(tally.lost) for tally in tallies),
        "warnings": _warnings(tallies),
    }


def _settle(fleet: Fleet, port: int, paths: Sequence[str]) -> None:
    """Until every worker trains its second trial, and every page has been asked for."""
    client = Client(port)
    for path in [*paths, *ALONE]:
        client.get(path)
    client.close()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and any(tally.begun < 2 for tally in fleet.ask("report")):
        time.sleep(1.0)


def _asked(port: int, path: str, times: int) -> list[float]:
    client = Client(port)
    answers = [client.get(path) for _ in range(times)]
    client.close()
    assert all(answer.status == 200 for answer in answers), (path, answers[0].status, answers[0].body[:200])
    return [answer.seconds for answer in answers]


def _warnings(tallies: Sequence[Tally]) -> dict[str, int]:
    counted: dict[str, int] = defaultdict(int)
    for tally in tallies:
        for line, count in tally.warnings.items():
            counted[line] += count
    return dict(counted)


# --- Tables -------------------------------------------------------------------------------------------------


def waiting_table(actual: Mapping[str, dict[str, Any]]) -> str:
    """Two rows a database: what the workers waited without and with browsers or a reader, and how much longer."""
    head = ["database", "beside the workers", "ms a transaction, without", "with", "longer", "95% interval"]
    head += ["slot ready, ms, without", "with", "workers' cores", "dashboard's cores", "all busy cores"]
    rows = []
    for kind, result in actual.items():
        turns = result["turns"]
        for way, ratios in result["ratios"].items():
            middle = [statistics.median(turn["waited_ms"] for turn in turns[which]) for which in ("without", way)]
            ready = [_ready(turns[which]) for which in ("without", way)]
            mean, low, high = growth(ratios)
            beside = "browsers" if way == "with" else "a report, made again and again"
            cores = [statistics.mean(t[n] for t in turns[way]) for n in ("workers_cpu", "dashboard_cpu", "busy")]
            rows.append(
                [
                    kind,
                    beside,
                    *(f"{value:.2f}" for value in middle),
                    f"{mean:+.1%}, n {len(ratios)}",
                    f"{low:+.0%} to {high:+.0%}",
                    *ready,
                    *(f"{value:.2f}" for value in cores),
                ]
            )
    return measure.table(head, rows)


def growth(ratios: Sequence[float]) -> tuple[float, float, float]:
    """The geometric mean of the turns' ratios, less one, and its 95% interval (Student's t over pairs of turns)."""
    logs = [math.log(ratio) for ratio in ratios]
    half = t.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    middle = statistics.mean(logs)
    return math.expm1(middle), math.expm1(middle - half), math.expm1(middle + half)


def _ready(turns: Sequence[Mapping[str, Any]]) -> str:
    actual = quantiles(x for turn in turns for x in turn["fetches"])
    return "-" if actual["p50_ms"] is None else f"{actual['p50_ms']:.0f} / {actual['p99_ms']:.0f}, n {actual['n']}"


def pages_table(actual: Mapping[str, dict[str, Any]]) -> str:
    """A row a page: milliseconds by database."""
    kinds = list(dict.fromkeys(kind for result in actual.values() for kind in result["pages"]))
    rows = [[kind, *(_times(result["pages"].get(kind, [])) for result in actual.values())] for kind in kinds]
    return measure.table(["page, ms p50 / p95", *actual], rows)


def _times(seconds: Sequence[float]) -> str:
    if not seconds:
        return "-"
    if len(seconds) == 1:
        return f"{1e3 * seconds[0]:.0f}"
    cuts = statistics.quantiles(seconds, n=20, method="inclusive")
    return f"{1e3 * statistics.median(seconds):.0f} / {1e3 * cuts[-1]:.0f}, n {len(seconds)}"


# --- All of it ----------------------------------------------------------------------------------------------


def main() -> None:
    """Measure, print, store."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--browsers", type=int, default=20)
    asked.add_argument("--workers", type=int, default=4)
    asked.add_argument("--trials", type=int, default=1000, help="finished ones of each study")
    asked.add_argument("--seconds", type=float, default=30.0, help="of a turn")
    asked.add_argument("--turns", type=measure.two_or_more, default=3, help="of each way")
    asked.add_argument("--quick", action="store_true", help="about two minutes: two turns of 10 s each")
    asked.add_argument("--json", type=Path, default=Path("bench/out/pages.json"))
    options = asked.parse_args()
    if options.quick:
        options.seconds, options.turns = 10.0, 2
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    digits = load.load(None)
    actual: dict[str, dict[str, Any]] = {}
    for kind, database in (("PostgreSQL", databases.postgresql), ("SQLite", databases.sqlite)):
        print(kind, flush=True)
        with tempfile.TemporaryDirectory(prefix="hpo-bench-") as folder, database(Path(folder)) as url:
            actual[kind] = measure_database(url, digits, options)
        for line, count in actual[kind]["warnings"].items():
            print(f"  {count} x {line}")
    print(
        f"\n{options.workers} workers, {options.browsers} browsers, 3 studies of {options.trials:,} finished trials, "
        f"turns of {options.seconds:g} s; wanted: at most {WANTED:.0%} longer\n\n{waiting_table(actual)}"
    )
    print(f"\nThe first three with all browsers, the others by one client\n\n{pages_table(actual)}\n")
    measure.store(options.json, {"asked": {k: str(v) for k, v in vars(options).items()}, "databases": actual})


if __name__ == "__main__":
    main()
