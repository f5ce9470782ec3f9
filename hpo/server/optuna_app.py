"""optuna-dashboard as a part of the site: on hpo's engine, its notes stored by hpo, its dead buttons hidden.

Its paths are fixed in its bundle: PATHS. It shows buttons for what the guard refuses everybody (create, rename,
delete); a style sheet put into its page hides them, and from viewers also the places where notes are edited.
"""

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from sqlalchemy import Engine

from hpo.server.address import SAFE_METHODS
from hpo.server.guard import VISITOR
from hpo.server.note_requests import LARGEST_ID, answer_note, is_note

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

PATHS = ("/dashboard", "/api/", "/static/", "/csv/", "/favicon.ico")
_NUMBER = re.compile(r"[+-]?[0-9]+")  # as a path's patterns take them
_POLICY = ("Content-Security-Policy", "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
"""Besides the app's own policy, both hold: what a note's Markdown may not do."""


def optuna_app(engine: Engine) -> "WSGIApplication":
    """The WSGI app for all paths that begin with PATHS."""
    import optuna_dashboard  # type: ignore[import-untyped]  # ships no types

    from hpo.storage.optuna_storage import open_optuna

    return with_numbers(with_links(with_notes(engine, optuna_dashboard.wsgi(open_optuna(engine)))))


def with_numbers(app: "WSGIApplication") -> "WSGIApplication":
    """Wrap a WSGI app so that it sees no number that no study or trial has: it takes such a one for its own failure."""

    def answering(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        parts = [part for part in environ.get("PATH_INFO", "").split("/") if _NUMBER.fullmatch(part)]
        after = parse_qs(environ.get("QUERY_STRING", "")).get("after", [])
        if all(_is_id(text) for text in (*parts, *after)):
            return app(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "application/json")])
        return [b'{"reason": "no such study or trial"}']

    return answering


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= LARGEST_ID


def with_notes(engine: Engine, app: "WSGIApplication") -> "WSGIApplication":
    """Wrap a WSGI app so that notes are stored by hpo and everything else is the app's."""

    def answering(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        def start(status, headers, exc_info=None):  # type: ignore[no-untyped-def]  # StartResponse is a protocol
            return start_response(status, [*headers, _POLICY], exc_info)

        if environ["REQUEST_METHOD"] in SAFE_METHODS or not is_note(environ.get("PATH_INFO", "")):
            return app(environ, start)
        answer = answer_note(engine, environ)
        content = b"" if answer.body is None else json.dumps(answer.body).encode()
        headers = [("Content-Type", "application/json")] if content else []
        start_response(f"{answer.status.value} {answer.status.phrase}", headers)
        return [content]

    return answering


def with_links(app: "WSGIApplication") -> "WSGIApplication":
    """Wrap optuna-dashboard so that its page has the site's style sheets and script."""

    def answering(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET" or not environ.get("PATH_INFO", "").startswith("/dashboard"):
            return app(environ, start_response)
        environ = {key: value for key, value in environ.items() if not key.startswith(("HTTP_IF_", "HTTP_RANGE"))}
        answered: list[tuple[str, list[tuple[str, str]]]] = []

        def start(status, headers, exc_info=None):  # type: ignore[no-untyped-def]  # StartResponse is a protocol
            answered.append((status, headers))
            return lambda data: None

        parts = app(environ, start)
        try:
            page = b"".join(parts)
        finally:
            close = getattr(parts, "close", None)
            if close is not None:
                close()
        status, headers = answered[-1]
        visitor = environ.get(VISITOR)
        page = page.replace(b"</head>", _head(visitor is not None and visitor.may_change) + b"</head>", 1)
        dropped = {"content-length", "etag", "last-modified", "cache-control"}
        kept = [(name, value) for name, value in headers if name.lower() not in dropped]
        start_response(status, [*kept, ("Content-Length", str(len(page))), ("Cache-Control", "no-store")])
        return [page]

    return answering


def _head(may_change: bool) -> bytes:
    sheets = ["optuna.css"] if may_change else ["optuna.css", "optuna-viewer.css"]
    links = "".join(f'<link rel="stylesheet" href="/assets/{sheet}">' for sheet in sheets)
    return f'{links}<script src="/assets/optuna.js" defer></script>'.encode()
