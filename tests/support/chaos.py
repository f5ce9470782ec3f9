"""Real workers killed, ended and frozen at random moments, and what must be true whatever befell them.

    python -m tests.support.chaos [--kills 200] [--seed 1] [--workers 3]

Campaigns, by turns on SQLite and on PostgreSQL, of the digits and of a user's function, each with the next seed, until
so many workers have been killed (SIGKILL). A seed decides who is struck, by what, how long after what and whether in a
training; the machine decides the rest.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import psutil  # type: ignore[import-untyped]  # ships no types
from sqlalchemy import Engine, Row, create_engine, select, text
from sqlalchemy.engine import make_url

from hpo.storage import slots as queue
from hpo.storage import studies
from hpo.storage.engine import begin_read, open_engine
from hpo.storage.optuna_storage import make_storage
from hpo.storage.schema import slots
from hpo.storage.slots import Slot
from tests.support.commandline import DRAIN, PATIENCE, POLL, Hpo, Said, finish, wait_until
from tests.support.exact import check_exact, results
from tests.support.experiments import DESCENT
from tests.support.experiments import create as create_small
from tests.support.server import Server

LEASE = 2.0  # seconds
LONGEST_PAUSE = 1.5  # seconds between the choice of a victim and the stroke
IN_TRAINING = 0.5  # of the strokes: the victim is past an epoch of its lease, however long it took to get there
FREEZE = (1.1, 2.0)  # leases
STROKES = (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP, signal.SIGCHLD)  # the last: its child is killed
WEIGHTS = (6, 2, 2, 0)

# Random search without pruning: the whole study is a function of its seed, whoever trains what and in which order.
# One step an epoch: what is tested is between the steps.
EPOCHS = 200  # of the digits' trainings
STUDY: dict[str, Any] = {
    "model": "simple",
    "training_pairs": 5,
    "epochs": EPOCHS,
    "sampler": "random",
    "pruner": "none",
}
SHORT = {"search": 4, "confirm": 2, "rounds": 1}
LONG = {"search": 8, "confirm": 4, "rounds": 3}
FUNCTION = """
from sklearn.datasets import load_breast_cancer

cancer = hpo.Experiment(
    "cancer",
    data=hpo.rows(lambda: load_breast_cancer(return_X_y=True), test=0.3),
    metrics=[hpo.accuracy, hpo.log_loss],
    models={"epochs": hpo.Model(epochs, space={"C": hpo.Float(1e-4, 1e4, log=True)}, reference={"C": 1.0})},
)
"""
SLOWNESS = "0.05"  # seconds an epoch of the function, while workers are struck

Results = list[list[tuple[Any, ...]]]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A study that is trained while its workers are struck."""

    study: str
    epochs: int
    create: Callable[[Hpo, dict[str, int]], None]
    words: tuple[str, ...] = ()  # for its workers
    weights: tuple[int, ...] = WEIGHTS
    failures: int = 0  # that a slot may have: of a child that was killed


