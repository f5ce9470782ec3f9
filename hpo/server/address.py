"""Where the site is reached: what it listens on, and which Host and Origin a request may name.

Every page that a browser shows can reach loopback, and can send forms anywhere. So a request with a foreign Host header
(DNS rebinding) is refused, and so is a change asked for by a page of another origin (cross-site request forgery).
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from hpo.errors import UsageError

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# What a user may give, and the address to listen on: `localhost` is not resolved, a hosts file could redirect it.
LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}  # change nothing (RFC 9110, section 9.2.1)

_LOCAL_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?")
_HOST = re.compile(r"(?:([a-z0-9_](?:[a-z0-9._-]*[a-z0-9_])?)|\[([0-9a-f:.]+)\])(?::[0-9]+)?")  # name or IPv6, and port
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteAddress:
    """The site's address as browsers know it."""

    public_url: str | None = None  # scheme, host and port; None: loopback under any port, which a tunnel may change

    @property
    def is_secure(self) -> bool:
        """Whether browsers reach it by TLS."""
        return self.public_url is not None and self.public_url.startswith("https:")

    def refusal(self, environ: "WSGIEnvironment") -> str | None:
        """The reason why a request must be refused whoever sent it, or None where it is allowed."""
        host = environ.get("HTTP_HOST", "").lower()
        if not self._is_ours(host):
            expected = "localhost or 127.0.0.1" if self.public_url is None else urlsplit(self.public_url).netloc
            return f"refused: the Host header must be {expected}"
        if environ["REQUEST_METHOD"] in SAFE_METHODS:
            return None
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and not self._is_origin(origin.lower(), host):
            return "refused: a page of another origin asked for a change"
        if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("same-origin", "none"):
            return "refused: another site asked for a change"
        return None

    def _is_ours(self, host: str) -> bool:
        if self.public_url is None:
            return _LOCAL_HOST.fullmatch(host) is not None
        scheme, netloc = urlsplit(self.public_url)[:2]
        return host.removesuffix(_DEFAULT_PORTS[scheme]) == netloc.removesuffix(_DEFAULT_PORTS[scheme])

    def _is_origin(self, origin: str, host: str) -> bool:
        try:
            scheme, netloc = urlsplit(origin)[:2]
        except ValueError:  # brackets that hold no address
            return False
        if self.public_url is None:
            return netloc == host
        return scheme == urlsplit(self.public_url).scheme and self._is_ours(netloc)


def parsed_public_url(text: str | None) -> str | None:
    """The URL under which browsers reach the site, without a path; UsageError where it is none."""
    if text is None:
        return None
    try:
        parts = urlsplit(text.lower())
        port = parts.port  # raises where it is no number
        host = _HOST.fullmatch(parts.netloc)
        name = "" if host is None else f"[{ipaddress.IPv6Address(host[2])}]" if host[2] else host[1]
    except ValueError:
        parts, port, name = urlsplit(""), None, ""
    if parts.scheme not in _DEFAULT_PORTS or not name or port == 0 or parts.path not in ("", "/") or _has_rest(text):
        raise UsageError(
            f"dashboard: --public-url {text!r} must be http(s)://HOST or http(s)://HOST:PORT, HOST as browsers send it "
            "(xn--... where it is not ASCII), without a path; a proxy gives the site a host name of its own"
        )
    return f"{parts.scheme}://{name}" + ("" if port is None else f":{port}")


def _has_rest(url: str) -> bool:
    return "?" in url or "#" in url or any(character.isspace() for character in url)
