"""The report as a page of the site: made when it is asked for, kept until something has changed."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from hpo.experiment.description import Description
from hpo.results.queries import fingerprint

if TYPE_CHECKING:
    from hpo.report.shipped import ShippedReport

MOST_KEPT = 4  # pages of different choices of studies: each is some 5 MB


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
        self._lock = threading.Lock()  # making it takes seconds: who comes meanwhile waits for the same one
        self._kept: OrderedDict[frozenset[str], tuple[str, bytes]] = OrderedDict()  # what it was made of, and the page

    def html(self, names: Sequence[str] = ()) -> bytes:
        """The page as of now, UTF-8, of these studies or of all; HpoError where it cannot be made."""
        from hpo.report.contents import gather
        from hpo.report.write import page

        chosen = frozenset(names)
        with self._lock:
            now = fingerprint(self._engine)
            made_of, html = self._kept.pop(chosen, ("", b""))
            if now != made_of:
                contents = gather(self._engine, self.shipped_report(), self._experiments, names=chosen)
                html = page(contents).encode()
            self._kept[chosen] = now, html
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
            return html
