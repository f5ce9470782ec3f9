"""The command line in this process (fast) and as real processes (signals, several at once), on tiny studies."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from click.testing import CliRunner, Result

from hpo.cli.root import root

T = TypeVar("T")

PATIENCE = 600  # seconds until a condition has to hold, on a machine with other work to do
POLL = 0.02  # seconds
DRAIN = ("worker", "--drain", "--device", "cpu", "--population", "1")

TINY = """
name = "{name}"
model = "{model}"
seed = {seed}
[space]
learning_rate = {{ low = 1e-3, high = 1e-2, log = true }}
weight_decay = {{ low = 1e-6, high = 1e-4, log = true }}
dropout = {{ low = 0.0, high = 0.3 }}
[sampler]
name = "{sampler}"
startup_trials = {startup}
[pruner]
name = "{pruner}"
[budget]
trials = {trials}
epochs = {epochs}
in_flight = 2
[protocol]
batch_size = 90
training_pairs = {training_pairs}
validation_pairs = 100
test_pairs = 50
confirm_configurations = 1
confirm_rounds = {confirm_rounds}
final_rounds = {rounds}
[paper]
learning_rate = 3e-3
weight_decay = 2.5e-5
dropout = 0.15
"""
DEFAULTS: Mapping[str, Any] = {
    "name": "ws",
    "model": "ws",
    "seed": 1,
    "sampler": "tpe",
    "startup": 3,
    "pruner": "median",
    "trials": 4,
    "epochs": 1,
    "training_pairs": 20,
    "confirm_rounds": 2,
    "rounds": 2,
}


def on_this_machine(seconds: float) -> float:
    """The seconds that a thing may take here which takes `seconds` at most where every process has a core."""
    return seconds * max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


def wait_until(holds: Callable[[], T | None]) -> T:
    """Wait for a condition and return what it gave; fail when patience ends."""
    deadline = time.monotonic() + PATIENCE
    while not (actual := holds()):
        assert time.monotonic() < deadline, "the condition never held"
        time.sleep(POLL)
    return actual


class Hpo:
    """`hpo` on one database: called it runs in this process, `start` makes a process of its own."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self._processes: list[subprocess.Popen[str]] = []

    def __call__(self, *words: str | Path, code: int = 0) -> Result:
        """Run a command to its end, which must be this exit code; returns what it printed."""
        environment = {"HPO_DATABASE_URL": self.url, "HPO_DATA_DIR": None}
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        threads = torch.get_num_threads()
        try:
            result = CliRunner(env=environment).invoke(root, [str(word) for word in words], prog_name="hpo")
        finally:
            torch.set_num_threads(threads)
            for number, handler in before.items():
                signal.signal(number, handler)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    def json(self, *words: str | Path) -> Any:
        """What a command prints with `--format json`."""
        return json.loads(self(*words, "--format", "json").stdout)

    def refused(self, *words: str | Path, code: int = 1) -> str:
        """The one line on stderr of a command that ends with this code."""
        result = self(*words, code=code)
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("hpo: ")
        return line

    def start(self, *words: str | Path, python: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        """Start a command as a process."""
        return self.start_python(*python, "-m", "hpo", *words)

    def start_python(self, *words: str | Path) -> subprocess.Popen[str]:
        """Start Python as a process, on the same database."""
        process = subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    def environment(self) -> dict[str, str]:
        """Of the processes that it starts."""
        return {**os.environ, "HPO_DATABASE_URL": self.url, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

    def study(self, **options: Any) -> Path:
        """Write the file of a tiny study; options override."""
        values = {**DEFAULTS, **options}
        path = self.folder / f"{values['name']}.toml"
        path.write_text(TINY.format(**values))
        return path

    def create(self, **options: Any) -> None:
        """Create a tiny study."""
        self("study", "create", "--file", self.study(**options))

    def show(self, name: str = "ws") -> Any:
        """`hpo study show NAME --format json`."""
        return self.json("study", "show", name)

    def running(self) -> list[tuple[int, int, str]]:
        """Slot, its epoch and its worker, of all that run; past the CLI, for this is asked often (SQLite alone)."""
        path = self.url.removeprefix("sqlite:///")
        try:
            connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=PATIENCE)
            with contextlib.closing(connection):
                query = "SELECT id, epoch, worker FROM hpo_slots WHERE state = 'running' ORDER BY id"
                return connection.execute(query).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error) or "unable to open" in str(error):
                return []  # nobody had made it yet
            raise

    def freeze_in_training(self) -> tuple[int, int]:
        """Stop the only worker (SIGSTOP) while its slot has reported an epoch; returns the slot and the process.

        Never in the middle of a transaction that writes: it would hold SQLite's lock until it is woken up.
        """

        def frozen() -> tuple[int, int] | None:
            training = [worker for _, epoch, worker in self.running() if epoch > 0]
            if not training:
                return None
            pid = int(training[0].split(":")[-2])
            os.kill(pid, signal.SIGSTOP)
            wait_until(lambda: is_stopped(pid))
            held = [slot for slot, epoch, _ in self.running() if epoch > 0]
            if held and self.is_writable():
                return held[0], pid
            os.kill(pid, signal.SIGCONT)  # it ended its slot just before, or is writing
            return None

        return wait_until(frozen)

    def is_writable(self) -> bool:
        """Whether nobody holds the SQLite file's write lock."""
        path = self.url.removeprefix("sqlite:///")
        with contextlib.closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if "locked" in str(error):
                    return False
                raise
            return True

    def close(self) -> None:
        """End the processes that a test has left."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
            process.communicate()


class Said:
    """What a process says on stderr, read as it comes, for `finish` to find the rest."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.lines: list[str] = []
        self._stream = process.stderr
        process.stderr = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._stream is not None
        with self._stream:
            self.lines.extend(iter(self._stream.readline, ""))

    def count(self, words: str) -> int:
        """How many lines have these words."""
        return sum(words in line for line in self.lines)

    def in_order(self, *words: str) -> bool:
        """Whether there are lines with these words, one after the other."""
        lines = iter(list(self.lines))
        return all(any(one in line for line in lines) for one in words)


def is_stopped(pid: int) -> bool:
    """Whether every thread of a process has been stopped: the signal takes a moment to reach them all (Linux)."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    """Wait for a process, which must end with this exit code; returns stdout and stderr."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    return out, err


def train(hpo: Hpo) -> None:
    """Let a worker in this process do all that is to be done."""
    hpo(*DRAIN)
