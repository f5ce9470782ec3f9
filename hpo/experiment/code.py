"""Which code of a user's a model runs: a digest of the definitions that it reaches by name in their own files.

Comments, layout and docstrings do not count, nor does what another model alone reaches. Libraries count by the names
that are imported from them; their versions are recorded elsewhere.
"""

import ast
import functools
import inspect
import symtable
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from hpo.training.code import digest_of

_HPO = Path(__file__).parents[1]
_SEED_NAMES = frozenset({"random_state", "seed", "random_seed"})  # arguments
_SEED_CALLS = frozenset({"seed", "manual_seed", "default_rng", "RandomState", "Generator"})
_PLAIN = (str, int, float, bool, bytes, type(None))


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file of the user's, taken apart: what its statements define."""

    module: str
    definitions: dict[str, list[ast.stmt]]
    always: list[ast.stmt]  # what acts when it is imported and defines nothing
    stars: list[str]  # modules of which it imports everything


def code_digest(*roots: Any) -> str:
    """The digest of what functions, and objects that hold functions, reach; 64 hexadecimal digits."""
    reach = _Reach()
    for root in roots:
        reach.add(root)
    return digest_of(sorted(reach.parts.items()))


def users_files(extra: str = "") -> list[Path]:
    """The files of the user's own modules that are imported by now; `extra` is a package that counts as theirs."""
    return sorted({path for module in list(sys.modules.values()) if (path := _users_file(module, extra)) is not None})


def users_modules() -> list[ModuleType]:
    """The user's own modules that are imported by now."""
    return [module for module in list(sys.modules.values()) if _users_file(module) is not None]


def fixed_seeds(*roots: Any) -> list[str]:
    """Where the code that functions reach gives a seed as a number: FILE:LINE and what is written there."""
    reach = _Reach()
    for root in roots:
        reach.add(root)
    places = {
        f"{Path(sys.modules[module].__file__ or '').name}:{node.lineno} {ast.unparse(node)}"
        for module, part in reach.nodes
        for node in ast.walk(part)
        if (isinstance(node, ast.keyword) and node.arg in _SEED_NAMES and _is_number(node.value))
        or (isinstance(node, ast.Call) and _called(node) in _SEED_CALLS and any(map(_is_number, node.args[:1])))
    }
    return sorted(places)


def _is_number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _users_file(module: ModuleType | None, extra: str = "") -> Path | None:
    """The source of a module that comes neither with Python nor from an installed package, nor is hpo's."""
    name, file = getattr(module, "__name__", ""), getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py") or not isinstance(name, str):
        return None
    path = Path(file).resolve()
    if path.is_relative_to(_HPO):
        return None
    installed = any(path.is_relative_to(folder) for folder in installed_folders())
    mine = bool(extra) and (name == extra or name.startswith(f"{extra}."))
    return path if path.is_file() and (mine or not installed) else None


