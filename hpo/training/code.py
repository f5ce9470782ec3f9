"""Which code trains: a digest of it, equal where the same training gives the same numbers on the same machine.

Comments, docstrings and layout do not count, nor does the version of Python. torch's version is left out, as the device
is: another one rounds otherwise, but it means the same training, and a fleet is not upgraded in one moment. An outcome
records both.
"""

import ast
import functools
import hashlib
import threading
from collections.abc import Iterable
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# Beside what trains: how images become numbers, and which draws and seeds a training has.
_PARTS = "draws", "lanes", "models", "pools", "recipes"  # of the experiment that ships
_SOURCES = ("training/**/*.py", *(f"digits/{part}.py" for part in _PARTS), "worker/job.py")


def sources() -> list[Path]:
    """The files that decide the numbers of a training."""
    return sorted(path for pattern in _SOURCES for path in _PACKAGE.glob(pattern))


def code_digest() -> str:
    """The digest of the code that trains, as it was when this was first asked for; 64 hexadecimal digits."""
    with _once:
        return _code_digest()


_once = threading.Lock()  # threads that ask at once wait for one answer


@functools.cache
def _code_digest() -> str:
    return digest_of((str(path.relative_to(_PACKAGE)), path.read_text(encoding="utf-8")) for path in sources())


def digest_of(files: Iterable[tuple[str, str]]) -> str:
    """The digest of sources, each with its name."""
    digest = hashlib.sha256()
    for name, source in files:
        digest.update(f"{name}\n".encode())
        words: list[str] = []
        _outline(ast.parse(source), words)
        digest.update("".join(f"{word}\0" for word in words).encode())
    return digest.hexdigest()


def _outline(node: object, words: list[str]) -> None:
    """Add a syntax tree as words. What is empty is left out: later versions of Python know more fields."""
    if isinstance(node, ast.AST):
        words.append(f"({type(node).__name__}")
        for name, value in ast.iter_fields(node):
            if name == "body":
                value = _without_docstring(node, value)
            if value is not None and value != []:
                words.append(f"{name}=")
                _outline(value, words)
        words.append(")")
    elif isinstance(node, list):
        words.append("[")
        for item in node:
            _outline(item, words)
        words.append("]")
    else:
        words.append(repr(node))


def _without_docstring(node: ast.AST, body: object) -> object:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return node.body[ast.get_docstring(node, clean=False) is not None :]
    return body
