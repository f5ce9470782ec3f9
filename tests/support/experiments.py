"""Studies of a user's experiment, small enough for tests, as the shell makes them."""

from pathlib import Path
from typing import Any

from tests.support.commandline import Hpo

SMALL = """
name = "{name}"
model = "{model}"
[budget]
trials = {trials}
epochs = {epochs}
{limit}
[pruner]
name = "none"
[sampler]
name = "random"
startup_trials = {trials}
[protocol]
folds = {folds}
confirm_configurations = {candidates}
confirm_rounds = {confirm_rounds}
final_rounds = {rounds}
"""
_DEFAULTS: dict[str, Any] = {
    "trials": 4,
    "epochs": 4,
    "max_seconds": None,
    "folds": 1,
    "candidates": 2,
    "confirm_rounds": 2,
    "rounds": 2,
}


def create(hpo: Hpo, file: Path, model: str, *, name: str = "", **options: Any) -> None:
    """Create a study of a model, called like it, or `name`; options override what is usual here."""
    values = {**_DEFAULTS, **options}
    limit = "" if values["max_seconds"] is None else f"max_seconds = {values['max_seconds']}"
    path = hpo.folder / f"{name or model}.toml"
    path.write_text(SMALL.format(name=name or model, model=model, limit=limit, **values))
    hpo("study", "create", "--file", path, "--experiment", file)
