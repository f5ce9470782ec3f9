"""The door: who sends a request, and how users log in.

A request is somebody's by one of four ways: a session (a signed cookie, after a login), a script's token, the word of a
proxy that shares a secret with the site, or, while there are no users, the token that was printed as the site started.
A session's cookie is signed with the database's key and names the user; the session ends when that user logs out
anywhere, when the password has changed, and when the user is gone.
"""

import hashlib
import hmac
import ipaddress
import logging
import secrets
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from hpo.server.failed_logins import FailedLogins, LoginRefused
from hpo.server.passwords import is_password
from hpo.storage.identity import identity_of, key_of
from hpo.storage.schema import USER_LENGTH
from hpo.storage.users import Role, User, end_sessions, find_token, find_user, list_users

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from itsdangerous import URLSafeTimedSerializer

logger = logging.getLogger(__name__)

SESSION_SECONDS = 7 * 24 * 3600  # after a login
SECRET_HEADER = "X-Hpo-Proxy-Secret"
_NOBODY = ""  # the name in a session that the start-up token began; no user has it
_AT_START = "start-up token"  # the name that such a session's changes are logged under


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


class Door:
    """Recognises whoever sends a request; shared by the server's threads."""

    def __init__(
        self,
        engine: Engine,
        *,
        startup_token: str | None = None,
        proxy: TrustedProxy | None = None,
        is_proxied: bool = False,
    ) -> None:
        """`startup_token` lets in whoever has it, as an editor, until there are users; None where only users log in.

        `is_proxied`: browsers reach the site through a proxy, which is whoever asks from this machine itself.
        """
        self._engine, self._startup_token, self._proxy, self._is_proxied = engine, startup_token, proxy, is_proxied
        self._failures = FailedLogins()
        self._key: bytes | None = None
        self._startup_round = secrets.token_hex()  # another one ends the sessions that the start-up token began

    @property
    def cookie(self) -> str:
        """The name of a session's cookie: the same browser may be logged in at several databases' sites of a host."""
        return f"hpo_session_{identity_of(self._engine)[:8]}"

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
        if self._proxy is None or not self._has_secret(environ):
            return None
        return _as_visitor(find_user(self._engine, _header(environ, self._proxy.header)))

    def _has_secret(self, environ: "WSGIEnvironment") -> bool:
        """Whether it is the trusted proxy that asks."""
        secret = _header(environ, SECRET_HEADER)
        return self._proxy is not None and hmac.compare_digest(secret.encode(), self._proxy.secret.encode())

    def _of_session(self, environ: "WSGIEnvironment") -> Visitor | None:
        try:
            cookies = SimpleCookie(environ.get("HTTP_COOKIE", ""))
        except CookieError:
            return None
        return self._opened(cookies[self.cookie].value) if self.cookie in cookies else None

    def _opened(self, cookie: str) -> Visitor | None:
        from itsdangerous import BadData

        try:
            name, seal = self._serializer().loads(cookie, max_age=SESSION_SECONDS)
        except (BadData, TypeError, ValueError):
            return None
        if name == _NOBODY:
            token = self._valid_token()
            valid = token is not None and seal == _seal(token, self._startup_round)
            return Visitor(name=_AT_START, role="editor") if valid else None
        user = find_user(self._engine, name)
        return _as_visitor(user) if user is not None and seal == _seal_of(user) else None

    def _is_startup_token(self, token: str) -> bool:
        ours = self._startup_token
        same = ours is not None and hmac.compare_digest(token.encode(), ours.encode())
        return same and self._valid_token() is not None

    def _valid_token(self) -> str | None:
        """The start-up token; None as soon as there is a user."""
        return None if self._startup_token is None or list_users(self._engine) else self._startup_token

    # --- Logging in ---------------------------------------------------------------------------------------

    def caller(self, environ: "WSGIEnvironment") -> str:
        """The address that a request comes from: behind a proxy the last one in X-Forwarded-For.

        That one is what the proxy itself has written; those before it are what a client may have.
        """
        peer: str = environ.get("REMOTE_ADDR", "")
        if not self._has_secret(environ) and not (self._is_proxied and _is_loopback(peer)):
            return peer
        forwarded = _header(environ, "X-Forwarded-For").rpartition(",")[2].strip()
        return forwarded if _is_address(forwarded) else peer

    def session_by_token(self, token: str, address: str) -> str:
        """The cookie of a session that the start-up token begins; LoginRefused where it is another.

        Nobody has to wait: it cannot be guessed, and pages of other sites can ask with wrong ones.
        """
        if not self._is_startup_token(token):
            logger.warning("login refused: %s from %s", _AT_START, address)
            raise LoginRefused("this is not the token that `hpo dashboard` printed")
        logger.info("login: %s from %s", _AT_START, address)
        return self._sealed(_NOBODY, _seal(token, self._startup_round))

    def session_by_password(self, name: str, password: str, address: str) -> str:
        """The cookie of a session of that user; LoginRefused where name and password do not fit."""
        name = name[: USER_LENGTH + 1]  # a longer one is nobody's either, and is neither kept nor logged
        user = find_user(self._engine, name)
        failures = self._failures.count(name, address)
        if not is_password(None if user is None else user.password_hash, password):
            logger.warning("login refused: %s from %s, %d in a row", repr(name), address, failures)
            raise LoginRefused("name or password is wrong")
        assert user is not None
        self._failures.forget(name, address)
        logger.info("login: %s from %s", name, address)
        return self._sealed(name, _seal_of(user))

    def end_sessions(self, visitor: Visitor) -> None:
        """End all sessions of whoever logs out, on other machines too: a cookie may have been copied."""
        if visitor.name == _AT_START:
            self._startup_round = secrets.token_hex()
        else:
            end_sessions(self._engine, visitor.name)
        logger.info("logout: %s", visitor.name)

    def _sealed(self, name: str, seal: str) -> str:
        cookie: str = self._serializer().dumps([name, seal])
        return cookie

    def _serializer(self) -> "URLSafeTimedSerializer":
        from itsdangerous import URLSafeTimedSerializer

        return URLSafeTimedSerializer(self.signing_key, salt="session")


def new_startup_token() -> str:
    """A token that nobody can guess."""
    return secrets.token_urlsafe(32)


def _as_visitor(user: User | None) -> Visitor | None:
    return None if user is None else Visitor(name=user.name, role=user.role)


def _seal_of(user: User) -> str:
    return _seal(user.password_hash or "", str(user.logouts))


def _seal(*secrets: str) -> str:
    """What of secrets stands in a session's cookie: enough to see that they are others by now."""
    return hashlib.sha256("\0".join(["session", *secrets]).encode()).hexdigest()[:16]


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    return _is_address(address) and ipaddress.ip_address(address).is_loopback


def _header(environ: "WSGIEnvironment", name: str) -> str:
    value: str = environ.get("HTTP_" + name.upper().replace("-", "_"), "")
    return value
