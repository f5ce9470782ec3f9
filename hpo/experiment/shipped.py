"""The experiment that ships with hpo. It is named here and nowhere else, and its package is imported by that name.

Studies whose spec names no experiment are of it, every worker can train it, and what stands in a database of it is
read by its own modules.
"""

import importlib
from typing import Any

LOCATOR = "hpo.digits:digits"
PACKAGE, _, NAME = LOCATOR.partition(":")


def part(name: str) -> Any:
    """A module of its package."""
    return importlib.import_module(f"{PACKAGE}.{name}")
