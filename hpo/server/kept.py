"""What many browsers ask for is read once: the overview for a moment, a study's results until others have come."""

import threading
import time
from collections import OrderedDict

from sqlalchemy import Engine

from hpo.results.progress import overview
from hpo.results.progress_records import Overview
from hpo.results.queries import fingerprint, study_result
from hpo.results.records import StudyResult

OVERVIEW_SECONDS = 1.0  # after which the overview is read again
MOST_RESULTS = 8  # studies whose results are kept: of a thousand trials some 10 MB


class KeptOverview:
    """The overview, not older than a moment; the server's threads share it."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._lock = engine, threading.Lock()
        self._read_at = 0.0
        self._overview: Overview | None = None

    def current(self) -> Overview:
        """As it is, or was a moment ago."""
        with self._lock:  # who comes meanwhile waits for the same one
            if self._overview is None or time.monotonic() - self._read_at > OVERVIEW_SECONDS:
                self._overview = overview(self._engine)
                self._read_at = time.monotonic()
            return self._overview

    def forget(self) -> None:
        """Somebody has changed something, and is to see it."""
        with self._lock:
            self._overview = None


class KeptResults:
    """The results of the studies that were asked for last; the server's threads share them."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._lock = engine, threading.Lock()
        self._kept: OrderedDict[str, tuple[str, StudyResult]] = OrderedDict()  # with what they were read of

    def of(self, name: str) -> StudyResult:
        """The study's results as of now; StudyNotFound where there is none."""
        with self._lock:
            now = fingerprint(self._engine)
            read_of, result = self._kept.pop(name, ("", None))
            if result is None or read_of != now:
                result = study_result(self._engine, name)
            self._kept[name] = now, result
            while len(self._kept) > MOST_RESULTS:
                self._kept.popitem(last=False)
            return result
