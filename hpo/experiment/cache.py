"""Descriptions of experiments with their pools, kept between processes: an entry is a folder, whole or absent."""

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hpo.experiment.inputs import INPUTS, unchanged

SECONDS_UNUSED = 30 * 24 * 3600.0  # after which an entry is deleted: a worker that uses it looks at it when it starts
SECONDS_UNFINISHED = 24 * 3600.0  # after which nobody is writing it any more
_SIZES = "sizes.json"
_UNFINISHED = ".new-"


@dataclass
class Entry:
    """An entry: while it is written, and then where it lies."""

    folder: Path


def folder() -> Path | None:
    """Where entries are kept: the user's cache; None where there is no place for one."""
    from platformdirs import user_cache_path

    try:
        place = user_cache_path("hpo") / "experiments"
        place.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or one that cannot be written to
        return None
    return place if os.access(place, os.W_OK) else None


def find(place: Path, locator: str) -> Path | None:
    """The entry for a locator that is whole and of which nothing has changed since it was made."""
    for path in sorted(place.glob(f"{_prefix(locator)}-*")):
        with suppress(OSError, ValueError, KeyError):
            sizes = json.loads((path / _SIZES).read_text())
            whole = all((path / name).stat().st_size == size for name, size in sizes.items())
            if whole and unchanged(json.loads((path / INPUTS).read_text())):
                os.utime(path)
                return path
    return None


@contextmanager
def new_entry(place: Path, locator: str) -> Iterator[Entry]:
    """A folder to fill; it becomes an entry when that ends well, and is gone when it does not."""
    _delete_old(place)
    entry = Entry(folder=place / f"{_UNFINISHED}{secrets.token_hex(8)}")
    entry.folder.mkdir()
    try:
        yield entry
        sizes = {
            str(path.relative_to(entry.folder)): path.stat().st_size
            for path in entry.folder.rglob("*")
            if path.is_file()
        }
        (entry.folder / _SIZES).write_text(json.dumps(sizes))
        kept = place / f"{_prefix(locator)}-{secrets.token_hex(8)}"  # its own: another process may be as far
        os.replace(entry.folder, kept)
        entry.folder = kept
    except BaseException:
        shutil.rmtree(entry.folder, ignore_errors=True)
        raise


def _prefix(locator: str) -> str:
    return hashlib.sha256(locator.encode()).hexdigest()[:16]


def _delete_old(place: Path) -> None:
    now = time.time()
    for path in place.iterdir():
        patience = SECONDS_UNFINISHED if path.name.startswith(_UNFINISHED) else SECONDS_UNUSED
        with suppress(OSError):
            if now - path.stat().st_mtime > patience:
                shutil.rmtree(path, ignore_errors=True)
