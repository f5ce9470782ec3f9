"""Standard streams as they come: closed, full, cut off, in an encoding that lacks characters. The work is done."""

import ast
import inspect
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.cli.streams import _IN_ASCII
from hpo.report import formats, terminal
from tests.support.commandline import DRAIN, PATIENCE, Hpo, train, wait_until


def shell(hpo: Hpo, *words: str | Path, redirected: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a command behind a shell's redirections."""
    line = shlex.join([sys.executable, "-m", "hpo", "--db", hpo.url, *map(str, words)])
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line} {redirected}"],
        cwd=hpo.folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        errors="replace",
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.parametrize("redirected", ["2>/dev/full", "2>&-", "<&- >&- 2>&-", "2>&1 >/dev/null | true"])
def test_lost_messages_cost_nothing(hpo: Hpo, redirected: str) -> None:
    """A full disk, a closed descriptor, a reader that is gone: the study is created and trained, exit code 0."""
    path = hpo.study(trials=1, confirm_rounds=1, rounds=1)
    for words in (("study", "create", "--file", path), DRAIN):
        done = shell(hpo, *words, redirected=redirected)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert hpo.show()["phase"] == "done"


def test_a_worker_without_streams_gives_its_slots_back(hpo: Hpo) -> None:
    """Its messages have nowhere to go; a signal ends it as it ends any other."""
    hpo.create(trials=1, epochs=200)
    line = shlex.join([sys.executable, "-m", "hpo", "--db", hpo.url, *DRAIN])
    worker = subprocess.Popen(
        ["bash", "-c", f"exec {line} <&- >&- 2>&-"], cwd=hpo.folder, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        wait_until(lambda: any(epoch for _, epoch, _ in hpo.running()))
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE) == 128 + signal.SIGTERM
    finally:
        worker.kill()
    assert hpo.running() == []


@pytest.mark.parametrize("words", [("study", "list"), ("--help",)])
def test_data_that_does_not_fit_is_an_error(hpo: Hpo, words: tuple[str, ...]) -> None:
    """What is asked for on stdout is data, and a full disk loses it: one line, exit code 1."""
    hpo.create()
    done = shell(hpo, *words, redirected=">/dev/full")
    assert (done.returncode, done.stderr) == (1, "hpo: No space left on device\n")


def test_any_encoding(hpo: Hpo) -> None:
    """Tables lose a character at most, never the command; JSON loses nothing."""
    hpo.create(trials=1, confirm_rounds=1, rounds=2)
    train(hpo)
    for words in (("study", "list"), ("report",)):
        done = shell(hpo, *words, redirected="", PYTHONIOENCODING="ascii")
        assert done.returncode == 0, done.stderr
        assert "?" not in done.stdout
    done = shell(hpo, "report", "--format", "json", redirected="", PYTHONIOENCODING="ascii")
    assert json.loads(done.stdout)["studies"]


def test_what_is_printed_has_its_like_in_ascii() -> None:
    """Every character of the terminal's tables that ASCII lacks."""
    sources = [ast.parse(inspect.getsource(module)) for module in (formats, terminal)]
    texts = [node.value for tree in sources for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    beyond = {character for text in texts if isinstance(text, str) for character in text if not character.isascii()}
    assert beyond
    assert beyond <= set(_IN_ASCII)
