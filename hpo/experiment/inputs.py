"""What the description of an experiment was made from: files with their digests, versions of packages.

A cached description is used only where all of that is the same. Which files a user's loading function reads is learnt
by watching it: Python tells of each file that it opens. What it does not tell of (a connection, a library that opens
files by itself) makes a description that is not used again.
"""

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import hpo
from hpo.experiment.code import installed_folders
from hpo.experiment.description import Description, ModelDescription

INPUTS = "inputs.json"
DESCRIBED = [field.name for kind in (Description, ModelDescription) for field in fields(kind)]  # one without is older
# Libraries that open files in C, past Python, and events of what comes from elsewhere than a file.
UNSEEN_LIBRARIES = frozenset({"h5py", "tables", "netCDF4", "lmdb", "zarr", "polars", "duckdb", "rasterio", "cv2"})
UNSEEN_EVENTS = frozenset({"socket.connect", "sqlite3.connect", "subprocess.Popen", "os.posix_spawn", "os.fork"})
_LARGEST_PART = 1 << 20  # bytes read at a time


class WatchedFiles:
    """While it is open, the files that this process reads, as far as Python tells."""

    def __init__(self) -> None:
        self.opened: set[str] = set()
        self.whole = True  # nothing was read that Python tells nothing of
        self._watching = False

    def __enter__(self) -> Self:
        self._watching = True
        sys.addaudithook(self._hook)  # which cannot be taken away again
        return self

    def __exit__(self, *_: object) -> None:
        self._watching = False
        self.whole = self.whole and not UNSEEN_LIBRARIES & sys.modules.keys()

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching:
            return
        if event == "open" and isinstance(arguments[0], str | bytes) and not arguments[2] & (os.O_WRONLY | os.O_CREAT):
            path = arguments[0]
            self.opened.add(path.decode(errors="replace") if isinstance(path, bytes) else path)
        elif event in UNSEEN_EVENTS:
            self.whole = False

    @property
    def files(self) -> list[Path]:
        """Those that still exist and are no part of Python or an installed package."""
        paths = {Path(path).resolve() for path in self.opened}
        system = (*installed_folders(), Path("/proc"), Path("/sys"), Path("/dev"), Path(hpo.__file__).parent)
        return sorted(
            path
            for path in paths
            if path.is_file() and path.suffix != ".pyc" and not any(path.is_relative_to(folder) for folder in system)
        )


def inputs(files: Iterable[Path], *, seen_whole: bool) -> dict[str, Any]:
    """A record of the files as they are now, and of the packages that are loaded; for JSON."""
    return {
        "files": {str(path): file_digest(path) for path in dict.fromkeys(files)},
        "packages": _versions(),
        "python": sys.version,
        "hpo": hpo.__version__,
        "described": DESCRIBED,
        "seen_whole": seen_whole,
    }


def unchanged(record: Mapping[str, Any]) -> bool:
    """Whether everything in a record is as it was."""
    made_by = tuple(record.get(name) for name in ("python", "hpo", "described"))
    if not record["seen_whole"] or made_by != (sys.version, hpo.__version__, DESCRIBED):
        return False
    try:
        versions = all(metadata.version(name) == version for name, version in record["packages"].items())
        return versions and all(file_digest(Path(path)) == digest for path, digest in record["files"].items())
    except (OSError, metadata.PackageNotFoundError):
        return False


def file_digest(path: Path) -> str:
    """The SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_LARGEST_PART):
            digest.update(part)
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    """The installed packages that are loaded, by the names that pip knows."""
    loaded = {name.partition(".")[0] for name in sys.modules}
    brought = metadata.packages_distributions()
    names = {name for package in loaded for name in brought.get(package, [])}
    return {name: metadata.version(name) for name in sorted(names)}
