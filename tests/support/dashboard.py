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

HPO = [sys.executable, "-m", "hpo"]
TOKEN = "of-the-tests-dashboards"
BEARER = f"Bearer {TOKEN}"  # what `ask` sends unless a test gives another Authorization, or an empty one


@contextmanager
def dashboard(database: str, *words: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Start `hpo dashboard` on a free port and wait until it says its URL."""
    command = [*HPO, "--db", database, "dashboard", "--port", str(free_port()), *words]
    environment = os.environ | {"HPO_DASHBOARD_TOKEN": TOKEN}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        too_long = threading.Timer(PATIENCE, process.kill)  # ends the reading below
        too_long.start()
        try:
            told = []
            for line in process.stderr:
                told.append(line)
                if url := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                    too_long.cancel()
                    yield int(url[1]), process
                    break
            else:
                pytest.fail(f"the dashboard said no URL: {''.join(told)}")
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
