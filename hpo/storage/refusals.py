"""What a PostgreSQL server, PgBouncer or libpq refuses for good, and what mends it; anything else is an outage.

A connection that fails has no SQLSTATE in libpq, so its message is read. From a server that speaks another language
than English nothing is recognised: its refusal is waited for as if it were an outage.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

_PASSWORD = r"(?<!Peer )(?<!Ident )authentication failed|no password supplied"
_NO_DATABASE = "give the name of a database that exists, or make it with `createdb`"
_CONNECTING = {  # what the message has, without its quoted names -> what to do
    _PASSWORD: "give the role and its password in the URL, in HPO_DATABASE_URL_FILE's file or as PGPASSWORD",
    r"role .* does not exist|not permitted to log in": "give the name of a role that may log in",
    r"database .* does not exist|no such database": _NO_DATABASE,
    r"permission denied for database": "GRANT CONNECT ON DATABASE to the role, or give another role",
    r"pg_hba\.conf|(Peer|Ident) authentication failed|login rejected": (
        "let the server's pg_hba.conf allow this machine, role and database"
    ),
    r"certificate|private key file|but SSL|authentication method requirement": (
        "correct what the connection asks for: sslmode, sslrootcert, require_auth"
    ),
    r"^Permission denied": "let this user reach the server, or give another host",
    r"unrecognized configuration parameter|unsupported startup parameter|permission denied to set parameter"
    r"|invalid .*(value|option|number|argument)|bad value for|parameter .* cannot be|definition of service": (
        "correct or leave out that parameter: in the URL, in PGOPTIONS or another variable of libpq"
    ),
}
_RUNNING = {  # SQLSTATE -> what to do
    "28000": "give the name of a role that may log in",
    "28P01": _CONNECTING[_PASSWORD],
    "3D000": _NO_DATABASE,
    "3F000": "make the schema that search_path names, or name another",
    "42501": "grant it to the role, or use the role that owns the tables",
}


def is_password(error: "psycopg.Error") -> bool:
    """Whether a connection failed by the role's password."""
    return error.sqlstate is None and bool(re.search(_PASSWORD, _bare(error)))


def remedy(error: "psycopg.Error") -> str | None:
    """What to do about a refusal; None where the error is none, so that waiting may help."""
    if error.sqlstate is not None:
        return _RUNNING.get(error.sqlstate)
    text = _bare(error)
    return next((action for words, action in _CONNECTING.items() if re.search(words, text)), None)


def _bare(error: "psycopg.Error") -> str:
    """The reason alone: without where, and without names, which may be any words."""
    first = (str(error).splitlines() or [""])[0]  # of several hosts the last one's
    return re.sub(
        r'"[^"]*"', '""', re.sub(r"^connection (failed|is bad): (connection to server .*? failed: )?", "", first)
    )
