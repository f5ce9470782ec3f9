"""The experiment that ships with hpo. It is named here and nowhere else, and its package is imported by that name.

Studies whose spec names no experiment are of it, every worker can train it, and what stands in a database of it is
read by its own modules.
"""

import importlib
from typing import Any, Protocol

LOCATOR = "hpo.digits:digits"
PACKAGE, _, NAME = LOCATOR.partition(":")


class ShippedData(Protocol):
    """Its data on this machine; what more they hold, its own modules know."""

    @property
    def source(self) -> str:
        """Where they come from, for people."""

    @property
    def digest(self) -> str:
        """Of all that results depend on."""


def part(name: str) -> Any:
    """A module of its package."""
    return importlib.import_module(f"{PACKAGE}.{name}")
