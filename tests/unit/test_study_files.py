"""Files that a user names as a study: whatever they hold, the answer comes at once and is one line."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hpo.errors import SpecError
from hpo.files import MOST_BYTES
from hpo.study.spec import MODELS, builtin_spec, load_spec, to_toml

AT_ONCE = 60  # seconds, on a busy machine; without a bound each of these takes minutes or never ends
DOTS = "a." * 140


@contextmanager
def at_once() -> Iterator[None]:
    """Fail where the block takes too long, even in a system call."""

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"no answer within {AT_ONCE} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(AT_ONCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(path: Path) -> str:
    """The one line that a file gets."""
    with at_once(), pytest.raises(SpecError) as caught:
        load_spec(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < 500
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("#" * (MOST_BYTES + 1), f"cannot be read: larger than {MOST_BYTES:,} bytes"),
        ("#" * MOST_BYTES, "model: missing"),
        ("a = " + "[" * 100_000, "not a TOML file: line 1 has more than 300 characters"),
        ("a = " + "[\n" * 100_000, "not a study: nested too deeply"),
        ("a = " + "[" * 140 + "]" * 140, "a: unknown key"),
        ("a = " + "{a=" * 90 + "1", "not a TOML file: "),
        ("a." * 400_000 + "a = 1", "not a TOML file: line 1 has more than 300 characters"),
        ("\n".join(f"{DOTS}a{i} = 1" for i in range(3000)), "a: unknown key"),
        ("\n".join(f"[{DOTS}a{i}]" for i in range(3000)), "a: unknown key"),
        ("[[a]]\n" * 160_000, "a: unknown key"),
        ("\n".join(f"k{i} = 1" for i in range(70_000)), "k0: unknown key"),
        ("seed = " + "9" * 5000, "not a TOML file: line 1 has more than 300 characters"),
        ("seed = " + "9" * 290, "model: missing"),
        ("seed = 0x" + "f" * 290, "model: missing"),
        ("budget.epochs = 1e999", "model: missing"),
        ('{"a": ' * 90_000, "not a study: nested too deeply"),
        ('{"a": ' + "[" * 100_000, "not a study: nested too deeply"),
        ('{"a": ' + "[" * 900 + "]" * 900 + "}", "a: unknown key|not a study: nested too deeply"),
        ('{"seed": ' + "9" * 5000 + "}", "not a JSON file: Exceeds the limit"),
        ('{"seed": ' + "9" * 4299 + "}", "model: missing"),
        ('{"model": "ws", "model": "ws"}', 'not a JSON file: key "model" comes twice'),
        ("{" + ", ".join(f'"k{i}": 1' for i in range(60_000)) + "}", "k0: unknown key"),
        ('{"seed": NaN}', "model: missing"),
        ("{", "not a JSON file: Expecting property name"),
        ("", "model: missing"),
        ("[]", "not a TOML file: "),
        ("\0", "not a TOML file: "),
    ],
    ids=range(27),
)
def test_contents(tmp_path: Path, content: str, reason: str) -> None:
    """Too large, too deep, too many digits, and what is slow to parse."""
    path = tmp_path / "study.toml"
    path.write_text(content)
    message = refused(path)
    assert any(message.startswith(start) for start in reason.split("|"))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (os.mkfifo, "not a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
        (lambda path: path.symlink_to("/dev/null"), "not a regular file"),
        (lambda path: path.symlink_to("/dev/tty"), "not a regular file|No such device or address"),
        (Path.mkdir, "Is a directory"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ],
    ids=["pipe", "zero", "null", "terminal", "folder", "loop"],
)
def test_what_is_no_file(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    """A pipe is not waited for, a device not read."""
    path = tmp_path / "study.toml"
    make(path)
    assert refused(path).removeprefix("cannot be read: ") in reason.split("|")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300) | st.text(alphabet='{}[]".=, \n\\u01ae#', max_size=300).map(str.encode))
@example(content=b"\xef\xbb\xbfmodel = 'ws'")
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    """Whatever a file holds, it is a study or one line."""
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("model", MODELS)
def test_both_formats_are_read_back(tmp_path: Path, model: str) -> None:
    """What `study export` writes as TOML or as JSON, with a [tuned] configuration and without, is the same study."""
    spec = builtin_spec(model)
    tuned = type(spec).model_validate({**spec.model_dump(), "tuned": spec.paper})
    for each in (spec, tuned):
        for text in (to_toml(each), each.model_dump_json(indent=2) + "\n", each.model_dump_json(), each.canonical()):
            path = tmp_path / "study"
            path.write_text(text)
            assert load_spec(path) == each


def test_long_comments_are_no_fault(tmp_path: Path) -> None:
    """People do not wrap what they write."""
    path = tmp_path / "study.toml"
    path.write_text("  # " + "long " * 300 + "\n" + to_toml(builtin_spec("ws")))
    assert load_spec(path) == builtin_spec("ws")
