"""Names: a class stands for one thing in all of hpo, and nothing is named by a word that says nothing."""

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import pytest

import hpo

ROOT = Path(hpo.__file__).parent


def type_names(source: str) -> Iterable[str]:
    """Classes, nested ones too, and public type aliases, which are assignments to capitalised names."""
    tree = ast.parse(source)
    yield from (node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    for node in tree.body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        yield from (name for name in names if name[0].isupper() and not name.isupper())


def shared(sources: dict[str, str]) -> dict[str, list[str]]:
    """Names that stand in more than one place, and the places."""
    places = defaultdict(list)
    for path, source in sources.items():
        for name in type_names(source):
            places[name].append(path)
    return {name: paths for name, paths in places.items() if len(paths) > 1}


def test_no_two_types_share_a_name() -> None:
    sources = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
    assert len(sources) > 100
    assert shared(sources) == {}


def test_shared_names_are_seen() -> None:
    """Two classes, a class and an alias; constants and private names of one file do not count."""
    sources = {"a.py": "class Side: ...\nKind = str\nX = 1", "b.py": "Side = int\nclass A:\n    class Kind: ...\nX = 2"}
    assert shared(sources) == {"Side": ["a.py", "b.py"], "Kind": ["a.py", "b.py"]}


VAGUE = {"one", "own", "found", "say", "says", "mend", "mends", "walk", "told"}
ALLOWED = {"told", "mark_told"}  # a column, after Optuna's ask and tell


def vague_names(source: str) -> Iterable[str]:
    """What a source defines under a name with one of these words; `one` as a loop variable is no fault."""
    tree = ast.parse(source)
    loops = {
        id(name)
        for node in ast.walk(tree)
        if isinstance(node, ast.For | ast.comprehension)
        for name in ast.walk(node.target)
        if isinstance(name, ast.Name) and name.id == "one"
    }
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) if id(node) not in loops:
                pass
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                pass
            case ast.Attribute(attr=name, ctx=ast.Store()):
                pass
            case _:
                continue
        if name not in ALLOWED and not name.startswith("test_") and VAGUE & set(name.lower().split("_")):
            yield name


@pytest.mark.parametrize("folder", ["hpo", "tests", "bench"])
def test_names_say_what_they_name(folder: str) -> None:
    """Names of tests are sentences, and left out."""
    paths = [*(ROOT.parent / folder).rglob("*.py")]
    assert len(paths) > 10
    named = {str(path): list(vague_names(path.read_text(encoding="utf-8"))) for path in paths}
    assert {path: names for path, names in named.items() if names} == {}


def test_vague_names_are_seen() -> None:
    """A function, a parameter, a variable, an attribute; not a loop variable, not a word within a word."""
    source = (
        "def say(own): own_slots = 1; self.told_by = 2\nfor one in x: y = [one for one in x]\nfounder = 1\ntold = 3"
    )
    assert sorted(vague_names(source)) == ["own", "own_slots", "say", "told_by"]
