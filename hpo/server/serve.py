"""The site behind a production WSGI server, until a signal ends it."""

import errno
import logging
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from types import FrameType
from typing import TYPE_CHECKING

from hpo.errors import DatabaseReplaced, HpoError, UsageError
from hpo.server.address import LOOPBACK

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

MOST_REQUEST_BYTES = 1_000_000  # of a request's content: larger ones are refused before they are read
THREADS = 8  # of the server: a page waits for the database, and optuna-dashboard's ask for several things at once


class PortError(HpoError):
    """The port is taken, or the system does not allow it."""

    def __init__(self, host: str, port: int, error: OSError) -> None:
        busy = error.errno == errno.EADDRINUSE
        what = "is in use" if busy else f"cannot be used ({error.strerror})"
        super().__init__(f"dashboard: port {port} of {host} {what}: choose another with --port")


class Ending:
    """Ends the server when a request meets another database in the place of the one that it serves."""

    def __init__(self) -> None:
        self.error: DatabaseReplaced | None = None
        self._first = threading.Lock()  # of several requests: a second signal would kill

    def __call__(self, error: DatabaseReplaced) -> None:
        """End it; `serve` raises the error."""
        if self._first.acquire(blocking=False):
            self.error = error
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def serve(
    make_app: "Callable[[Ending], WSGIApplication]",
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    ready: Callable[[str], object] = lambda url: None,
) -> None:
    """Serve the app that `make_app` returns until SIGINT or SIGTERM; call from the main thread.

    `port` 0 takes a free one; `ready` is called once with the URL when connections are accepted. Raises UsageError
    for a host that is none, PortError where the port cannot be had, DatabaseReplaced when a request met another
    database.
    """
    ending = Ending()
    listener = _listen(host, port)  # first, so that a wrong address is reported before slow imports
    with closing(listener):
        import waitress  # type: ignore[import-untyped]  # ships no types

        # A page sends a dozen requests at once; that some wait a moment for a thread needs no warning.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        server = waitress.create_server(
            make_app(ending),
            sockets=[listener],
            ident=None,
            threads=THREADS,
            max_request_body_size=MOST_REQUEST_BYTES,
            clear_untrusted_proxy_headers=False,  # a header that the door trusts comes with a secret
        )
        address, taken = listener.getsockname()[:2]
        _serve_until_signal(server.run, lambda: ready(f"http://{_bracketed(address)}:{taken}/"))
        server.close()
    if ending.error is not None:
        raise ending.error


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UsageError(f"dashboard: --port {port} is not a port: choose one from 1 to 65535")
    address = LOOPBACK.get(host, host)
    try:
        family = socket.getaddrinfo(address, None, flags=socket.AI_NUMERICHOST)[0][0]
    except (OSError, UnicodeError):
        raise UsageError(f"dashboard: --host {host} is no address: give one of this machine's, as 127.0.0.1") from None
    listener = socket.socket(family)
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
