"""The child processes of a worker: those that wait for a training, started in time, replaced in time; their logs."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpo.experiment.description import Description
from hpo.experiment.messages import Message
from hpo.worker.child import ChildProcess
from hpo.worker.threads import in_thread

GROWTH_BYTES, GROWTH_FACTOR = 256 << 20, 2.0  # of memory since a child's first training, until it is replaced
LAST_WORDS = 2000  # characters of a log that go with the error of a child that died
MOST_SUCCESSORS = 3  # that are started for a child which ends with its training: where imports take longer than that
_NOISE = "Extension modules: "  # how a line of hundreds of names begins that Python prints at a crash

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class WarmChild:
    """A child process, and what is known of it."""

    process: ChildProcess
    description: Description
    log: Path
    number: int  # of its log
    about: Mapping[str, Any] | None = None  # what it says when it is ready
    forks: bool = False  # what is tested is trained in a copy of it, and it lives on
    first_memory: int | None = None  # bytes, after its first training
    is_reusable: bool = True
    lanes: int = 1  # trainings that it has room for
    started: float = field(default_factory=time.monotonic)
    start_seconds: float = 0.0  # until it was ready

    def is_ready(self, about: Mapping[str, Any], device: str) -> None:
        """It says so, and what it is."""
        self.about = about
        self.start_seconds = time.monotonic() - self.started
        self.forks = device == "cpu" and bool(about["forks"])

    def watch_memory(self, memory: int) -> None:
        """So many bytes it has after a training; grown much since the first, it is replaced."""
        self.first_memory = self.first_memory or memory
        if memory > max(self.first_memory * GROWTH_FACTOR, self.first_memory + GROWTH_BYTES):
            logger.info("the memory of a process has grown to %d MB; another takes its place", memory >> 20)
            self.is_reusable = False

    def log_size(self) -> int:
        """Bytes that were printed so far."""
        return self.log.stat().st_size

    def last_words(self, start: int) -> str:
        """The end of what was printed after so many bytes."""
        with self.log.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(start, end - 10 * LAST_WORDS))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(line for line in lines if not line.startswith(_NOISE)).strip()[-LAST_WORDS:]


class ChildPool:
    """Children of one experiment at a time."""

    def __init__(self, *, device: str, threads: int, logs: Path, worker: str, notify: Callable[[], None]) -> None:
        """`logs` is the folder for what they print, `worker` a short name; `notify` is called where one answers."""
        self._device, self._threads, self._notify = device, threads, notify
        self._logs, self._worker = logs, worker
        self._idle: list[WarmChild] = []
        self._numbers: set[int] = set()  # of logs in use

    @property
    def idle(self) -> int:
        """How many wait for a training."""
        return len(self._idle)

    def keep_ready(self, description: Description, count: int) -> None:
        """Have so many of an experiment wait at least; those of others end."""
        for child in [child for child in self._idle if child.description is not description]:
            self._idle.remove(child)
            self.end(child)
        while len(self._idle) < count:
            self._idle.append(self._started(description))

    def take(self, description: Description) -> WarmChild:
        """One that waits, if possible a ready one, or a new one; none that is known to have ended."""
        self.hear()
        self.keep_ready(description, 1)
        child = next((child for child in self._idle if child.about is not None), self._idle[0])
        self._idle.remove(child)
        child.lanes = 1
        return child

    def put(self, child: WarmChild, *, most: int) -> None:
        """A child has done with a training: it waits for the next, as one of so many, unless it is to be replaced.

        It has its data loaded already: those that were started last end first.
        """
        if not child.is_reusable:
            self.end(child)
            return
        self._idle.insert(0, child)
        while len(self._idle) > most:
            self.end(self._idle.pop())

    def end(self, child: WarmChild) -> None:
        """End it, with all that it has started."""
        self._numbers.discard(child.number)
        in_thread(child.process.kill)

    def hear(self) -> None:
        """Learn which of those that wait are ready; those that ended are forgotten.

        Whoever needs one of them will start another, and hear why that one ends.
        """
        for child in list(self._idle):
            answer = child.process.poll()
            if isinstance(answer, Message) and answer.kind == "ready":
                child.is_ready(answer.values, self._device)
            elif answer is not None:
                self._idle.remove(child)
                self.end(child)

    def empty(self) -> list[WarmChild]:
        """Those that waited: they are nobody's now."""
        idle, self._idle = self._idle, []
        return idle

    def remove_empty_logs(self) -> None:
        """Delete the logs in which nothing is."""
        for log in self._logs.glob(f"*-{self._worker}-*.log"):
            if not log.stat().st_size:
                log.unlink()

    def _started(self, description: Description) -> WarmChild:
        number = next(number for number in range(len(self._numbers) + 1) if number not in self._numbers)
        self._numbers.add(number)
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{description.name}-{self._worker}-{number}.log"
        with log.open("ab") as file:
            process = ChildProcess(
                description.locator,
                description.folder,
                device=self._device,
                threads=self._threads,
                log=file,
                notify=self._notify,
            )
        logger.debug("a process for %s started; what its code prints is in %s", description.name, log)
        return WarmChild(process=process, description=description, log=log, number=number)


def successors(start_seconds: float, training_seconds: float) -> int:
    """How many processes must start while one trains, so that one is ready when each training ends."""
    return min(MOST_SUCCESSORS, max(1, math.ceil(start_seconds / max(training_seconds, 1e-3))))
