"""Patience with a database that does not answer: it is left alone for longer and longer, and nothing is lost."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from hpo.storage.engine import is_transient, why_transient

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two tries

logger = logging.getLogger(__name__)


class Backoff:
    """Tries what needs the database; the pause between two tries doubles until it answers again."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pause, self._due = FIRST_PAUSE, clock()

    @property
    def remaining(self) -> float:
        """Seconds until the next try is due."""
        return max(0.0, self._due - self._clock())

    def attempt(self, act: Callable[[], T], consequence: str = "") -> T | None:
        """Do it once; None where the database does not answer, or did not and the next try is not due yet.

        `consequence` is what the log says beside. Any other error is raised.
        """
        if self.remaining:
            return None
        try:
            result = act()
        except Exception as error:
            self._failed(error, consequence)
            return None
        self._pause = FIRST_PAUSE
        return result

    def insist(self, act: Callable[[], T], wait: Callable[[float], None]) -> T:
        """Do it until the database answers; `wait` sleeps so many seconds, or less where there is no time."""
        while True:
            try:
                result = act()
            except Exception as error:
                wait(self._failed(error, ""))
            else:
                self._pause = FIRST_PAUSE
                return result

    def _failed(self, error: Exception, consequence: str) -> float:
        """Log it and double the pause; returns the seconds to wait. Re-raises errors that waiting cannot fix."""
        if not is_transient(error):
            raise error
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        self._due = self._clock() + pause
        about = f"{consequence}; " if consequence else ""
        logger.warning("the database does not answer; %snext try in %g s: %s", about, pause, why_transient(error))
        return pause
