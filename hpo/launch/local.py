"""Local workers: processes on this machine, started and stopped together."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hpo import machine
from hpo.errors import HpoError

WORKER_BYTES = 450 << 20  # memory that a worker takes on a CPU
GRACE_SECONDS = 30.0  # for a worker to write checkpoints and release its slots; it should take 10 at most


class RunningAlready(HpoError):
    """Another `hpo run` has its workers here."""


def workers_here() -> int:
    """How many workers suit this machine: one per GPU, or one per core (faster than threads) where memory suffices."""
    return _cuda_devices() or _workers_for(machine.cores(), machine.free_memory())


def _workers_for(cores: float, memory: int | None) -> int:
    """One for each whole core and each share of the memory (bytes), at least one."""
    fitting = cores if memory is None else min(cores, memory / WORKER_BYTES)
    return max(1, int(fitting))


def _cuda_devices() -> int:
    """How many CUDA devices torch can use; it is slow to load, so only where the system has one (WSL: dxg)."""
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not Path("/dev/dxg").exists():
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


class LocalWorkers:
    """`hpo worker --drain` processes, each with a log file for its output."""

    def __init__(
        self,
        count: int,
        *,
        url: str | None,
        data_dir: Path | None,
        studies: Sequence[str],
        experiments: Sequence[str] = (),
        logs: Path,
        options: Sequence[str] = (),
    ) -> None:
        """Prepare the workers; `start` starts them. `options` are global ones, of how to log.

        `experiments` are the places of those whose studies they serve too.

        `url` and the data folder are passed in the environment, to keep a password out of the process list; without
        a `url` the environment has HPO_DATABASE_URL_FILE.
        """
        self._environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if url is not None:
            self._environment["HPO_DATABASE_URL"] = url
        if data_dir is not None:
            self._environment["HPO_DATA_DIR"] = str(data_dir)
        self._arguments = [
            *options,
            "worker",
            "--drain",
            "--stop-with-stdin",
            *(word for name in studies for word in ("--study", name)),
            *(word for locator in experiments for word in ("--experiment", locator)),
        ]
        self._folder = logs
        self.logs = [logs / f"worker-{i}.log" for i in range(count)]
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lock: int | None = None

    def start(self) -> None:
        """Start all workers; OSError where the logs cannot be written, RunningAlready where others write them."""
        if not self.logs:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(self._folder / ".lock")
        for i, log in enumerate(self.logs):
            with log.open("ab") as out:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "hpo", *self._arguments, "--device", _device(i)],
                        env=self._environment,
                        stdin=subprocess.PIPE,  # never written to: it ends with this process, and the worker with it
                        stdout=out,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
                    )
                )

    def running(self) -> int:
        """How many workers are still running."""
        return sum(process.poll() is None for process in self._processes)

    def failures(self) -> list[tuple[Path, int]]:
        """Log file and exit code of the workers that failed."""
        ended = [(log, process.poll()) for log, process in zip(self.logs, self._processes, strict=False)]
        return [(log, code) for log, code in ended if code]

    def stop(self, hurry: Callable[[], bool] = lambda: False) -> None:
        """Stop all workers, which release their slots; kill those still running after the grace time, or on `hurry`."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + GRACE_SECONDS
        while self.running() and time.monotonic() < deadline and not hurry():
            time.sleep(0.05)
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(path: Path) -> int:
    """Lock a file, until its descriptor is closed, and note this process in it; RunningAlready where another has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        process = os.pread(lock, 20, 0).decode(errors="replace").strip()
        os.close(lock)
        raise RunningAlready(
            f"`hpo run` is at work here already: process {process}, with its logs in {path.parent}; wait for it, end "
            f"it with `kill {process}`, or give this run another --out"
        ) from None
    except OSError:
        pass  # a file system without locks: workers side by side do no harm but to their logs
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    return lock


def _device(i: int) -> str:
    count = _cuda_devices()
    return f"cuda:{i % count}" if count else "cpu"
