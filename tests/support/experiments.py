"""Studies of a user's experiment, small enough for tests, as the shell makes them."""

from pathlib import Path
from typing import Any

from hpo.storage import slots, studies
from hpo.storage.engine import open_engine
from hpo.storage.slots import Slot
from tests.support.commandline import Hpo

DESCENT = """
import os, time
import hpo
import numpy as np

class Descent:
    classes_ = np.array([0, 1])
    def __init__(self, width): self.weights, self.steps = np.zeros(width), 0
    def state_dict(self): return {"weights": self.weights, "steps": self.steps}
    def load_state_dict(self, state): self.weights, self.steps = state["weights"], state["steps"]
    def predict_proba(self, x):
        p = 1 / (1 + np.exp(-np.clip(np.log1p(x) @ self.weights, -30, 30)))
        return np.stack([1 - p, p], 1)

def epochs(run):
    x, y = run.training
    model = Descent(x.shape[1])
    run.checkpoint(model)
    for epoch in run.epochs():
        time.sleep(float(os.environ.get("SLOWNESS", "0")))
        for i in np.random.permutation(len(x)):
            model.weights = model.weights - 0.01 * (model.predict_proba(x[i:i + 1])[0, 1] - y[i]) * np.log1p(x[i])
            model.steps += 1
        run.report(model, loss=float(abs(model.weights).sum()), steps=model.steps)
    return model
"""  # goes by epochs, keeps checkpoints, and lasts as long as SLOWNESS says, in seconds an epoch

SMALL = """
name = "{name}"
model = "{model}"
[budget]
trials = {trials}
epochs = {epochs}
{limit}
[pruner]
name = "{pruner}"
[sampler]
name = "random"
startup_trials = {startup}
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
    "pruner": "none",
    "startup": None,  # as many as there are trials
    "folds": 1,
    "candidates": 2,
    "confirm_rounds": 2,
    "rounds": 2,
}


def create(hpo: Hpo, file: Path, model: str, *, name: str = "", accept: bool = False, **options: Any) -> None:
    """Create a study of a model, called like it, or `name`; options override what is usual here.

    With `accept` it goes on with code that has changed.
    """
    values = {**_DEFAULTS, **options}
    limit = "" if values["max_seconds"] is None else f"max_seconds = {values['max_seconds']}"
    values["startup"] = values["startup"] or values["trials"]
    path = hpo.folder / f"{name or model}.toml"
    path.write_text(SMALL.format(name=name or model, model=model, limit=limit, **values))
    hpo("study", "create", "--file", path, "--experiment", file, *(["--accept-changes"] if accept else []))


def slots_of(hpo: Hpo, name: str) -> list[Slot]:
    """All slots of a study with what they brought, as the database has them now."""
    engine = open_engine(hpo.url)
    try:
        return slots.list_slots(engine, studies.get_study(engine, name).id, with_outputs=True)
    finally:
        engine.dispose()
