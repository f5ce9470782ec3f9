"""Finding an experiment by what a user writes: FILE, FILE:NAME, or MODULE:NAME."""

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from hpo.errors import ExperimentError
from hpo.experiment.experiment import Experiment

_importing: list[str] = []  # modules of users, while they are imported


def is_importing() -> bool:
    """Whether a user's file is being imported by `load`, so that what it calls runs in a process of hpo's."""
    return bool(_importing)


def load(locator: str, folder: Path | None = None) -> Experiment:
    """The experiment at a locator; a relative file is looked for in `folder`, by default the working directory.

    A file is imported under its own name with its folder first on `sys.path`, so that it may import its neighbours, and
    processes that it starts can import it. ExperimentError, in one line, where there is none.
    """
    place, _, name = locator.partition(":")
    if not place:
        raise ExperimentError(f"experiment {locator!r}: write FILE.py, FILE.py:NAME or MODULE:NAME")
    module = _from_file(place, folder or Path.cwd()) if place.endswith(".py") else _import(place, place)
    return _chosen(module, place, name)


def _from_file(place: str, folder: Path) -> ModuleType:
    path = (folder / place).resolve()
    if not path.is_file():
        raise ExperimentError(f"experiment {place}: there is no such file ({path})")
    known = sys.modules.get(path.stem)
    if known is not None and Path(getattr(known, "__file__", None) or "").resolve() != path:
        raise ExperimentError(f"experiment {place}: a module is called {path.stem} already; give the file another name")
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    return _import(path.stem, place)


def _import(module: str, place: str) -> ModuleType:
    _importing.append(module)
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the user's own code raises
        sys.modules.pop(module, None)
        raise ExperimentError(f"experiment {place} cannot be imported: {describe(error)}") from error
    finally:
        _importing.remove(module)


def locator_of(experiment: Experiment) -> str | None:
    """Where other processes find an experiment that was imported here; None: it is no file's, but a notebook's."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name == "__main__" or file is None or not file.endswith(".py"):
            continue
        for variable, value in vars(module).items():
            if value is experiment:
                return f"{Path(file).resolve()}:{variable}" if "." not in name else f"{name}:{variable}"
    return None


def describe(error: BaseException) -> str:
    """An exception of the user's code in one line: what it is, and the last line of their own that led to it."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    if isinstance(error, SyntaxError) and error.filename:
        return f"{text} (look at {error.filename}:{error.lineno})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and not frame.filename.startswith("<")
    ]
    inside = [frame for frame in frames if not frame.filename.startswith(str(Path(__file__).parents[1]))]
    theirs = [frame for frame in inside if not frame.filename.startswith(str(Path(traceback.__file__).parent))]
    return f"{text} (look at {theirs[-1].filename}:{theirs[-1].lineno})" if theirs else text


def _chosen(module: ModuleType, place: str, name: str) -> Experiment:
    there = {key: value for key, value in vars(module).items() if isinstance(value, Experiment)}
    if name:
        value = getattr(module, name, None)
        if isinstance(value, Experiment):
            return value
        kind = "there is no such name" if value is None else f"it is a {type(value).__name__}"
        raise ExperimentError(f"experiment {place}:{name}: {kind}; there are {', '.join(there) or 'no experiments'}")
    distinct = {id(value): value for value in there.values()}
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    if not distinct:
        raise ExperimentError(f"experiment {place}: it holds no hpo.Experiment")
    raise ExperimentError(
        f"experiment {place}: it holds several; name one of them: {', '.join(f'{place}:{key}' for key in there)}"
    )
