"""A real sshd on loopback, with keys and settings of its own."""

import os
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.commandline import wait_until

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")  # not everybody's PATH has it
needs_sshd = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None,
    reason="OpenSSH's server or client is not installed (Debian: apt-get install openssh-server openssh-client)",
)

_SERVER = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
"""
_CLIENT = """
Host lab1 lab2
  Port {port}
Host nobody
  Port 1
Host *
  HostName 127.0.0.1
  IdentityFile {folder}/user
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
"""


@contextmanager
def sshd() -> Iterator[str]:
    """The command that reaches this machine as the hosts lab1 and lab2, and as `nobody` where nobody listens."""
    assert SSHD is not None
    with tempfile.TemporaryDirectory(prefix="hpo-sshd-") as name, socket.socket() as unused:
        folder = Path(name)
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        unused.close()
        for key in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / key], check=True)
        (folder / "server").write_text(_SERVER.format(folder=folder, port=port))
        (folder / "client").write_text(_CLIENT.format(folder=folder, port=port))
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # of Debian's build, for the process without rights
        with (folder / "log").open("w") as log:
            process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "server"], stdout=log, stderr=log)
        try:
            wait_until(lambda: "Server listening" in (folder / "log").read_text() or process.poll() is not None)
            assert process.poll() is None, (folder / "log").read_text()
            yield shlex.join(["ssh", "-F", str(folder / "client")])
        finally:
            process.terminate()
            process.wait()
