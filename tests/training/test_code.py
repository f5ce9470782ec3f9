"""The identity of the code that trains."""

from pathlib import Path

import pytest

import hpo
from hpo.training.code import code_digest, digest_of, sources

SOURCE = '''"""A module."""
RATE = 0.9

def step(x, *, rate=None):
    """Doc."""
    return f"{x!r}" if rate is None else x * rate
'''


def test_all_that_trains_is_in_it() -> None:
    """Every file of hpo.training, and those that make its numbers elsewhere; asked twice, it is the same."""
    names = {str(path.relative_to(Path(hpo.__file__).parent)) for path in sources()}
    package = Path(hpo.__file__).parent
    files = {path for path in (package / "training").rglob("*") if path.suffix == ".py"}
    assert {str(path.relative_to(package)) for path in files} <= names
    assert {
        *(f"digits/{part}.py" for part in ("draws", "lanes", "models", "pools", "recipes")),
        "worker/job.py",
    } <= names
    assert code_digest() == code_digest()
    assert len(code_digest()) == 64


@pytest.mark.parametrize(
    ("old", "new", "equal"),
    [
        ("RATE = 0.9", "RATE = 0.9  # of decay", True),
        ('"""Doc."""', '"""Another."""', True),
        ('"""A module."""\n', "", True),
        ('    """Doc."""\n', "", True),
        ("RATE = 0.9", "RATE  =  .9", True),
        ("RATE = 0.9", "RATE = 0.99", False),
        ("RATE = 0.9", "RATE = -0.9", False),
        ("RATE = 0.9", "RATE = '0.9'", False),
        ("RATE = 0.9", "", False),
        ("x * rate", "rate * x", False),
        ("rate=None", "rate=0", False),
        ("*, rate", "rate", False),
        ("!r", "!s", False),
        ("return f", "yield f", False),
        ('"""A module."""', "'''A module.'''; 'a string'", False),
    ],
)
def test_what_counts(old: str, new: str, equal: bool) -> None:
    """What the program does; not how it is written down."""
    assert old in SOURCE
    changed = SOURCE.replace(old, new, 1)
    assert (digest_of([("a.py", changed)]) == digest_of([("a.py", SOURCE)])) is equal


def test_names_and_places_count() -> None:
    """A file under another name, and code that has moved from one file to the other."""
    assert digest_of([("a.py", SOURCE)]) != digest_of([("b.py", SOURCE)])
    assert digest_of([("a.py", "x = 1"), ("b.py", "")]) != digest_of([("a.py", ""), ("b.py", "x = 1")])


def test_every_python_has_the_same() -> None:
    """The digest of a small source is the same constant whatever version runs this test."""
    assert digest_of([("a.py", SOURCE)]) == "088ca7d50cab736d0b1932ec75e8f58c0487ba37ba909e0b7ba4cf7935d9710c"
