"""The report as a page of the site: made when it is asked for, kept until something has changed."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from hpo.errors import HpoError
from hpo.experiment.description import Description
from hpo.results.queries import fingerprint

if TYPE_CHECKING:
    from hpo.report.shipped import ShippedReport

MOST_WAITING = 2  # requests that wait while a report is made: each keeps a thread of the server
BUSY_SECONDS = 10  # after which who was turned away may ask again
MOST_KEPT = 4  # pages of different choices of studies: each is some 5 MB


class ReportBusy(HpoError):
    """Reports are being made, and enough requests wait for them; the message says what to do."""

    def __init__(self) -> None:
        super().__init__("the report is being made, and others wait for it; this page asks again by itself")


class ReportPage:
    """The report's HTML by the studies chosen; the server's threads share it."""

    def __init__(
        self,
        engine: Engine,
        shipped_report: "Callable[[], ShippedReport | None]" = lambda: None,
        experiments: Sequence[Description] = (),
    ) -> None:
        """`shipped_report` makes the shipped experiment's part; code of `experiments` runs in processes of its own."""
        self._engine, self.shipped_report, self._experiments = engine, shipped_report, experiments
        self._lock = threading.Lock()  # of what is kept
        self._making = threading.Lock()  # it takes seconds: who comes meanwhile waits for the same one
        self._places = threading.BoundedSemaphore(1 + MOST_WAITING)  # for who makes one, and who waits
        self._kept: OrderedDict[frozenset[str], tuple[str, bytes]] = OrderedDict()  # what it was made of, and the page

    def html(self, names: Sequence[str] = ()) -> bytes:
        """The page as of now, UTF-8, of these studies or of all.

        Raises HpoError where it cannot be made, ReportBusy where too many wait already.
        """
        chosen = frozenset(names)
        kept = self._current(chosen, fingerprint(self._engine))
        if kept is not None:
            return kept
        if not self._places.acquire(blocking=False):
            raise ReportBusy
        try:
            with self._making:
                now = fingerprint(self._engine)
                return self._current(chosen, now) or self._made(chosen, now)
        finally:
            self._places.release()

    def _current(self, chosen: frozenset[str], now: str) -> bytes | None:
        """The page that is kept, where nothing has changed since it was made."""
        with self._lock:
            made_of, html = self._kept.get(chosen, ("", b""))
            if made_of != now:
                return None
            self._kept.move_to_end(chosen)
            return html

    def _made(self, chosen: frozenset[str], now: str) -> bytes:
        from hpo.report.contents import gather
        from hpo.report.write import page

        contents = gather(self._engine, self.shipped_report(), self._experiments, names=chosen)
        html = page(contents).encode()
        with self._lock:
            self._kept[chosen] = now, html
            self._kept.move_to_end(chosen)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return html
