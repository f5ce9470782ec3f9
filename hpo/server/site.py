"""The lab's site: its pages and optuna-dashboard, behind the guard."""

import logging
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from sqlalchemy import Engine

from hpo.errors import UsageError
from hpo.server.address import LOOPBACK, SiteAddress, parsed_public_url
from hpo.server.door import Door, TrustedProxy, new_startup_token
from hpo.server.serve import Ending, serve
from hpo.storage.users import list_users

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from hpo.server.report_page import ReportPage

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "HPO_DASHBOARD_TOKEN"  # the start-up token, for who wants to know it before
FEWEST_SECRET_CHARACTERS = 16  # of a token or secret that somebody chose
SECRET = f"at least {FEWEST_SECRET_CHARACTERS} characters of ASCII"  # what a header can carry


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteOptions:
    """Where the site listens, and who may use it."""

    host: str = "127.0.0.1"
    port: int = 8080  # 0: a free one
    public_url: str | None = None  # under which browsers reach it, through a proxy
    proxy_header: str | None = None  # in which a proxy says who a user is
    proxy_secret_file: Path | None = None


def serve_site(
    engine: Engine, options: SiteOptions, report: "ReportPage", ready: Callable[[str], object] = lambda url: None
) -> None:
    """Serve until SIGINT or SIGTERM; `ready` is called once with what to open.

    UsageError where the options would let in somebody that nobody knows; see `serve` for others.
    """
    address = SiteAddress(public_url=parsed_public_url(options.public_url))
    proxy, token = _proxy(options), _startup_token(engine, options, address)
    door = Door(engine, startup_token=token, proxy=proxy, is_proxied=address.public_url is not None)

    def started(url: str) -> None:
        if address.public_url is not None:
            url = f"{address.public_url}/, listening at {url}"
        ready(url if token is None else f"{url}login?token={quote(token, safe='')}")

    def app(end: Ending) -> "WSGIApplication":
        from hpo.server.guard import Guard

        return Guard(_whole(engine, door, address, report), engine, door=door, address=address, end=end)

    serve(app, host=options.host, port=options.port, ready=started)


def _whole(engine: Engine, door: Door, address: SiteAddress, report: "ReportPage") -> "WSGIApplication":
    from hpo.server.optuna_app import PATHS, optuna_app
    from hpo.server.pages import pages

    dashboard, site = optuna_app(engine), pages(engine, door=door, address=address, report=report)

    def answering(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        is_dashboard = environ.get("PATH_INFO", "").startswith(PATHS)
        return (dashboard if is_dashboard else site)(environ, start_response)

    return answering


def _startup_token(engine: Engine, options: SiteOptions, address: SiteAddress) -> str | None:
    """The token that lets in who has it; None where there are users, who log in."""
    is_local = options.host in LOOPBACK
    if not is_local and address.public_url is None:
        raise UsageError(
            f"dashboard: --host {options.host} is no loopback address: say with --public-url how browsers reach it, "
            "as https://lab.example, or listen on 127.0.0.1 and use an SSH tunnel (ssh -L 8080:127.0.0.1:8080 "
            "THIS-MACHINE)"
        )
    if list_users(engine):
        if not is_local and not address.is_secure:
            logger.warning("passwords reach %s unencrypted: put a proxy with TLS before it", address.public_url)
        return None
    if not is_local or address.public_url is not None or options.proxy_header is not None:
        raise UsageError(
            "dashboard: there are no users, and others than this machine's could reach it: `hpo user add NAME "
            "--role editor` makes the first"
        )
    chosen = os.environ.get(TOKEN_VARIABLE, "").strip()
    if chosen and not _is_secret(chosen):
        raise UsageError(f"{TOKEN_VARIABLE}: a token has {SECRET}; leave it empty, and one is made")
    return chosen or new_startup_token()


def _proxy(options: SiteOptions) -> TrustedProxy | None:
    if (options.proxy_header is None) != (options.proxy_secret_file is None):
        raise UsageError("dashboard: --proxy-header and --proxy-secret-file belong together")
    if options.proxy_header is None or options.proxy_secret_file is None:
        return None
    try:
        secret = options.proxy_secret_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"dashboard: --proxy-secret-file {options.proxy_secret_file}: {error}") from None
    if not _is_secret(secret):
        raise UsageError(
            f"dashboard: --proxy-secret-file {options.proxy_secret_file}: a secret has {SECRET}; "
            "`openssl rand -hex 32` makes one"
        )
    if not re.fullmatch(r"[A-Za-z0-9-]+", options.proxy_header):
        raise UsageError(
            f"dashboard: --proxy-header {options.proxy_header!r} is no header's name; X-Forwarded-User is one"
        )
    return TrustedProxy(header=options.proxy_header, secret=secret)


def _is_secret(text: str) -> bool:
    return len(text) >= FEWEST_SECRET_CHARACTERS and text.isascii() and text.isprintable()
