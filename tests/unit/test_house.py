"""The house: imports go down its floors, some rooms know even less, and only the command line prints."""

import ast
import functools
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import pytest

from tests.support.imports import FLOORS, PACKAGE, Import, between_rooms, imports, table, upward

ROOT = PACKAGE.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

NOT_EVEN_DOWN: Mapping[tuple[str, str], str] = {
    ("storage", "training"): "only workers join the database and training",
    ("results", "training"): "reading results must not need torch",
    ("report", "training"): "reading results must not need torch",
    ("server", "training"): "the dashboard must start without torch",
    ("launch", "storage"): "launchers host workers, whatever they work on",
}


def normal(name: str) -> str:
    """A distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements: list[str]) -> set[str]:
    """The distributions that requirements name."""
    return {normal(re.split(r"[^A-Za-z0-9._-]", line)[0]) for line in requirements}


packages_distributions = functools.cache(metadata.packages_distributions)  # it reads every package's list of files


def third_party(actual: Import) -> bool:
    """Whether something is imported that neither Python nor this project brings."""
    return actual.name.partition(".")[0] not in {
        *sys.stdlib_module_names,
        "_typeshed",
        "hpo",
        "tests",
        "bench",
        "hatch_build",
    }


# --- Floors -------------------------------------------------------------------------------------------------


def test_imports_go_down() -> None:
    """No room imports one of its own floor or above, inside of functions and for types included."""
    assert [str(actual) for actual in upward(between_rooms())] == []


def test_nobody_imports_the_experiment_that_ships() -> None:
    """One line names it (`experiment/shipped.py`), and the command line's table has `hpo data` as a text."""
    assert [str(one) for one in between_rooms() if one.target == "digits"] == []
    naming = [
        str(path.relative_to(PACKAGE))
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent.name != "digits" and re.search(r"\bhpo\.digits\b", path.read_text())
    ]
    assert naming == ["cli/root.py", "experiment/shipped.py"]


def test_the_table_is_printed() -> None:
    """`python -m tests.support.imports` shows every room with its imports and agrees with the test above."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.imports"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == (1 if upward(between_rooms()) else 0)
    shown = {line.split()[0] for line in done.stdout.splitlines()[1:]}
    assert shown == {room for floor in FLOORS for room in floor}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("from hpo.storage import slots", False),
        ("from hpo.report.write import write", True),  # above
        ("from hpo import cli", True),
        ("def f():\n    import hpo.worker.job", True),
        ("from hpo.digits import pools", True),  # above
        ("from hpo.unheard import x", True),  # on no floor
        ("from hpo import __version__", False),
    ],
)
def test_an_upward_import_is_seen(tmp_path: Path, line: str, wrong: bool) -> None:
    """Each kind of import is recognised in a house made for it."""
    package = tmp_path / "hpo"
    for room in ("storage", "cli", "unheard"):
        (package / room).mkdir(parents=True)
    for room in ("report", "worker", "digits"):
        (package / f"{room}.py").write_text("")
    importer = "storage" if "digits" in line else "study"
    (package / f"{importer}.py").write_text(line)
    actual = between_rooms(package)
    assert len(actual) == 1
    assert bool(upward(actual)) is wrong
    assert importer in table(actual, package)


@pytest.mark.parametrize(("room", "target"), NOT_EVEN_DOWN)
def test_some_rooms_know_even_less(room: str, target: str) -> None:
    """A way down that is closed all the same."""
    actual = [str(one) for one in between_rooms() if (one.room, one.target) == (room, target)]
    assert actual == [], NOT_EVEN_DOWN[room, target]


def test_training_imports_torch_alone() -> None:
    """It runs on a bare GPU machine: no other room, and numpy for types alone (test_cli has a process without it).

    Triton comes with torch's builds for CUDA, and is loaded there alone.
    """
    inside = [one for one in imports() if one.room == "training"]
    assert {one.name.partition(".")[0] for one in inside if third_party(one)} <= {"torch", "numpy", "triton"}
    assert [str(one) for one in inside if one.target not in (None, "training")] == []


def test_nothing_but_one_default_names_the_digits() -> None:
    """And the command `hpo data`, which is theirs; both as text, so that no import leads to them."""
    named = {
        str(path.relative_to(PACKAGE)): lines
        for path in sorted(PACKAGE.rglob("*.py"))
        if not path.is_relative_to(PACKAGE / "digits")
        if (lines := [line.strip() for line in path.read_text().splitlines() if "hpo.digits" in line])
    }
    assert named == {
        "cli/root.py": ['"data": "hpo.digits.command:data",'],
        "experiment/shipped.py": ['PACKAGE, NAME = "hpo.digits", "digits"'],
    }


NUMBER_OF_FIGURES = "digits"  # of a decimal number: a parameter in `report/formats.py`


@pytest.mark.parametrize("room", ["analysis", "results", "report", "server"])
def test_what_shows_results_knows_no_experiment_by_name(room: str) -> None:
    """Neither a name, nor an import, nor a text has the digits' or their models'; what differs is asked of the spec."""
    known = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}"
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Name | ast.Attribute | ast.alias | ast.FunctionDef | ast.Constant)
        for text in (getattr(node, "id", getattr(node, "attr", getattr(node, "name", getattr(node, "value", "")))),)
        if isinstance(text, str) and re.search(r"digits|\bws\b|ws-aux", text, re.IGNORECASE)
        if text != NUMBER_OF_FIGURES or isinstance(node, ast.Attribute | ast.Constant)
    ]
    assert known == []


def test_packages_hold_only_their_docstring() -> None:
    """Nothing happens when a folder is imported; `hpo` and `hpo.digits` have names for users, loaded on use."""
    for path in PACKAGE.rglob("__init__.py"):
        if path.parent in (PACKAGE, PACKAGE / "digits"):
            continue
        first, *rest = ast.parse(path.read_text()).body
        assert isinstance(first, ast.Expr), path
        assert isinstance(first.value, ast.Constant), path
        assert rest == [], path


# --- Printing -----------------------------------------------------------------------------------------------


PRINTS = {  # of the Python functions, and the command of the digits
    Path("api/console.py"),
    Path("api/progress.py"),
    Path("digits/command.py"),
}


def printing(code: str) -> list[int]:
    """Lines that print, touch stdout or stderr, or import a library's way to print."""
    lines = []
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                lines.append(node.lineno)
            case ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr" | "__stdout__" | "__stderr__"):
                lines.append(node.lineno)
            case ast.ImportFrom(module="sys", names=names) if {"stdout", "stderr"} & {one.name for one in names}:
                lines.append(node.lineno)
            case ast.ImportFrom(module="rich" | "rich.console", names=names) if {"print", "Console"} & {
                one.name for one in names
            }:
                lines.append(node.lineno)
            case ast.ImportFrom(module="click" | "rich.progress"):
                lines.append(node.lineno)
            case ast.Import(names=names) if "click" in {one.name for one in names}:
                lines.append(node.lineno)
    return lines


