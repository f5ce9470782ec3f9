"""The door: who sends a request, and how users log in.

A request is somebody's by one of four ways: a session (a signed cookie, after a login), a script's token, the word of a
proxy that shares a secret with the site, or, while there are no users, the token that was printed as the site started.
A session holds no state here: its cookie is signed with the database's key and names the user, and it ends as soon as
that user's password has changed or the user is gone.
"""

import hashlib
import hmac
import logging
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from hpo.server.passwords import is_password
from hpo.storage.identity import key_of
from hpo.storage.users import Role, User, find_token, find_user, list_users

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from itsdangerous import URLSafeTimedSerializer

logger = logging.getLogger(__name__)

COOKIE = "hpo_session"
SESSION_SECONDS = 7 * 24 * 3600  # after a login
SECRET_HEADER = "X-Hpo-Proxy-Secret"
_NOBODY = ""  # the name in a session that the start-up token began; no user has it
_AT_START = "start-up token"  # the name that such a session's changes are logged under

FREE_FAILURES = 3  # failed logins in a row before the next must wait
LONGEST_WAIT = 60.0  # seconds
_MOST_KEPT = 10_000  # names and addresses whose failures are remembered


@dataclass(frozen=True, kw_only=True, slots=True)
class Visitor:
    """Who sent a request, and what they may do."""

    name: str
    role: Role

    @property
    def may_change(self) -> bool:
        """Whether they may change what the site can change."""
        return self.role == "editor"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrustedProxy:
    """A proxy that logs users in itself, as oauth2-proxy does, and says in a header who they are."""

    header: str  # in which it gives the user's name
    secret: str  # that it sends in SECRET_HEADER, since anybody can send a header


