"""The guard before the whole site: the right host and origin, somebody the door knows, a role that allows the change.

optuna-dashboard has no authentication and serves routes that rename, delete and tell Optuna's studies and trials behind
the queue's back. So nothing reaches it, or the site's pages, that has not been through here; of its changes only notes
are let through, and those are answered in note_requests.py.
"""

import logging
import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

from sqlalchemy import Engine

from hpo.errors import DatabaseError, DatabaseReplaced
from hpo.server.address import SAFE_METHODS, SiteAddress
from hpo.server.door import Door, Visitor
from hpo.server.note_requests import is_note
from hpo.storage.engine import begin_read

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

VISITOR = "hpo.visitor"  # in a request's environment: a Visitor
HEALTH, LOGIN, LOGOUT, ASSETS = "/healthz", "/login", "/logout", "/assets/"
HEADERS = [
    ("X-Frame-Options", "DENY"),  # a frame in another site's page would turn clicks there into clicks here
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
]
"""What every answer carries."""

_FILES = ("/static/", ASSETS)  # that need no database
_ACTION = re.compile(r"/studies/[^/]+/(pause|resume|extend|evaluate|note)")
_RELOAD = b'<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0"><title>hpo</title>\n'


class Guard:
    """A WSGI app that lets through to another what may pass."""

    def __init__(
        self,
        app: "WSGIApplication",
        engine: Engine,
        *,
        door: Door,
        address: SiteAddress,
        end: Callable[[DatabaseReplaced], None],
    ) -> None:
        """`end` is called where another database stands in the place of this one."""
        self._app, self._engine, self._door, self._address, self._end = app, engine, door, address, end

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request."""

        def start(status, headers, exc_info=None):  # type: ignore[no-untyped-def]  # StartResponse is a protocol
            return start_response(status, [*headers, *HEADERS], exc_info)

        path = environ.get("PATH_INFO", "")
        if path == HEALTH:
            return self._health(environ, start)
        if reason := self._address.refusal(environ):
            return _text(start, HTTPStatus.FORBIDDEN, reason)
        try:
            if not path.startswith(_FILES):
                with begin_read(self._engine):
                    pass
            visitor = self._door.visitor(environ)
        except DatabaseError as error:
            return self._without_database(error, start)
        if visitor is None and path != LOGIN and not path.startswith(ASSETS):
            return _unknown_visitor(environ, start)
        if visitor is not None and (reason := _forbidden(environ, visitor)):
            return _text(start, HTTPStatus.FORBIDDEN, reason)
        environ[VISITOR] = visitor
        return self._app(environ, start)

    def _health(self, environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        """For probes, without a login: no more than whether the site and its database answer."""
        try:
            with begin_read(self._engine):
                pass
        except DatabaseError as error:
            logger.warning("%s: %s", HEALTH, error)
            if isinstance(error, DatabaseReplaced):
                self._end(error)
            return _text(start, HTTPStatus.SERVICE_UNAVAILABLE, "the database cannot be used; the log says why")
        return _text(start, HTTPStatus.OK, "ok")

    def _without_database(self, error: DatabaseError, start: "StartResponse") -> Iterable[bytes]:
        if isinstance(error, DatabaseReplaced):
            self._end(error)
        return _text(start, HTTPStatus.SERVICE_UNAVAILABLE, str(error))


def _forbidden(environ: "WSGIEnvironment", visitor: Visitor) -> str | None:
    """Why somebody known may not do this, or None."""
    method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")
    if method in SAFE_METHODS or path in (LOGIN, LOGOUT):
        return None
    if not visitor.may_change:
        return f"refused: {visitor.name} is a viewer; an editor may change this (`hpo user role {visitor.name} editor`)"
    if not is_note(path) and not _ACTION.fullmatch(path):
        return "refused: here only notes may be changed; studies are changed with `hpo study`"
    return None


def _unknown_visitor(environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
    """To the login a page that somebody browses to, 401 for all else."""
    is_page = environ["REQUEST_METHOD"] in ("GET", "HEAD") and "text/html" in environ.get("HTTP_ACCEPT", "")
    if not is_page:
        headers = [("WWW-Authenticate", 'Bearer realm="hpo"')]
        return _text(start, HTTPStatus.UNAUTHORIZED, "log in first, or send a token: `hpo token add NAME`", headers)
    if environ.get("HTTP_SEC_FETCH_SITE") == "cross-site":
        # A link from a chat or a mail: the browser keeps a SameSite=Strict cookie back. The page's reload of itself is
        # this site's, so it brings the cookie of whoever is logged in.
        start("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-store")])
        return [_RELOAD]
    query = environ.get("QUERY_STRING", "")
    there = environ.get("PATH_INFO", "/") + (f"?{query}" if query else "")
    location = LOGIN if there == "/" else f"{LOGIN}?next={quote(there, safe='/')}"
    start("303 See Other", [("Location", location), ("Content-Length", "0"), ("Cache-Control", "no-store")])
    return [b""]


def _text(
    start: "StartResponse", status: HTTPStatus, text: str, headers: Iterable[tuple[str, str]] = ()
) -> Iterable[bytes]:
    start(f"{status.value} {status.phrase}", [("Content-Type", "text/plain; charset=utf-8"), *headers])
    return [f"{text}\n".encode()]
