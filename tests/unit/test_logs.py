"""The log: every line says when, how grave and whose; for machines it is JSON; a full disk costs lines alone."""

import io
import json
import logging
import re
import sys
from collections.abc import Iterator

import pytest

from hpo.cli import logs

PLAIN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (INFO|WARNING|ERROR) +(ab12 )?(\S.*)")


@pytest.fixture(autouse=True)
def _logger_as_it_was() -> Iterator[None]:
    logger = logging.getLogger("hpo")
    before = logger.handlers[:], logger.level, logger.propagate, logging.raiseExceptions
    yield
    logger.handlers[:], logger.level, logger.propagate, logging.raiseExceptions = before


def test_a_plain_line_says_when_and_who(capsys: pytest.CaptureFixture[str]) -> None:
    """Time, level, the worker's short name, message; stdout is for data."""
    logs.install("auto", 0, "ab12")
    logging.getLogger("hpo.worker.worker").info("trial %d: 100%%", 3)
    out, err = capsys.readouterr()
    assert out == ""
    match = PLAIN.fullmatch(err.rstrip("\n"))
    assert match is not None
    assert match.groups() == ("INFO", "ab12 ", "trial 3: 100%")


def test_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """One object a line, whatever the message holds."""
    logs.install("json", 0, "ab12")
    try:
        raise ValueError("x\ny")
    except ValueError:
        logging.getLogger("hpo.worker").exception('a "quoted"\nline')
    (line,) = capsys.readouterr().err.splitlines()
    fields = json.loads(line)
    assert fields["message"] == 'a "quoted"\nline'
    assert (fields["level"], fields["logger"], fields["worker"]) == ("error", "hpo.worker", "ab12")
    assert "ValueError: x" in fields["exception"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", fields["time"])


@pytest.mark.parametrize(
    ("verbosity", "shown"),
    [
        (-2, ["error"]),
        (-1, ["warning", "error"]),
        (0, ["info", "warning", "error"]),
        (5, ["debug", "info", "warning", "error"]),
    ],
)
def test_verbosity(verbosity: int, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """-q and -v, as often as one likes; a handler that is installed again replaces the first."""
    logs.install("plain", 0)
    logs.install("plain", verbosity)
    for level in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("hpo.x"), level)(level)
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == shown


def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, a closed pipe, a terminal that is gone."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    logs.install("plain", 0)
    logging.getLogger("hpo.worker").error("lost")
