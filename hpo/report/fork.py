"""A computation in a fork of this process, which goes on with other work meanwhile."""

import multiprocessing
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import TypeVar

from hpo.machine import cores

T = TypeVar("T")


def begun(work: Callable[[], T]) -> Callable[[], T]:
    """Begin the work, and return what waits for its result.

    Where a fork is not safe (other threads may hold locks), there is no core for it, or it fails, the work is done here
    when its result is asked for, and raises what it raises.
    """
    if sys.platform != "linux" or threading.active_count() > 1 or cores() < 2:
        return work
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    child = context.Process(target=_send, args=(work, sending), daemon=True)
    child.start()
    sending.close()

    def result() -> T:
        answers: list[T] = []
        with receiving, suppress(EOFError):  # none comes from one that has failed or was killed
            answers.append(receiving.recv())
        child.join()
        return answers[0] if answers else work()

    return result


def _send(work: Callable[[], T], sending: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says what a Ctrl-C ends, and ends this too
    with suppress(Exception):
        sending.send(work())
    sending.close()
