"""Work beside the training, on threads that the end of the process does not wait for.

Not a ThreadPoolExecutor: the interpreter joins its threads at exit, and one of them may wait for a database that
does not answer.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def in_thread(act: Callable[[], T]) -> Future[T]:
    """Do it on a thread of its own."""
    return in_threads([act], 1)[0]


def in_threads(acts: Sequence[Callable[[], T]], threads: int) -> list[Future[T]]:
    """Do them in order on so many threads."""
    results: list[Future[T]] = [Future() for _ in acts]
    waiting: SimpleQueue[tuple[Callable[[], T], Future[T]]] = SimpleQueue()
    for pair in zip(acts, results, strict=True):
        waiting.put(pair)

    def run() -> None:
        while True:
            try:
                act, result = waiting.get_nowait()
            except Empty:
                return
            try:
                result.set_result(act())
            except BaseException as error:  # raised where the result is asked for
                result.set_exception(error)

    for _ in range(min(threads, len(acts))):
        threading.Thread(target=run, name="beside", daemon=True).start()
    return results


class Background:
    """What nobody waits for, done one after the other."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._pending = 0
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="background", daemon=True).start()

    def submit(self, act: Callable[[], None]) -> None:
        """Have it done; it must not raise."""
        with self._changed:
            self._pending += 1
        self._waiting.put(act)

    def settle(self, seconds: float) -> bool:
        """Wait until all of it is done; False if the time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._pending == 0, seconds)

    def _run(self) -> None:
        while True:
            act = self._waiting.get()
            try:
                act()
            finally:
                with self._changed:
                    self._pending -= 1
                    self._changed.notify_all()