@functools.cache
def installed_folders() -> tuple[Path, ...]:
    """Where Python's own modules and those of installed packages lie."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple(Path(sysconfig.get_path(name)).resolve() for name in names)


class _Reach:
    """What is reached so far: sources by their place."""

    def __init__(self) -> None:
        self.parts: dict[str, str] = {}
        self.nodes: list[tuple[str, ast.AST]] = []  # with the module of each

    def add(self, value: Any) -> None:
        """What an object's code reaches, with the plain values that it was made with."""
        if isinstance(value, functools.partial):
            self.add(value.func)
            self._note(f"partial of {_name(value.func)}", [*value.args, *sorted(value.keywords.items())])
            for held in [*value.args, *value.keywords.values()]:
                self.add(held)
        elif inspect.isfunction(value):
            self._add_function(value)
        elif inspect.ismethod(value):
            self.add(value.__self__)
            self.add(value.__func__)
        elif isinstance(value, type):
            self._add_named(value.__module__, value.__qualname__)
        elif hasattr(value, "__wrapped__"):  # a cache around a function
            self.add(value.__wrapped__)
        elif not isinstance(value, ModuleType) and _users_file(sys.modules.get(type(value).__module__)) is not None:
            self._add_named(type(value).__module__, type(value).__qualname__)
            self._note(f"object of {type(value).__qualname__}", sorted(getattr(value, "__dict__", {}).items()))

    def _add_function(self, function: Any) -> None:
        top = function.__qualname__.partition(".")[0]
        if top == "<lambda>" or ("<lambda>" in function.__qualname__ and top not in _definitions(function.__module__)):
            self._add_lambda(function)
        else:
            self._add_named(function.__module__, top)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                held = cell.cell_contents
            except ValueError:  # not filled yet
                continue
            self._note(f"{function.__qualname__} with {name}", [held])
            if held is not function:
                self.add(held)

    def _add_lambda(self, function: Any) -> None:
        """Of a lambda the expression on its line; where several begin there, all of them."""
        source = _source(function.__module__)
        if source is None:
            return
        line = function.__code__.co_firstlineno
        for statement in _statements(source):
            for node in ast.walk(statement):
                if isinstance(node, ast.Lambda) and node.lineno == line:
                    self._add_node(source, f"lambda {ast.unparse(node)}", node)

    def _add_named(self, module: str, name: str) -> None:
        """A definition of a module, or, where it is nowhere to be seen, the whole module."""
        source = _source(module)
        if source is None:
            return
        name = name.partition(".")[0]
        for statement in source.always:
            self._add_node(source, f"{source.module}: {ast.unparse(statement)}", statement)
        if name in source.definitions:
            for number, statement in enumerate(source.definitions[name]):
                self._add_statement(source, f"{source.module}.{name} {number}", statement, name)
        elif star := next((star for star in source.stars if name in _definitions(star)), None):
            self._add_named(star, name)
        elif not name.startswith("__"):
            self._add_module(source)

    def _add_module(self, source: Source) -> None:
        for number, statement in enumerate(_statements(source)):
            self._add_node(source, f"{source.module} {number}", statement)

    def _add_statement(self, source: Source, place: str, statement: ast.stmt, name: str) -> None:
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            self._add_node(source, place, statement)
            return
        for module, imported in _targets(source, statement, name):
            if _source(module) is None or not imported:
                self.parts[place] = f"{module}.{imported}" if imported else module
            elif f"{module}.{imported}" in sys.modules:
                continue  # a module of theirs: what is used of it is added where it is used
            else:
                self._add_named(module, imported)

    def _add_node(self, source: Source, place: str, node: ast.AST) -> None:
        if place in self.parts:
            return
        text = ast.unparse(node)
        self.parts[place] = text
        self.nodes.append((source.module, node))
        for name in _global_names(text):
            modules = _modules_called(source, name)
            if modules:
                for module in modules:
                    self._add_attributes(module, name, node)
            elif name in source.definitions or any(name in _definitions(star) for star in source.stars):
                self._add_named(source.module, name)

    def _add_attributes(self, module: str, name: str, node: ast.AST) -> None:
        """What a definition uses of a module of the user's: some names of it, or the module itself."""
        source = _source(module)
        assert source is not None
        used = {
            part.attr
            for part in ast.walk(node)
            if isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == name
        }
        for attribute in used:
            self._add_named(module, attribute)
        if not used:
            self._add_module(source)

    def _note(self, place: str, values: Iterable[Any]) -> None:
        """Plain values that a function was made with."""
        plain = [repr(value) for value in values if _is_plain(value)]
        if plain:
            self.parts[f"{place}: {', '.join(plain)}"] = ""


