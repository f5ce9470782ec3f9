"""What comes from a database or another program is shown and not obeyed; passwords are not shown at all."""

import logging
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from hpo.api.console import console
from hpo.cli import logs
from hpo.cli.context import print_message, print_table
from hpo.text import exception_of, listed, visible, without_credentials

HOSTILE = "ws\x1b[31mred\x07\x9b2J\u202egnp.\x08"
SHOWN = r"ws\x1b[31mred\x07\x9b2J\u202egnp.\x08"


@pytest.fixture(autouse=True)
def _logger_as_it_was() -> Iterator[None]:
    logger = logging.getLogger("hpo")
    before = logger.handlers[:], logger.level, logger.propagate, logging.raiseExceptions
    yield
    logger.handlers[:], logger.level, logger.propagate, logging.raiseExceptions = before


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    """But line ends and tabs; printable text is as it was."""
    shown = visible(text)
    assert {unicodedata.category(character) for character in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"} <= {"Cc"}
    assert not any(unicodedata.category(character) == "Cc" for character in shown if character not in "\n\t")
    assert visible(shown) == shown
    if text.isprintable():
        assert shown == text


@pytest.mark.parametrize("part", [HOSTILE, Text(HOSTILE), Text(HOSTILE, style="red")], ids=["str", "Text", "styled"])
def test_tables_show_names_harmless(capsys: pytest.CaptureFixture[str], part: str | Text) -> None:
    """Whole where the cell is text, as all names are; the bars on stderr have the same console."""
    table = Table("study", "phase", box=None)
    table.add_row(part, "search")
    print_table(table)
    console(err=True).print(part)
    for output in capsys.readouterr():
        assert "\x1b" not in output
        assert visible(output) == output
        assert (SHOWN if isinstance(part, str) else SHOWN[:10]) in output


@pytest.mark.parametrize("form", ["auto", "plain", "json"])
def test_messages_and_the_log_too(capsys: pytest.CaptureFixture[str], form: logs.LogFormat) -> None:
    """Errors name studies; a worker logs whatever its database holds."""
    print_message(f"study {HOSTILE}: paused")
    logs.install(form, 0)
    logging.getLogger("hpo.worker.worker").warning("study %s is set aside", HOSTILE)
    message, logged = capsys.readouterr().err.splitlines()
    assert message == f"study {SHOWN}: paused"
    assert "\x1b" not in logged
    assert "\x9b" not in logged
    assert form == "json" or SHOWN in logged


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('no answer: "http://me:secret@host:9000/x"', 'no answer: "http://***@host:9000/x"'),
        ("https://me:sec@ret@host/a, s3://b/c", "https://***@host/a, s3://b/c"),
        ("http://secret@host: down; http://host: down", "http://***@host: down; http://host: down"),
        ("mail me@host", "mail me@host"),
    ],
)
def test_passwords_in_urls(text: str, shown: str) -> None:
    """Whatever stands between :// and the last @ of a URL."""
    assert without_credentials(text) == shown


TRACEBACK = 'Traceback (most recent call last):\n  File "a.py", line 1, in f\n    f()\n    ~^^\n'


@pytest.mark.parametrize(
    ("error", "line"),
    [
        ("", ""),
        ("  \n", ""),
        ("the lease expired 3 times; last worker: x", "the lease expired 3 times; last worker: x"),
        (TRACEBACK + "ValueError: no\n", "ValueError: no"),
        (TRACEBACK + "CUDA error: lost\nmay be asynchronous\n  Compile with DSA.\n\n", "CUDA error: lost"),
        (TRACEBACK + "KeyError: 1\n\nDuring its handling:\n\n" + TRACEBACK + "E: last\nx", "E: last"),
        (TRACEBACK + "  [Previous line repeated 9 more times]\nRecursionError", "RecursionError"),
        (TRACEBACK, "~^^"),
        ("Traceback\n  cut\nValueError: no", "ValueError: no"),
    ],
)
def test_a_traceback_in_one_line(error: str, line: str) -> None:
    assert exception_of(error) == line


@pytest.mark.parametrize(
    ("names", "text"),
    [([], ""), (["a"], "a"), (["a", "b", "c"], "a, b, c"), (list("abcdefghijklmn"), "a, b, c and 11 more")],
)
def test_of_many_names_the_first_are_listed(names: list[str], text: str) -> None:
    assert listed(names) == text
