"""A child process that runs a user's trainings, as the worker sees it: it never imports their code itself."""

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hpo.experiment.environment import without_secrets
from hpo.experiment.messages import Garbled, Message, receive, send

END_SECONDS = 5.0  # that a child gets to end by itself when its pipe is closed
READ_SECONDS = 2.0  # for what a child that has ended has left in its pipe
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """The child is gone."""

    why: str  # for people: its exit code or signal, or what was wrong with its last message


class ChildProcess:
    """One child. It is told something, and what it answers is polled for."""

    def __init__(
        self,
        locator: str,
        folder: Path,
        *,
        device: str,
        threads: int,
        log: BinaryIO,
        notify: Callable[[], None] = lambda: None,
    ) -> None:
        """Start it; `folder` has the experiment's pools, `log` gets what the user's code prints.

        `notify` is called, on another thread, where there is something to poll.
        """
        to_child, self._to_child = os.pipe()
        from_child, self._from_child = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hpo.experiment.child", locator, str(folder), str(to_child), str(self._from_child)],
            pass_fds=(to_child, self._from_child),
            env=_environment(device, threads),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its group holds all that the user's code starts
        )
        os.close(to_child)
        os.close(self._from_child)
        self._outgoing: BinaryIO = os.fdopen(self._to_child, "wb")
        self._incoming: BinaryIO = os.fdopen(from_child, "rb")
        self._events: queue.SimpleQueue[Message | Ended] = queue.SimpleQueue()
        self._notify, self._problem = notify, ""
        self._begun: set[str] = set()  # ids of trainings
        reader = threading.Thread(target=self._read, name="child", daemon=True)
        reader.start()
        threading.Thread(target=self._wait, args=[reader], name="child's end", daemon=True).start()

    def tell(self, kind: str, values: Mapping[str, Any]) -> None:
        """Send a message; a child that is gone is noticed by `poll`."""
        with suppress(OSError):
            send(self._outgoing, Message(kind, values))

    def poll(self, seconds: float = 0.0) -> Message | Ended | None:
        """What it has answered, or that it is gone; None where nothing comes within so many seconds."""
        with suppress(queue.Empty):
            return self._events.get(timeout=seconds) if seconds else self._events.get_nowait()
        return None

    def has_begun(self, training: str) -> bool:
        """Whether it has begun a training of this id: what it died of before is nothing of the training's."""
        return training in self._begun

    def close(self) -> None:
        """Let it end, and kill it where it does not; what it has started ends with it."""
        with suppress(OSError):
            self._outgoing.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(END_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the child and all that the user's code has started, at once."""
        self._kill_group()
        self._process.wait()
        with suppress(OSError):
            self._outgoing.close()

    def _read(self) -> None:
        try:
            while (message := receive(self._incoming)) is not None:
                if message.kind == "begun":
                    self._begun.add(message.values["id"])
                else:
                    self._put(message)
        except (Garbled, OSError) as error:
            self._problem = f" ({error})"
            self._kill_group()
        self._incoming.close()

    def _wait(self, reader: threading.Thread) -> None:
        """Tell that the child has ended, after all that it has said; not even what it has left behind delays that."""
        code = self._process.wait()
        reader.join(READ_SECONDS)
        self._kill_group()  # what lives on of it, and may hold its end of the pipe
        ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._put(Ended(why=f"the process that trained {ended}{self._problem}"))

    def _put(self, event: Message | Ended) -> None:
        self._events.put(event)
        self._notify()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)


def _environment(device: str, threads: int) -> dict[str, str]:
    """That of this process, with threads and one device set before anything is imported."""
    environment = {**without_secrets(), **dict.fromkeys(_THREADS, str(threads)), "PYTHONUNBUFFERED": "1"}
    kind, _, number = device.partition(":")
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else []
    place = int(number or 0)
    if kind == "cuda":
        environment["CUDA_VISIBLE_DEVICES"] = devices[place] if place < len(devices) else str(place)
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    return environment