def test_only_the_command_line_prints() -> None:
    """And progress from Python; everything else returns what it has to tell, raises it, or logs it."""
    actual = {
        path.relative_to(ROOT): lines
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.relative_to(PACKAGE) not in PRINTS
        if not path.is_relative_to(PACKAGE / "cli") and (lines := printing(path.read_text()))
    }
    assert actual == {}


@pytest.mark.parametrize(
    "code",
    [
        "print(1)",
        "import sys\nsys.stderr.write('')",
        "from sys import stdout",
        "import click",
        "from rich import print",
    ],
)
def test_printing_is_seen(code: str) -> None:
    """The check above can fail."""
    assert printing(code)


# --- Dependencies -------------------------------------------------------------------------------------------

RELEASED_WITH = {  # two halves of one thing: the second pins the first
    "pydantic-core": "pydantic",
    "botocore": "boto3",
    "triton": "torch",  # its builds for CUDA bring it
}
EXTRAS = {name for extra, lines in PROJECT["optional-dependencies"].items() if extra != "dev" for name in names(lines)}
OPTIONAL = {  # imported only where a user has it
    "pandas": "data frames; where it is missing, reading a CSV file says so",
}
NOT_IMPORTED = {  # of development: what runs as a command, or is imported by others
    "pytest-xdist": "pytest -n",
    "pytest-cov": "pytest --cov",
    "mypy": "a command",
    "ruff": "a command",
    "hatchling": "the build backend",
    "ipykernel": "a process",
    "nbclient": "imported by name, where a test needs it",
    "flask-cors": "moto's S3 server",
}


def distributions(actual: list[Import]) -> dict[str, str]:
    """The distribution of every third-party import, with one place that imports it."""
    brought = packages_distributions()
    used = {}
    for one in filter(third_party, actual):
        package = one.name.partition(".")[0]
        name = normal(brought.get(package, [package])[0])
        used[RELEASED_WITH.get(name, name)] = str(one)
    return used


def test_what_is_imported_is_declared() -> None:
    """Every package that hpo imports is among its dependencies, or behind an extra; none is there for nothing."""
    used = distributions(list(imports()))
    declared = names(PROJECT["dependencies"])
    extra = EXTRAS | OPTIONAL.keys()
    undeclared = {name: place for name, place in used.items() if name not in declared | extra}
    assert undeclared == {}
    assert declared - used.keys() == set()


def test_what_tests_import_is_declared() -> None:
    """Every package that tests and benchmarks import is among the dependencies or those of development."""
    used = distributions([one for folder in ("tests", "bench") for one in imports(ROOT / folder)])
    declared = names(PROJECT["dependencies"]) | names(PROJECT["optional-dependencies"]["dev"])
    undeclared = {name: place for name, place in used.items() if name not in declared}
    assert undeclared == {}
    only_dev = names(PROJECT["optional-dependencies"]["dev"]) - EXTRAS
    assert only_dev - used.keys() == NOT_IMPORTED.keys()


def test_constraints_pin_what_is_declared() -> None:
    """`make` installs the same versions everywhere: each dependency stands in constraints.txt."""
    pinned = names((ROOT / "constraints.txt").read_text().splitlines())
    declared = {*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]}
    assert names(sorted(declared)) <= pinned


# --- The version --------------------------------------------------------------------------------------------


def test_the_version_stands_once() -> None:
    """In hpo/__init__.py, from where the distribution has it; the changelog's newest entry is of this version."""
    import hpo

    assert "version" not in PROJECT
    assert PROJECT["dynamic"] == ["version"]
    assert PROJECT["name"] == "hpo-service"
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert newest is not None
    assert newest[1] == hpo.__version__
    assert importlib.util.find_spec("hpo") is not None
    assert (PACKAGE / "py.typed").exists()
