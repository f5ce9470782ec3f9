"""The experiment that ships with hpo. It is named here and nowhere else, and its package is imported by that name.

Studies whose spec names no experiment are of it, every worker can train it, and what stands in a database of it is
read by its own modules.
"""

import importlib
from pathlib import Path
from typing import Any, Protocol

PACKAGE, NAME = "hpo.digits", "digits"


def part(name: str) -> Any:
    """A module of its package."""
    return importlib.import_module(f"{PACKAGE}.{name}")


class ShippedData(Protocol):
    """Its data, loaded: two pools and what they are called."""

    @property
    def source(self) -> str:
        """Where they come from, for display."""

    @property
    def digest(self) -> str:
        """Of the data and their split into pools."""


def load_data(folder: Path | None) -> ShippedData:
    """Its data from a folder, None: those that are installed with it; DataError where that cannot be done."""
    data: ShippedData = part("load").load(folder)
    return data
