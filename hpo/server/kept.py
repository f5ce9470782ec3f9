"""What many browsers ask for is read once, and kept for a moment; of a study's results only what has come since."""

import math
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from sqlalchemy import Engine

from hpo.results.progress import overview
from hpo.results.progress_records import Overview
from hpo.results.queries import KnownRuns, fingerprint, study_result
from hpo.results.records import StudyResult

OVERVIEW_SECONDS = 1.0  # after which the overview is read again
RESULTS_SECONDS = 2.0  # after which a study's results are
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
    """The results of the studies that were asked for last, not older than a moment; the server's threads share them."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._lock = engine, threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def of(self, name: str) -> StudyResult:
        """The study's results; StudyNotFound where there is none."""
        with self._lock:
            kept = self._kept.pop(name, None) or _Kept()
            if kept.result is None or time.monotonic() - kept.read_at > RESULTS_SECONDS:
                now = fingerprint(self._engine, name)
                if kept.result is None or kept.read_of != now:
                    kept.result, kept.read_of = study_result(self._engine, name, kept.runs), now
                kept.read_at = time.monotonic()
            self._kept[name] = kept
            while len(self._kept) > MOST_RESULTS:
                self._kept.popitem(last=False)
            return kept.result

    def forget(self) -> None:
        """Somebody has changed something, and is to see it."""
        with self._lock:
            for kept in self._kept.values():
                kept.read_at = -math.inf


@dataclass(kw_only=True)
class _Kept:
    result: StudyResult | None = None
    read_of: str = ""  # what the study was like
    read_at: float = -math.inf
    runs: KnownRuns = field(default_factory=dict)