def _name(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(_is_plain(part) for part in [*value, *value.values()])
    return isinstance(value, _PLAIN)


# --- Files taken apart ----------------------------------------------------------------------------------------


@functools.cache
def _source(module: str) -> Source | None:
    """A module of the user's; None for those of others, and where there is no source."""
    path = _users_file(sys.modules.get(module), module.partition(".")[0] if module in _theirs() else "")
    if path is None:
        return None
    source = Source(module=module, definitions={}, always=[], stars=[])
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        names = list(_defined(statement))
        if isinstance(statement, ast.ImportFrom) and names == ["*"]:
            source.stars.append(_absolute(source.module, statement))
        elif names:
            for name in names:
                source.definitions.setdefault(name, []).append(statement)
        elif not _is_text(statement) and not _is_main(statement):
            source.always.append(statement)
    return source


_PACKAGES: set[str] = set()


def count_as_users(package: str) -> None:
    """An installed package with an experiment is the user's too."""
    _PACKAGES.add(package)
    _source.cache_clear()


def _theirs() -> set[str]:
    return {name for name in sys.modules if name.partition(".")[0] in _PACKAGES}


def _definitions(module: str) -> dict[str, list[ast.stmt]]:
    source = _source(module)
    return {} if source is None else source.definitions


def _statements(source: Source) -> list[ast.stmt]:
    unique = {id(statement): statement for defined in source.definitions.values() for statement in defined}
    return sorted([*unique.values(), *source.always], key=lambda statement: statement.lineno)


def _defined(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement of a module gives something to."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Import(names=names):
            yield from (alias.asname or alias.name.partition(".")[0] for alias in names)
        case ast.ImportFrom(names=names):
            yield from (alias.asname or alias.name for alias in names)
        case _ if not _is_main(statement):
            for node in ast.walk(statement):
                match node:
                    case ast.Name(id=name, ctx=ast.Store()) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                        yield name
                    case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store()):  # settings["x"] = 1
                        yield name
                    case ast.Attribute(value=ast.Name(id=name), ctx=ast.Store()):
                        yield name
                    case ast.Import(names=names) | ast.ImportFrom(names=names):
                        yield from (alias.asname or alias.name.partition(".")[0] for alias in names)


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _is_main(statement: ast.stmt) -> bool:
    """`if __name__ == "__main__":` is not run by hpo."""
    return isinstance(statement, ast.If) and any(
        isinstance(node, ast.Name) and node.id == "__name__" for node in ast.walk(statement.test)
    )


def _targets(source: Source, statement: ast.Import | ast.ImportFrom, name: str) -> Iterator[tuple[str, str]]:
    """The module, and the name in it, that an import gives a name to; without a name in it: the module itself."""
    for alias in statement.names:
        module = alias.name if alias.asname else alias.name.partition(".")[0]
        if isinstance(statement, ast.Import) and name == (alias.asname or module):
            yield module, ""
        elif isinstance(statement, ast.ImportFrom) and name == (alias.asname or alias.name):
            yield _absolute(source.module, statement), alias.name


def _modules_called(source: Source, name: str) -> list[str]:
    """The user's own modules that a name of this file stands for."""
    modules = []
    for statement in source.definitions.get(name, []):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for module, imported in _targets(source, statement, name):
                full = f"{module}.{imported}" if imported else module
                if full in sys.modules and _source(full) is not None:
                    modules.append(full)
    return modules


def _absolute(module: str, statement: ast.ImportFrom) -> str:
    if not statement.level:
        return statement.module or ""
    package = getattr(sys.modules.get(module), "__package__", "") or module
    parts = package.split(".")
    base = parts[: len(parts) - statement.level + 1]
    return ".".join([*base, *([statement.module] if statement.module else [])])


def _global_names(text: str) -> set[str]:
    """The names that a piece of code looks up in its module."""
    names: set[str] = set()
    tables = [symtable.symtable(text, "definition", "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        for symbol in table.get_symbols():
            at_top = table.get_type() == "module" and symbol.is_referenced()
            if at_top or (table.get_type() != "module" and symbol.is_global()):
                names.add(symbol.get_name())
    return names
