"""A real `hpo dashboard` on a free port, and how tests ask it."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.commandline import PATIENCE

URL = re.compile(r"http://127\.0\.0\.1:(\d+)(\S*)")
HPO = [sys.executable, "-m", "hpo"]
TOKEN = "of-the-tests-dashboards"
BEARER = f"Bearer {TOKEN}"  # what `ask` sends unless a test gives another Authorization, or an empty one


@contextmanager
def dashboard(database: str, *words: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Start `hpo dashboard` on a free port and wait until it says its URL."""
    with served(database, *words) as (line, process):
        match = URL.search(line)
        assert match is not None
        yield int(match[1]), process


@contextmanager
def served(database: str, *words: str, token: str = TOKEN) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The same with this start-up token; the line that has the URL."""
    command = [*HPO, "--db", database, "dashboard", "--port", str(free_port()), *words]
    environment = os.environ | {"HPO_DASHBOARD_TOKEN": token}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        too_long = threading.Timer(PATIENCE, process.kill)  # ends the reading below
        too_long.start()
        try:
            said = []
            for line in process.stderr:
                said.append(line)
                if URL.search(line):
                    too_long.cancel()
                    yield line, process
                    break
            else:
                pytest.fail(f"the dashboard said no URL: {''.join(said)}")
        finally:
            too_long.cancel()
            process.kill()


def free_port() -> int:
    """One that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port: int = nobody.getsockname()[1]
        return port


def ask(port: int, path: str, method: str = "GET", body: object = None, **headers: str) -> tuple[int, str]:
    """Send one request with these headers (`_` for `-`), as the holder of TOKEN; returns status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    sent = {"Authorization": BEARER} | {name.replace("_", "-"): value for name, value in headers.items()}
    content = None if body is None else json.dumps(body)
    try:
        connection.request(method, path, content, {"Content-Type": "application/json"} | sent)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()