def digits() -> Subject:
    """Of the images, in lanes."""

    def create(hpo: Hpo, exact: dict[str, int]) -> None:
        rounds = {"confirm_rounds": exact["confirm"] // 2, "rounds": exact["rounds"]}
        hpo.create(**STUDY, trials=exact["search"], **rounds)

    return Subject(study="ws", epochs=EPOCHS, create=create)


def function(folder: Path) -> Subject:
    """Of a user's function, whose file is written into the folder: its child processes are killed too."""
    file, epochs = folder / "cancer_of_chaos.py", 20
    file.write_text(DESCENT + FUNCTION)

    def create(hpo: Hpo, exact: dict[str, int]) -> None:
        rounds: dict[str, Any] = {"confirm_rounds": exact["confirm"] // 2, "rounds": exact["rounds"]}
        create_small(hpo, file, "epochs", trials=exact["search"], epochs=epochs, candidates=1, **rounds)

    words = ("--experiment", str(file))
    return Subject(study="epochs", epochs=epochs, create=create, words=words, weights=(4, 2, 2, 4), failures=1)


@dataclass
class Tally:
    """What a campaign did and what it took."""

    seed: int
    strokes: list[tuple[signal.Signals, list[int]]] = field(default_factory=list)  # and the slots then held
    slowest_exit: float = 0.0  # seconds from SIGTERM to the end
    attempts: int = 0
    expiries: int = 0  # leases that ended without a new epoch
    resumed: int = 0  # times that a training went on from a checkpoint

    def count(self, number: signal.Signals) -> int:
        """How often a signal was sent."""
        return sum(sent == number for sent, _ in self.strokes)


class Watch:
    """Looks at the queue again and again: what must never go back does not."""

    def __init__(self, engine: Engine, failures: int) -> None:
        """A slot may have so many failures."""
        self._engine, self._failures = engine, failures
        self._seen: dict[int, Row[Any]] = {}

    def read_slots(self) -> list[Row[Any]]:
        """All slots as they are now, held against how they were last time."""
        with begin_read(self._engine) as connection:
            rows = connection.execute(select(slots).order_by(slots.c.id)).all()
        now = {row.id: row for row in rows}
        assert now.keys() >= self._seen.keys(), "a slot is gone"
        for slot_id, before in self._seen.items():
            _check_step(before, now[slot_id], self._failures)
        self._seen = now
        return list(rows)


def _check_step(before: Row[Any], after: Row[Any], failures: int) -> None:
    where = f"slot {after.id}: {before} became {after}"
    assert after.epoch >= before.epoch, where
    assert after.attempt >= before.attempt, where
    assert before.failures <= after.failures <= failures, where
    assert after.state != "failed", where
    for once in ("trial_id", "trial_number", "params"):
        assert getattr(before, once) in (None, getattr(after, once)), where
    if before.state == "done":
        for name in ("state", "outcome", "outputs", "token", "worker", "attempt", "finished_at"):
            assert getattr(before, name) == getattr(after, name), where
        assert after.told >= before.told, where


class Crew:
    """Workers on one study, and the driver that strikes them."""

    def __init__(self, hpo: Hpo, seed: int, workers: int, subject: Subject) -> None:
        self.tally = Tally(seed)
        self._hpo, self._random, self._subject = hpo, random.Random(seed), subject
        self._engine = open_engine(hpo.url)
        self._watch = Watch(self._engine, subject.failures)
        self._frozen: dict[int, float] = {}  # until when, by process
        self._bereaved: set[int] = set()  # processes whose child was killed
        self._said: dict[int, Said] = {}
        self._workers = [self._start() for _ in range(workers)]

    def strike(self, times: int) -> None:
        """Strike so many times, or until the study is done."""
        while len(self.tally.strokes) < times and not self._done():
            ready = self._wait_for_ready_ones()
            victim = ready[int(self._random.random() * len(ready))]
            number = self._random.choices(STROKES, self._subject.weights)[0]
            if number == signal.SIGCHLD and victim.pid in self._bereaved:
                number = signal.SIGKILL  # of a machine on which everything fails a worker says so, and ends
            self._wait(self._random.uniform(0, LONGEST_PAUSE))
            if self._random.random() < IN_TRAINING:
                self._wait_until_it_trains(victim)
            self._wait_until_it_may(victim, number)
            if victim.poll() is None:
                self._strike(victim, number)
            else:
                assert self._done(), "a draining worker ends by itself when the study is done"

    def end(self) -> None:
        """Let them work undisturbed until the study is done; all end by themselves."""
        wait_until(lambda: self._read_slots() and not self._frozen and self._done())
        for worker in self._workers:
            worker.wait(PATIENCE)
            assert worker.returncode == 0, self._said[worker.pid].lines

    def story(self) -> str:
        """What happened so far: the strokes, the queue as it is, what the workers said last."""
        told = [f"strokes: {[(sent.name, held) for sent, held in self.tally.strokes]}"]
        told += [str(row) for row in self._watch.read_slots() if row.state != "done"]
        for worker in self._workers:
            told += [f"process {worker.pid}, exit code {worker.poll()}, frozen {worker.pid in self._frozen}:"]
            told += [line.rstrip() for line in self._said[worker.pid].lines[-8:]]
        return "\n".join(told)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _start(self) -> subprocess.Popen[str]:
        worker = self._hpo.start(*DRAIN, *self._subject.words, "--lease", str(LEASE), "--checkpoint", "0")
        self._said[worker.pid] = Said(worker)
        return worker

    def _strike(self, victim: subprocess.Popen[str], number: signal.Signals) -> None:
        self.tally.strokes.append((number, [row.id for row in self._held(victim)]))
        if number == signal.SIGCHLD:
            self._bereaved.add(victim.pid)
            for child in psutil.Process(victim.pid).children()[:1]:
                child.kill()
            return
        victim.send_signal(number)
        if number == signal.SIGSTOP:
            self._frozen[victim.pid] = time.monotonic() + LEASE * self._random.uniform(*FREEZE)
            return
        begun = time.monotonic()
        wait_until(lambda: self._read_slots(but=victim) and victim.poll() is not None)
        if number == signal.SIGTERM:
            self.tally.slowest_exit = max(self.tally.slowest_exit, time.monotonic() - begun)
        expected = {-9, 0} if number == signal.SIGKILL else {143, 0}
        if number == signal.SIGTERM and self._done():
            expected.add(-15)  # it was about to end by itself, and had taken its handlers away
        assert victim.returncode in expected, (number, self._said[victim.pid].lines)
        assert victim.returncode or self._done(), "it ended by itself before the study was done"
        self._workers[self._workers.index(victim)] = self._start()

    def _read_slots(self, but: subprocess.Popen[str] | None = None) -> list[Row[Any]]:
        """Look at the queue, at those whose frost is over, and at those (`but` one) that should not have ended."""
        rows = self._watch.read_slots()
        for worker in self._workers:
            if self._frozen.get(worker.pid, float("inf")) < time.monotonic():
                del self._frozen[worker.pid]
                worker.send_signal(signal.SIGCONT)
            assert worker is but or worker.poll() in (None, 0), self._said[worker.pid].lines
        return rows

    def _held(self, worker: subprocess.Popen[str]) -> list[Row[Any]]:
        """The slots that a worker holds."""
        return [row for row in self._read_slots() if row.state == "running" and f":{worker.pid}:" in row.worker]

    def _done(self) -> bool:
        return studies.get_study(self._engine, self._subject.study).phase == "done"

    def _wait(self, seconds: float) -> None:
        """Let them work until a random moment."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._read_slots()
            time.sleep(POLL)

    def _wait_for_ready_ones(self) -> list[subprocess.Popen[str]]:
        """Those that work: most of a new process's time is imports, and a kill there shows nothing."""

        def ready() -> list[subprocess.Popen[str]]:
            self._read_slots()
            return [w for w in self._workers if self._said[w.pid].count("worker ") and w.pid not in self._frozen]

        actual: list[subprocess.Popen[str]] = wait_until(ready)
        return actual

    def _wait_until_it_trains(self, victim: subprocess.Popen[str]) -> None:
        """Until it is somewhere inside a training, or never will be."""
        wait_until(
            lambda: (
                any(row.epoch > row.lease_epoch for row in self._held(victim))
                or victim.poll() is not None
                or self._done()
            )
        )

    def _wait_until_it_may(self, victim: subprocess.Popen[str], number: signal.Signals) -> None:
        """Until the stroke cannot use up a slot's attempts.

        Three leases that end without a new epoch fail a slot, and rightly so. So a worker is spared while it holds
        one that has had such an end and no new epoch since it was claimed: by the driver's hand a slot has one, and
        what is left is for a machine so slow that a lease ends by itself. A second failure fails a slot too, so the
        child is spared that has one which failed before.
        """

        def may() -> bool:
            return victim.poll() is not None or all(
                row.failures == 0 if number == signal.SIGCHLD else row.epoch > row.lease_epoch or row.expiries == 0
                for row in self._held(victim)
            )

        wait_until(may)


def campaign(
    hpo: Hpo, seed: int, subject: Subject, *, workers: int, strokes: int, exact: dict[str, int], undisturbed: Results
) -> Tally:
    """Strike the workers of a new study, let it be done, and check all that was promised."""
    subject.create(hpo, exact)
    os.environ["SLOWNESS"] = SLOWNESS
    crew = Crew(hpo, seed, workers, subject)
    tally = crew.tally
    try:
        crew.strike(strokes)
        crew.end()
        actual = check(hpo, subject, exact)
        assert results(actual) == undisturbed, "the study is another one than undisturbed"
    except BaseException as error:
        error.add_note(f"seed {seed}, {workers} workers; {crew.story()}")
        raise
    finally:
        crew.close()
        del os.environ["SLOWNESS"]
    everybody = [slot for of_kind in actual.values() for slot in of_kind]
    tally.attempts = sum(slot.attempt for slot in everybody)
    tally.expiries = sum(slot.expiries for slot in everybody)
    tally.resumed = sum(len(slot.outcome.resumed_at) for slot in everybody if slot.outcome)
    return tally


def check(hpo: Hpo, subject: Subject, exact: dict[str, int]) -> dict[str, list[Slot]]:
    """Exact counts, each slot one result and told, each epoch once, no trial left running, no result left on disk."""
    actual = check_exact(hpo.url, subject.study, **exact)
    engine = open_engine(hpo.url)
    try:
        storage = make_storage(engine)
        assert queue.untold(engine) == []
        for study in optuna.get_all_study_summaries(storage=storage):
            trials = optuna.load_study(study_name=study.study_name, storage=storage).get_trials(deepcopy=False)
            assert all(trial.state == optuna.trial.TrialState.COMPLETE for trial in trials)
        for slot in (slot for of_kind in actual.values() for slot in of_kind):
            _check_epochs(slot, subject.epochs)
    finally:
        engine.dispose()
    left = [path for path in hpo.folder.rglob("results/*/*.json*") if not path.name.startswith(".")]
    assert left == [], "results that nobody has stored"
    return actual


def _check_epochs(slot: Slot, epochs: int) -> None:
    """All of them, none twice; `check_exact` has compared them with Optuna's."""
    assert slot.outcome is not None
    assert slot.outcome.epochs == epochs
    assert len(slot.outcome.validation_accuracy) == (0 if slot.kind == "final" else epochs)
    resumed = slot.outcome.resumed_at
    assert all(1 <= epoch <= epochs for epoch in resumed)
    assert list(resumed) == sorted(resumed)
    assert len(resumed) < slot.attempt


def undisturbed(folder: Path, subject: Subject, exact: dict[str, int]) -> Results:
    """The same study when nothing happens, trained in one go in a database of its own."""
    folder.mkdir()
    hpo = Hpo(folder, f"sqlite:///{folder / 'hpo.db'}")
    subject.create(hpo, exact)
    finish(hpo.start(*DRAIN, *subject.words))
    return results(check(hpo, subject, exact))


# --- The long matrix ----------------------------------------------------------------------------------------

HEAD = (
    "database",
    "trains",
    "seed",
    "workers",
    "SIGKILL",
    "SIGTERM",
    "SIGSTOP past the lease",
    "SIGKILL of the child",
    "slots",
    "attempts",
    "leases ended without a new epoch",
    "resumed from a checkpoint",
    "slowest exit on SIGTERM, s",
    "verdict",
)


@contextlib.contextmanager
def database(folder: Path, server: Server | None) -> Iterator[Hpo]:
    """`hpo` on a new database, a SQLite file or one of the server's."""
    folder.mkdir()
    os.environ["HPO_ARTIFACTS"] = str(folder / "artifacts")
    url = f"sqlite:///{folder / 'hpo.db'}"
    if server is not None:
        admin = create_engine(server.url, isolation_level="AUTOCOMMIT")
        with admin.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {folder.name}"))
        admin.dispose()
        url = make_url(server.url).set(database=folder.name).render_as_string(hide_password=False)
    hpo = Hpo(folder, url)
    if server is not None:
        hpo("db", "upgrade")
    try:
        yield hpo
    finally:
        hpo.close()


def matrix(folder: Path, server: Server, first_seed: int, kills: int, workers: int) -> int:
    """Campaigns until so many kills; prints a line for each and the sum; returns how many went wrong."""
    subjects = {"digits": digits(), "a function": function(folder)}
    expected = {name: undisturbed(folder / f"whole_{of.study}", of, LONG) for name, of in subjects.items()}
    slots_ = 0
    tallies: list[Tally] = []
    wrong = 0
    print("| " + " | ".join(HEAD) + " |\n" + "|---" * len(HEAD) + "|", flush=True)
    for seed in count(first_seed):
        left = kills - sum(tally.count(signal.SIGKILL) for tally in tallies)
        if left <= 0 or wrong > 2:
            break
        on_postgresql = (seed - first_seed) % 2 == 1
        trains = list(subjects)[(seed - first_seed) // 2 % 2]
        kind, verdict = ("PostgreSQL" if on_postgresql else "SQLite"), "exact"
        with database(folder / f"chaos_{seed}", server if on_postgresql else None) as hpo:
            try:
                subject, whole = subjects[trains], expected[trains]
                tally = campaign(hpo, seed, subject, workers=workers, strokes=24, exact=LONG, undisturbed=whole)
            except Exception as error:
                tally, wrong = Tally(seed), wrong + 1
                traceback.print_exc()
                verdict = f"WRONG: {type(error).__name__}"
        tallies.append(tally)
        there = sum(map(len, expected[trains]))
        slots_ += there
        _print_row([kind, trains, str(seed), str(workers)], [tally], there, verdict)
    total = f"{len(tallies) - wrong} of {len(tallies)} exact"
    _print_row(["all", "", "", ""], tallies, slots_, total)
    return wrong


def _print_row(campaign: list[str], tallies: list[Tally], slots_: int, verdict: str) -> None:
    cells = [*campaign, *(sum(tally.count(sent) for tally in tallies) for sent in STROKES), slots_]
    cells += [sum(getattr(tally, name) for tally in tallies) for name in ("attempts", "expiries", "resumed")]
    cells += [f"{max(tally.slowest_exit for tally in tallies):.1f}", verdict]
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def main() -> None:
    """Run the matrix; exit code 1 where anything went wrong."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--kills", type=int, default=200, help="workers killed by SIGKILL in all")
    asked.add_argument("--seed", type=int, default=1, help="of the first campaign")
    asked.add_argument("--workers", type=int, default=3, help="at once")
    options = asked.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="hpo-chaos-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        server = Server(folder)
        try:
            wrong = matrix(folder, server, options.seed, options.kills, options.workers)
        finally:
            server.close()
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
