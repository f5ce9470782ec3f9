"""The report of all studies as a page of the server: made when it is asked for, kept until something has changed."""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from hpo.errors import HpoError
from hpo.experiment.description import Description
from hpo.results.queries import fingerprint

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from hpo.report.shipped import ShippedReport

PATH = "/report"


class ReportPage:
    """The report's HTML; the server's threads share it."""

    def __init__(
        self,
        engine: Engine,
        shipped_report: "Callable[[], ShippedReport | None]" = lambda: None,
        experiments: Sequence[Description] = (),
    ) -> None:
        """`shipped_report` makes the shipped experiment's part; code of `experiments` runs in processes of its own."""
        self._engine, self._shipped_report, self._experiments = engine, shipped_report, experiments
        self._lock = threading.Lock()  # making it takes seconds: who comes meanwhile waits for the same one
        self._made_of, self._html = "", b""

    def html(self) -> bytes:
        """The page as of now, UTF-8; HpoError where it cannot be made."""
        from hpo.report.contents import gather
        from hpo.report.write import page

        with self._lock:
            now = fingerprint(self._engine)
            if now != self._made_of:
                contents = gather(self._engine, self._shipped_report(), self._experiments)
                self._html, self._made_of = page(contents).encode(), now
            return self._html


def with_report(report: ReportPage, app: "WSGIApplication") -> "WSGIApplication":
    """Wrap a WSGI app so that PATH is the report and everything else is the app's."""

    def answering(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ.get("PATH_INFO", "").rstrip("/") != PATH or environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return app(environ, start_response)
        try:
            status, kind, body = "200 OK", "text/html", report.html()
        except HpoError as error:
            status, kind, body = "500 Internal Server Error", "text/plain", f"{error}\n".encode()
        headers = [("Content-Type", f"{kind}; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return answering