class LoginRefused(Exception):
    """A login that failed; the message is for whoever tried."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait  # seconds before another try is looked at


class Door:
    """Recognises whoever sends a request; shared by the server's threads."""

    def __init__(self, engine: Engine, *, startup_token: str | None = None, proxy: TrustedProxy | None = None) -> None:
        """`startup_token` lets in whoever has it, as an editor, until there are users; None where only users log in."""
        self._engine, self._startup_token, self._proxy = engine, startup_token, proxy
        self._failures = FailedLogins()
        self._key: bytes | None = None

    @property
    def takes_token(self) -> bool:
        """Whether one logs in with the token that was printed at the start, instead of a name and a password."""
        return self._valid_token() is not None

    @property
    def signing_key(self) -> bytes:
        """Signs cookies: the same for all of a database's servers, so that a restart logs nobody out."""
        if self._key is None:
            self._key = hmac.digest(key_of(self._engine), b"sessions of the site", "sha256")
        return self._key

    # --- Who it is ----------------------------------------------------------------------------------------

    def visitor(self, environ: "WSGIEnvironment") -> Visitor | None:
        """Whose request this is; None for nobody that the site knows."""
        kind, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if kind.lower() == "bearer":
            return self._of_token(token.strip())
        return self._of_proxy(environ) or self._of_session(environ)

    def _of_token(self, token: str) -> Visitor | None:
        if self._is_startup_token(token):
            return Visitor(name=_AT_START, role="editor")
        known = find_token(self._engine, token)
        return None if known is None else Visitor(name=f"token {known.name}", role=known.role)

    def _of_proxy(self, environ: "WSGIEnvironment") -> Visitor | None:
        if self._proxy is None:
            return None
        secret, name = (_header(environ, header) for header in (SECRET_HEADER, self._proxy.header))
        if not name or not hmac.compare_digest(secret.encode(), self._proxy.secret.encode()):
            return None
        return _as_visitor(find_user(self._engine, name))

    def _of_session(self, environ: "WSGIEnvironment") -> Visitor | None:
        try:
            cookies = SimpleCookie(environ.get("HTTP_COOKIE", ""))
        except CookieError:
            return None
        if COOKIE not in cookies:
            return None
        return self._opened(cookies[COOKIE].value)

    def _opened(self, cookie: str) -> Visitor | None:
        from itsdangerous import BadData

        try:
            name, seal = self._serializer().loads(cookie, max_age=SESSION_SECONDS)
        except (BadData, TypeError, ValueError):
            return None
        if name == _NOBODY:
            token = self._valid_token()
            valid = token is not None and seal == _seal(token)
            return Visitor(name=_AT_START, role="editor") if valid else None
        user = find_user(self._engine, name)
        return _as_visitor(user) if user is not None and seal == _seal(user.password_hash or "") else None

    def _is_startup_token(self, token: str) -> bool:
        ours = self._startup_token
        same = ours is not None and hmac.compare_digest(token.encode(), ours.encode())
        return same and self._valid_token() is not None

    def _valid_token(self) -> str | None:
        """The start-up token; None as soon as there is a user."""
        return None if self._startup_token is None or list_users(self._engine) else self._startup_token

    # --- Logging in ---------------------------------------------------------------------------------------

    def session_by_token(self, token: str, address: str) -> str:
        """The cookie of a session that the start-up token begins; LoginRefused where it is another."""
        self._failures.check("", address)
        if not self._is_startup_token(token):
            raise self._refused("", address, "this is not the token that `hpo dashboard` printed")
        return self._sealed(_NOBODY, token)

    def session_by_password(self, name: str, password: str, address: str) -> str:
        """The cookie of a session of that user; LoginRefused where name and password do not fit."""
        self._failures.check(name, address)
        user = find_user(self._engine, name)
        if not is_password(None if user is None else user.password_hash, password):
            raise self._refused(name, address, "name or password is wrong")
        assert user is not None
        assert user.password_hash is not None
        self._failures.forget(name, address)
        logger.info("login: %s from %s", name, address)
        return self._sealed(name, user.password_hash)

    def _refused(self, name: str, address: str, reason: str) -> LoginRefused:
        count = self._failures.count(name, address)
        logger.warning("login refused: %s from %s, %d in a row", repr(name), address, count)
        return LoginRefused(reason)

    def _sealed(self, name: str, sealing: str) -> str:
        cookie: str = self._serializer().dumps([name, _seal(sealing)])
        return cookie

    def _serializer(self) -> "URLSafeTimedSerializer":
        from itsdangerous import URLSafeTimedSerializer

        return URLSafeTimedSerializer(self.signing_key, salt="session")


class FailedLogins:
    """Failed logins in a row, by user and address: after a few, each next one waits twice as long."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], tuple[int, float]] = {}  # how many, and when the next may be

    def check(self, name: str, address: str) -> None:
        """Raise LoginRefused where the next try must wait."""
        with self._lock:
            _, when = self._kept.get((name, address), (0, 0.0))
            wait = when - self._clock()
        if wait > 0:
            raise LoginRefused(f"too many failed logins: wait {wait:.0f} s", wait)

    def count(self, name: str, address: str) -> int:
        """Note a failure; returns how many in a row that makes."""
        with self._lock:
            failures = self._kept.pop((name, address), (0, 0.0))[0] + 1
            wait = 0.0 if failures < FREE_FAILURES else min(LONGEST_WAIT, 2.0 ** min(failures - FREE_FAILURES, 10))
            self._kept[name, address] = failures, self._clock() + wait
            while len(self._kept) > _MOST_KEPT:
                del self._kept[next(iter(self._kept))]  # the oldest
        return failures

    def forget(self, name: str, address: str) -> None:
        """A login was right."""
        with self._lock:
            self._kept.pop((name, address), None)


def new_startup_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(32)


def _as_visitor(user: User | None) -> Visitor | None:
    return None if user is None else Visitor(name=user.name, role=user.role)


def _seal(secret: str) -> str:
    """What of a secret stands in a session's cookie: enough to see that it is another one by now."""
    return hashlib.sha256(b"session " + secret.encode()).hexdigest()[:16]


def _header(environ: "WSGIEnvironment", name: str) -> str:
    value: str = environ.get("HTTP_" + name.upper().replace("-", "_"), "")
    return value
