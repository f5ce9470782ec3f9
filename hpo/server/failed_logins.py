"""Failed logins make the next ones wait: by user and address in a row, and by address whatever the name is.

A try is counted before its password is looked at, which takes a tenth of a second, and taken back where it was right:
of many at the same moment no more are looked at than of as many one after the other.
"""

import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

FREE_FAILURES = 3  # failed logins of a user in a row before the next must wait
LONGEST_WAIT = 60.0  # seconds
ADDRESS_FAILURES = 30  # of an address at once, whatever the names: a proxy may stand for a whole lab
ADDRESS_SECONDS = 10.0  # after which an address may fail once more
_NETWORK_BITS = 64  # of an IPv6 address: what lies behind belongs to one client
_MOST_KEPT = 10_000  # users and addresses whose failures are remembered


class LoginRefused(Exception):
    """A login that failed; the message is for whoever tried."""

    def __init__(self, message: str, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait  # seconds before another try is looked at


class FailedLogins:
    """What is remembered of failed logins; the server's threads share it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        # By user and address: how many in a row, and when the next may be.
        self._in_a_row: OrderedDict[tuple[str, str], tuple[int, float]] = OrderedDict()
        # By address: when all its failures will be forgiven, each ADDRESS_SECONDS after the one before.
        self._forgiven_at: OrderedDict[str, float] = OrderedDict()

    def count(self, name: str, address: str) -> int:
        """Count a try as failed before it is looked at; returns how many in a row that makes.

        Raises LoginRefused, and counts nothing, where the try must wait.
        """
        client = _client(address)
        with self._lock:
            now = self._clock()
            failures, next_at = self._in_a_row.get((name, client), (0, now))
            forgiven_at = max(now, self._forgiven_at.get(client, now))
            wait = max(next_at, forgiven_at - (ADDRESS_FAILURES - 1) * ADDRESS_SECONDS) - now
            if wait > 0:
                raise LoginRefused(f"too many failed logins: wait {wait:.0f} s", wait)
            failures += 1
            wait = 0.0 if failures < FREE_FAILURES else min(LONGEST_WAIT, 2.0 ** min(failures - FREE_FAILURES, 10))
            self._in_a_row[name, client] = failures, now + wait
            self._in_a_row.move_to_end((name, client))
            self._forgiven_at[client] = forgiven_at + ADDRESS_SECONDS
            self._forgiven_at.move_to_end(client)
            while len(self._in_a_row) > _MOST_KEPT:
                self._in_a_row.popitem(last=False)
            while len(self._forgiven_at) > _MOST_KEPT:
                self._forgiven_at.popitem(last=False)
        return failures

    def forget(self, name: str, address: str) -> None:
        """A try was right: the user's failures are forgotten, and the address's count is without it."""
        client = _client(address)
        with self._lock:
            self._in_a_row.pop((name, client), None)
            if client in self._forgiven_at:
                self._forgiven_at[client] -= ADDRESS_SECONDS


def _client(address: str) -> str:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((known, _NETWORK_BITS), strict=False)) if known.version == 6 else address
