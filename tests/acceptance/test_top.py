"""`hpo top` in a pipe and on a terminal, interrupted, and while the database is away."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from hpo.storage import claims
from hpo.storage.engine import open_engine
from hpo.storage.workers import beat_alone
from tests.support.beats import beat_of
from tests.support.commandline import Hpo, Said, finish, wait_until
from tests.support.handmade import DATA_DIGEST, make, small_spec
from tests.support.server import Server
from tests.support.terminal import on_a_terminal

WIDTH = {"COLUMNS": "140", "LINES": "40"}


@pytest.fixture
def fleet(hpo: Hpo) -> Hpo:
    """Studies in several phases, one blocked; a worker with two lanes at work, and one that is lost."""
    engine = open_engine(hpo.url)
    hpo.create(name="first")
    make(engine, small_spec("ws-aux", trials=8), limit=3)
    make(engine, small_spec("simple", trials=8), limit=8, fails=lambda slot: slot.idx > 3)
    make(engine, small_spec("ws", trials=4), data_digest="e" * 64)
    beat_alone(engine, beat_of("gpu-1:100:abc", data_digest=DATA_DIGEST, lanes=8), 600)
    beat_alone(engine, beat_of("gpu-2:7:def"), -1)
    claims.claim(engine, 2, worker="gpu-1:100:abc", lease_seconds=600, model="ws-aux")
    engine.dispose()
    return hpo


def test_once(fleet: Hpo, monkeypatch: pytest.MonkeyPatch) -> None:
    """What needs attention with its command, studies by phase, the worker by its whole name."""
    monkeypatch.setenv("COLUMNS", WIDTH["COLUMNS"])
    out = fleet("top", "--once").stdout
    assert "study simple stands still: 4 of 8 trials failed, more than a quarter: `hpo study resume simple`" in out
    assert "worker gpu-2:7:def has vanished" in out
    lines = {line.split()[0]: line for line in out.splitlines() if line and line[0] not in "! "}
    assert re.search(r"ws-aux +ws-aux +search +3/8 +0/9 +0/10 +\d\d\.\d\d% .* \[.*\]", lines["ws-aux"])
    assert re.search(r"ws +ws +done +4/4 +9/9 +(5/5|10/10) ", lines["ws"])
    assert "search (blocked)" in lines["simple"]
    assert re.search(r"gpu-1:100:abc +cpu +alive +ws-aux +2/8 ", out)
    order = [line.split()[0] for line in out.splitlines() if line.startswith(("ws", "simple", "first"))]
    assert order[-1] == "ws", "what is done comes last"


@pytest.mark.parametrize("width", [80, 110, 140])
def test_it_fits_the_terminal(fleet: Hpo, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    """No line is wider, and no word of a column is broken to letters."""
    monkeypatch.setenv("COLUMNS", str(width))
    out = fleet("top", "--once").stdout
    assert max(map(len, out.splitlines())) <= width
    assert len(out.splitlines()) < 30


def test_in_a_pipe_it_prints_again_and_ends_quietly(fleet: Hpo) -> None:
    """Without colours or control sequences; Ctrl-C is how it ends."""
    process = fleet.start("top", "--interval", "0.2")
    assert process.stdout is not None
    seen = 0
    while seen < 3:
        line = process.stdout.readline()
        assert line
        assert "\x1b" not in line
        seen += line.startswith("hpo top")
    process.send_signal(signal.SIGINT)
    _, err = finish(process)
    assert err == ""


def terminal_of(hpo: Hpo, *words: str) -> AbstractContextManager[tuple[subprocess.Popen[bytes], int]]:
    """A command on a terminal of 140 columns."""
    environment = {**os.environ, "HPO_DATABASE_URL": hpo.url, "TERM": "xterm-256color", **WIDTH}
    return on_a_terminal([sys.executable, "-m", "hpo", *words], hpo.folder, environment)


def read_until(terminal: int, words: str) -> str:
    """What is written to a terminal up to and with these words."""
    seen = ""
    while words not in seen:
        seen += os.read(terminal, 65536).decode(errors="replace")
    return seen


def rest_of(terminal: int) -> str:
    """What is written to a terminal until nobody has it any more, which Linux reports as an error."""
    seen = b""
    try:
        while piece := os.read(terminal, 65536):
            seen += piece
    except OSError:
        pass
    return seen.decode(errors="replace")


def test_on_a_terminal_it_is_live(fleet: Hpo) -> None:
    """Bars on a screen of its own, which changes with the database and is left behind as it was."""
    with terminal_of(fleet, "top", "--interval", "0.2") as (process, terminal):
        first = read_until(terminal, "gpu-1:100:abc")
        assert "\x1b[?1049h" in first, "the other screen"
        assert "━" in first
        assert "stands still" in first
        fleet("study", "pause", "ws-aux")
        read_until(terminal, "(paused)")
        process.send_signal(signal.SIGINT)
        last = rest_of(terminal)
        assert process.wait(30) == 0
        assert "\x1b[?1049l" in last
        assert "Traceback" not in last


@pytest.fixture
def server() -> Iterator[Server]:
    """A server that a test may stop."""
    with tempfile.TemporaryDirectory(prefix="hpo-pg-", ignore_cleanup_errors=True) as folder:
        restartable = Server(Path(folder))
        yield restartable
        restartable.close()


def test_a_database_that_is_away_is_waited_for(server: Server, tmp_path: Path) -> None:
    """In a pipe one line says so, on a terminal one above what was seen last; `--once` does not wait."""
    lab = Hpo(tmp_path, server.url)
    lab.create()
    process = lab.start("top", "--interval", "0.2")
    assert process.stdout is not None
    with terminal_of(lab, "top", "--interval", "0.2") as (live, terminal):
        read_until(terminal, "0/4")
        while not process.stdout.readline().startswith("hpo top"):
            pass
        said = Said(process)
        server.stop()
        wait_until(lambda: said.lines)
        read_until(terminal, "what is below was seen before")
        read_until(terminal, "0/4")
        assert "hpo: " in lab.refused("top", "--once")
        server.start()
        lab("study", "pause", "ws")
        read_until(terminal, "(paused)")
        while "(paused)" not in process.stdout.readline():
            pass
        for each in (process, live):
            each.send_signal(signal.SIGINT)
        finish(process)
        rest_of(terminal)
        assert live.wait(30) == 0
    assert len(said.lines) == 1
    assert said.lines[0].endswith("waiting for it\n")
    lab.close()
