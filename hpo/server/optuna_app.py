"""optuna-dashboard and the report on hpo's engine, behind a production WSGI server, for this machine only.

The app has no authentication and serves routes that change or delete studies. So it listens on loopback
only, and because every page that a browser on this machine shows can reach loopback too, it also refuses
requests that another site sent: a foreign Host header (DNS rebinding) or a change asked for by a page of
another origin (cross-site request forgery). The only changes that are allowed are notes, and those are answered in
note_requests.py: the app would rename, delete and tell Optuna's studies and trials behind the queue's back.
"""

import errno
import json
import logging
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from types import FrameType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sqlalchemy import Engine

from hpo.errors import DatabaseError, DatabaseReplaced, HpoError, UsageError
from hpo.server import report_page
from hpo.server.note_requests import answer_note, is_note
from hpo.server.report_page import ReportPage, with_report
from hpo.storage.engine import begin_read

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# What a user may give, and the address to listen on: `localhost` is not resolved, a hosts file could redirect it.
LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}
ASKING = ("/api/", report_page.PATH)  # what asks the database; all else are files of the app
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}  # change nothing (RFC 9110, section 9.2.1)

MOST_REQUEST_BYTES = 1_000_000  # of a request's content: larger ones are refused before they are read
HEADERS = [
    ("X-Frame-Options", "DENY"),  # a frame in another site's page would turn clicks there into clicks here
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    # Besides the app's policy, both hold: what a note's Markdown may not do.
    ("Content-Security-Policy", "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
]
"""What every answer carries."""

_LOCAL_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?")


class AddressError(UsageError):
    """The dashboard was asked to listen where others could reach it."""

    def __init__(self, host: str) -> None:
        super().__init__(
            f"dashboard: --host {host} is refused, there is no authentication yet: use 127.0.0.1 and, from "
            "another machine, an SSH tunnel (ssh -L 8080:127.0.0.1:8080 THIS-MACHINE)"
        )


class PortError(HpoError):
    """The port is taken, or the system does not allow it."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        busy = error.errno == errno.EADDRINUSE
        what = "is in use" if busy else f"cannot be used ({error.strerror})"
        super().__init__(f"dashboard: port {port} of {host} {what}: choose another with --port")


def serve(
    engine: Engine,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    report: ReportPage | None = None,
    ready: Callable[[str], object] = lambda url: None,
) -> None:
    """Serve optuna-dashboard, and the report, on `engine` until SIGINT or SIGTERM; call from the main thread.

    `port` 0 takes a free one; `ready` is called once with the URL when connections are accepted.
    Raises AddressError for any `host` but loopback, PortError where the port cannot be had, DatabaseReplaced when a
    request meets another database in the place of this one.
    """
    replaced: list[DatabaseReplaced] = []
    first = threading.Lock()  # of several requests: a second signal would kill

    def end(error: DatabaseReplaced) -> None:
        if first.acquire(blocking=False):
            replaced.append(error)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    listener = _listen(host, port)  # first, so that a wrong address is reported before slow imports
    with closing(listener):
        import waitress  # type: ignore[import-untyped]  # ships no types

        # A page sends a dozen requests at once; that some wait a moment for a thread needs no warning.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        server = waitress.create_server(
            _app(engine, report or ReportPage(engine), end),
            sockets=[listener],
            ident=None,
            max_request_body_size=MOST_REQUEST_BYTES,
        )
        address, taken = listener.getsockname()[:2]
        _serve_until_signal(server.run, lambda: ready(f"http://{_bracketed(address)}:{taken}/"))
        server.close()
    if replaced:
        raise replaced[0]


def _app(engine: Engine, report: ReportPage, end: Callable[[DatabaseReplaced], None]) -> "WSGIApplication":
    import optuna_dashboard  # type: ignore[import-untyped]  # ships no types

    from hpo.storage.optuna_storage import open_optuna

    app = with_report(report, with_notes(engine, optuna_dashboard.wsgi(open_optuna(engine))))
    return local_only(of_the_database(engine, app, end))


def of_the_database(
    engine: Engine, app: "WSGIApplication", end: Callable[[DatabaseReplaced], None]
) -> "WSGIApplication":
    """Wrap a WSGI app so that it answers 503 and why where the database cannot be used; `end` if it was replaced."""

    def guarded(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        try:
            if environ.get("PATH_INFO", "").startswith(ASKING):
                with begin_read(engine):
                    pass
        except DatabaseError as error:
            if isinstance(error, DatabaseReplaced):
                end(error)
            start_response("503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")])
            return [f"{error}\n".encode()]
        return app(environ, start_response)

    return guarded


def with_notes(engine: Engine, app: "WSGIApplication") -> "WSGIApplication":
    """Wrap a WSGI app so that notes are stored by hpo and everything else is the app's."""

    def answering(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in SAFE_METHODS or not is_note(environ.get("PATH_INFO", "")):
            return app(environ, start_response)
        answer = answer_note(engine, environ)
        content = b"" if answer.body is None else json.dumps(answer.body).encode()
        headers = [("Content-Type", "application/json")] if content else []
        start_response(f"{answer.status.value} {answer.status.phrase}", headers)
        return [content]

    return answering


def _listen(host: str, port: int) -> socket.socket:
    if host not in LOOPBACK:
        raise AddressError(host)
    if not 0 <= port <= 65535:
        raise UsageError(f"dashboard: --port {port} is not a port: choose one from 1 to 65535")
    address = LOOPBACK[host]
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        # Two sockets with SO_REUSEADDR may both be bound; listening shows whether another has the port.
        listener.listen()
    except OSError as error:
        listener.close()
        raise PortError(address, port, error) from None
    return listener


def _serve_until_signal(run: Callable[[], object], started: Callable[[], object]) -> None:
    """Run the server; both signals end its loop, requests under way may finish (waitress gives them 5 s)."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt  # waitress's loop takes this as the request to end

    # SIGINT too: a shell starts background jobs with SIGINT ignored.
    before = {s: signal.signal(s, stop) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        started()
        run()
    except KeyboardInterrupt:  # the signal came before or after the loop
        pass
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def local_only(app: "WSGIApplication") -> "WSGIApplication":
    """Wrap a WSGI app so that it answers 403 to what another site sent, and with HEADERS."""

    def guarded(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        def start(status, headers, exc_info=None):  # type: ignore[no-untyped-def]  # StartResponse is a protocol
            return start_response(status, [*headers, *HEADERS], exc_info)

        if reason := refusal(environ):
            start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8"), *HEADERS])
            return [f"{reason}\n".encode()]
        return app(environ, start)

    return guarded


def refusal(environ: "WSGIEnvironment") -> str | None:
    """The reason why a request must be refused, or None where it is allowed.

    The port of the Host header is free, since a forwarded port (SSH, Docker) has another number outside;
    a change must come from a page of that very host and port, or from no page at all (curl).
    """
    host = environ.get("HTTP_HOST", "").lower()
    if not _LOCAL_HOST.fullmatch(host):
        return "refused: the Host header must be localhost or 127.0.0.1"
    if environ["REQUEST_METHOD"] in SAFE_METHODS:
        return None
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and urlsplit(origin.lower()).netloc != host:
        return "refused: a page of another origin asked for a change"
    if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("same-origin", "none"):
        return "refused: another site asked for a change"
    if not is_note(environ.get("PATH_INFO", "")):
        return "refused: here only notes may be changed; studies are changed with `hpo study`"
    return None
