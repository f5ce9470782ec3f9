"""The report's headlines for the overview: computed beside it, since a comparison takes seconds, and kept.

They depend on final rounds alone, so they are made again only where some of these have ended since.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Engine, func, select

from hpo.storage.engine import begin_read
from hpo.storage.schema import slots, studies

if TYPE_CHECKING:
    from hpo.report.shipped import ShippedReport

logger = logging.getLogger(__name__)

Key = tuple[tuple[object, ...], ...]


class Headlines:
    """The headlines of the studies that are done; shared by the server's threads."""

    def __init__(self, engine: Engine, shipped_report: "Callable[[], ShippedReport | None]") -> None:
        """`shipped_report` makes the shipped experiment's part, as for the report."""
        self._engine, self._shipped_report = engine, shipped_report
        self._lock = threading.Lock()
        self._made_of: Key = ()
        self._headlines: tuple[str, ...] = ()
        self._thread: threading.Thread | None = None

    def current(self) -> tuple[str, ...]:
        """Those that are known; where they are out of date, newer ones are begun and shown next time."""
        key = self._key()
        with self._lock:
            busy = self._thread is not None and self._thread.is_alive()
            if key != self._made_of and not busy:
                self._thread = threading.Thread(target=self._make, args=[key], name="headlines", daemon=True)
                self._thread.start()
            return self._headlines

    def _key(self) -> Key:
        """Another one as soon as a headline may be another."""
        query = (
            select(studies.c.id, func.count(slots.c.id), func.max(slots.c.finished_at))
            .join(slots, (slots.c.study_id == studies.c.id) & (slots.c.kind == "final"))
            .where(studies.c.phase == "done")
            .group_by(studies.c.id)
            .order_by(studies.c.id)
        )
        with begin_read(self._engine) as connection:
            return tuple(tuple(row) for row in connection.execute(query))

    def _make(self, key: Key) -> None:
        try:
            headlines = _headlines(self._engine, self._shipped_report()) if key else ()
        except Exception as error:  # the overview goes on without
            logger.warning("the headlines could not be made: %s: %s", type(error).__name__, error)
            headlines = ()
        with self._lock:
            self._headlines, self._made_of = tuple(headlines), key


def _headlines(engine: Engine, shipped_report: "ShippedReport | None") -> Sequence[str]:
    from hpo.analysis.comparison import compare
    from hpo.report.scores import scores_of
    from hpo.report.sentences import conclusions_of
    from hpo.report.views import read_columns
    from hpo.results.queries import all_results
    from hpo.storage.ledger import read_ledger

    results = all_results(engine)
    columns = {result.id: read_columns(engine, result, shipped_report) for result in results}
    return conclusions_of(results, compare(results, scores_of(results, columns), read_ledger(engine))).headlines
