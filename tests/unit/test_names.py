"""Names of classes: each stands for one thing in all of hpo."""

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

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
