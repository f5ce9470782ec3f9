"""Every import between the folders of `hpo`, as a table: `python -m tests.support.imports`; exit code 1 if one goes up.

A room is a folder of `hpo`, or a module beside the folders. Imports inside functions and those for type checkers count:
whoever names another room cannot be understood, or moved, without it.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "hpo"

FLOORS: tuple[tuple[str, ...], ...] = (  # top down; a room imports from lower floors alone
    ("__main__",),
    ("digits",),  # an experiment: it uses what users' files use and more, and nobody imports it
    ("cli",),
    ("launch", "worker"),
    ("server",),
    ("report",),
    ("analysis",),
    ("results",),
    ("study",),
    ("experiment",),
    ("storage",),
    ("training",),
    ("files", "machine", "text"),
    ("errors",),
    ("__init__",),
)
HEIGHT = {room: -floor for floor, rooms in enumerate(FLOORS) for room in rooms}


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """One imported name."""

    file: Path  # relative to the package's parent
    line: int
    name: str  # in full: "torch.nn", "hpo.storage.slots.finish"
    room: str  # of the importing module
    target: str | None  # the imported room; None where the name is not one of this package's

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name}"


def imports(package: Path = PACKAGE) -> Iterator[Import]:
    """Every import of the package, file by file."""
    rooms = {path.stem for path in package.iterdir()}
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package.parent)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for name in _names(node):
                top, room = [*name.split("."), ""][:2]
                yield Import(
                    file=file,
                    line=getattr(node, "lineno", 0),
                    name=name,
                    room=Path(file.parts[1]).stem,
                    target=None if top != package.name else room if room in rooms else "__init__",
                )


def _names(node: ast.AST) -> list[str]:
    """The fully qualified names that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute in this project"
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def between_rooms(package: Path = PACKAGE) -> list[Import]:
    """The imports of one room by another."""
    return [one for one in imports(package) if one.target is not None and one.target != one.room]


def upward(actual: list[Import]) -> list[Import]:
    """Those that do not go down, or touch a room that has no floor yet; `hpo` itself shows what is in `experiment`."""
    return [
        one
        for one in actual
        if (one.room, one.target) != ("__init__", "experiment")
        if one.room not in HEIGHT or one.target not in HEIGHT or HEIGHT[one.room] <= HEIGHT[one.target]
    ]


def table(actual: list[Import], package: Path = PACKAGE) -> str:
    """The rooms top down: files and lines of Python, and what each imports how often."""
    counts = Counter((one.room, one.target) for one in actual)
    lines = [f"{'room':10} {'files':>5} {'lines':>6}  imports"]
    for room in sorted({*HEIGHT} | {one.room for one in actual}, key=lambda room: -HEIGHT.get(room, 1)):
        files = sorted((package / room).rglob("*.py")) or [package / f"{room}.py"]
        files = [file for file in files if file.exists()]
        size = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        arrows = [f"{target} {n}" for (source, target), n in counts.most_common() if source == room]
        lines.append(f"{room:10} {len(files):5} {size:6}  {', '.join(arrows) or '-'}")
    return "\n".join(lines)


def main() -> int:
    """Print the table, and on stderr every import that goes up."""
    actual = between_rooms()
    print(table(actual))
    wrong = upward(actual)
    for one in wrong:
        print(f"upward: {one}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
