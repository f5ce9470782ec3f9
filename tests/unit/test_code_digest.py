"""Digests of a model's code: what it reaches counts, and nothing else."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpo.experiment import code

FILE = '''
"""A user's file."""
import numpy as np
from sklearn.svm import SVC
import digest_parts
from digest_parts import scaled
import functools

RATE = 0.1
UNUSED = 3
settings = {}
settings["depth"] = 3
np.seterr(all="ignore")

def helper(x):
    return x * RATE

def first(run):
    """What it does."""
    return helper(run)

def second(run, UNUSED=1):
    net = UNUSED  # a local name
    return SVC().fit(digest_parts.centred(run), net)

def third(run):
    return scaled(run), settings["depth"]

class Net:
    width = 4
    def forward(self, x):
        return helper(x)

def fourth(run):
    return Net()

def made(depth):
    def train(run):
        return depth, run
    return train

fifth = made(3)
sixth = functools.partial(third, depth=2)
seventh = lambda run: helper(run)
net = first
'''
PARTS = """
import math

def scaled(x):
    return _shared(x) / 2

def centred(x):
    return _shared(x) - 1

def _shared(x):
    return math.sqrt(x)

def idle(x):
    return x
"""
NAMES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    forget()


def forget() -> None:
    sys.modules.pop("digest_user", None)
    sys.modules.pop("digest_parts", None)
    code._source.cache_clear()
    importlib.invalidate_caches()


def digests(folder: Path, file: str = FILE, parts: str = PARTS) -> dict[str, str]:
    forget()
    (folder / "digest_user.py").write_text(file)
    (folder / "digest_parts.py").write_text(parts)
    module = importlib.import_module("digest_user")
    return {name: code.code_digest(getattr(module, name)) for name in NAMES}


def changed(folder: Path, file: tuple[str, str] = ("", ""), parts: tuple[str, str] = ("", "")) -> set[str]:
    """The models whose digests a change of the files changes."""
    before = digests(folder)
    assert file[0] in FILE
    assert parts[0] in PARTS
    after = digests(folder, FILE.replace(*file) if file[0] else FILE, PARTS.replace(*parts) if parts[0] else PARTS)
    return {name for name in NAMES if before[name] != after[name]}


def test_models_have_digests_of_their_own(folder: Path) -> None:
    """The same again in the same files, and all different."""
    first = digests(folder)
    assert len(set(first.values())) == len(NAMES)
    assert digests(folder) == first


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (("  # a local name", ""), set()),
        (('"""What it does."""', '"""Something else."""'), set()),
        (("UNUSED = 3", "UNUSED = 4"), set()),
        (("return helper(run)\n\ndef second", "return helper(run) + 1\n\ndef second"), {"first"}),
        (("RATE = 0.1", "RATE = 0.2"), {"first", "fourth", "seventh"}),
        (("x * RATE", "RATE * x"), {"first", "fourth", "seventh"}),
        (("width = 4", "width = 5"), {"fourth"}),
        (("import SVC", "import LinearSVC as SVC"), {"second"}),
        (('settings["depth"] = 3', 'settings["depth"] = 4'), {"third", "sixth"}),
        (("made(3)", "made(4)"), {"fifth"}),
        (("return depth, run", "return run, depth"), {"fifth"}),
        (("depth=2", "depth=5"), {"sixth"}),
        (("lambda run: helper(run)", "lambda run: helper(2 * run)"), {"seventh"}),
        (('all="ignore"', 'all="raise"'), set(NAMES)),
        (("net = first", "net = second"), set()),
    ],
)
def test_what_is_reached_counts(folder: Path, file: tuple[str, str], expected: set[str]) -> None:
    """By name, through other definitions; what acts on import counts for all."""
    assert changed(folder, file) == expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("return x\n", "return -x\n"), set()),
        (("- 1", "- 2"), {"second"}),
        (("/ 2", "/ 3"), {"third", "sixth"}),
        (("sqrt", "log"), {"second", "third", "sixth"}),
    ],
)
def test_neighbours_that_are_imported_count(folder: Path, parts: tuple[str, str], expected: set[str]) -> None:
    """Names of a module, and a module's names by attribute."""
    assert changed(folder, parts=parts) == expected


def test_a_library_is_no_file_of_the_users(folder: Path) -> None:
    """Neither Python's own modules nor installed ones, nor hpo."""
    digests(folder)
    assert {path.name for path in code.users_files()} >= {"digest_user.py", "digest_parts.py"}
    assert not [path for path in code.users_files() if "site-packages" in path.parts or "hpo" in path.parts]
