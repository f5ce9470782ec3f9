"""Which messages of servers, PgBouncer and libpq are refusals, and which are outages."""

import psycopg
import pytest

from hpo.storage.refusals import is_password, remedy

TCP = 'connection failed: connection to server at "db", port 5432 failed: '
SOCKET = 'connection to server on socket "/run/no such database/certificate/.s.PGSQL.5432" failed: '

REFUSED = [
    TCP + 'FATAL:  password authentication failed for user "hpo"',
    TCP + "fe_sendauth: no password supplied",
    TCP + "FATAL:  SASL authentication failed",
    TCP + 'FATAL:  "trust" authentication failed',  # PgBouncer's
    TCP + 'FATAL:  Peer authentication failed for user "hpo"',
    TCP + 'FATAL:  database "hpo" does not exist',
    TCP + "FATAL:  no such database: hpo",  # PgBouncer's
    TCP + 'FATAL:  role "hpo" does not exist',
    TCP + 'FATAL:  role "hpo" is not permitted to log in',
    TCP + 'FATAL:  no pg_hba.conf entry for host "10.0.0.1", user "hpo", database "hpo", no encryption',
    TCP + 'FATAL:  permission denied for database "hpo"\nDETAIL:  User does not have CONNECT privilege.',
    TCP + "server does not support SSL, but SSL was required",
    TCP + "SSL error: certificate verify failed",
    TCP + 'server certificate for "a" (and 1 other name) does not match host name "db"',
    TCP + "FATAL:  unsupported startup parameter: options",  # PgBouncer's
    "connection is bad: " + SOCKET + "Permission denied",
]

OUTAGES = [
    TCP + "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
    TCP + "FATAL:  the database system is starting up",
    TCP + "FATAL:  sorry, too many clients already",
    TCP + 'FATAL:  too many connections for role "database x does not exist"',
    TCP + "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
    TCP + "FATAL:  pgbouncer cannot connect to server",
    TCP + "FATAL:  server login has been failing, try again later (server_login_retry)",
    TCP + "SSL SYSCALL error: EOF detected",
    TCP + "server closed the connection unexpectedly",
    "connection is bad: " + SOCKET + "No such file or directory",
    "failed to resolve host 'db': [Errno -3] Temporary failure in name resolution",
    "connection timeout expired",
]


@pytest.mark.parametrize("message", REFUSED)
def test_a_refusal_has_a_remedy(message: str) -> None:
    """Waiting does not mend it."""
    assert remedy(psycopg.OperationalError(message))


@pytest.mark.parametrize("message", OUTAGES)
def test_an_outage_has_none(message: str) -> None:
    """Whatever words stand in names and paths."""
    assert remedy(psycopg.OperationalError(message)) is None


def test_passwords_alone_are_read_again() -> None:
    """The first four of the refusals are about them; an error of a running connection is not."""
    assert [is_password(psycopg.OperationalError(message)) for message in REFUSED] == [True] * 4 + [False] * 12
    assert not is_password(psycopg.errors.InvalidPassword("password authentication failed"))
    assert remedy(psycopg.errors.InvalidPassword("password authentication failed"))
    assert remedy(psycopg.errors.AdminShutdown("the certificate")) is None
