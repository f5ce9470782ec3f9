"""A real PgBouncer in front of a PostgreSQL that runs."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import URL, make_url

from tests.support.commandline import wait_until

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")  # not everybody's PATH has it

_SETTINGS = """
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = {mode}
default_pool_size = {size}
"""


@contextmanager
def pgbouncer(url: str, mode: str, size: int) -> Iterator[str]:
    """The URL by which a PgBouncer with all its other settings as shipped leads to the database of `url`."""
    server = make_url(url)
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(prefix="hpo-pgbouncer-") as name, socket.socket() as unused:
        folder = Path(name)
        folder.chmod(0o755)  # it may run as another user
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        unused.close()
        host = server.host or str(server.query["host"])
        users = folder / "users"
        users.write_text(f'"{server.username}" "{server.password or ""}"\n')
        settings = folder / "pgbouncer.ini"
        at = f"host={host} port={server.port or server.query.get('port', 5432)}"
        settings.write_text(_SETTINGS.format(server=at, port=port, users=users, mode=mode, size=size))
        with (folder / "log").open("w") as log:
            process = subprocess.Popen([PROGRAM, *_as_another_user(host), settings], stdout=log, stderr=log)
        try:
            wait_until(lambda: _listens(port) or process.poll() is not None)
            assert process.poll() is None, (folder / "log").read_text()
            local = URL.create("postgresql+psycopg", server.username, None, "127.0.0.1", port, server.database)
            yield local.render_as_string(hide_password=False)
        finally:
            process.terminate()
            process.wait()


def _as_another_user(host: str) -> list[str]:
    """The superuser cannot run it; who owns the server's socket can reach that."""
    if os.geteuid() != 0:
        return []
    return ["-u", pwd.getpwuid(Path(host).stat().st_uid).pw_name if host.startswith("/") else "nobody"]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
