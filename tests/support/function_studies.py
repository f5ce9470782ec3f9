"""Studies of users' experiments, small enough for tests."""

from dataclasses import replace
from typing import Any

from sqlalchemy import Engine

from hpo.experiment.description import Description
from hpo.storage import studies
from hpo.storage.studies import StudyRow
from hpo.study import operations
from hpo.study.experiment_spec import spec_from
from hpo.study.operations import Planned
from hpo.study.requests import DescribedData


def create_study(
    engine: Engine,
    description: Description,
    model: str,
    *,
    trials: int = 4,
    epochs: int = 4,
    rounds: int = 2,
    max_seconds: float | None = None,
    folds: int = 1,
    data_digest: str | None = None,
) -> StudyRow:
    """A study of a model, called like it: two confirmed configurations beside the reference, two rounds each."""
    tree: dict[str, Any] = {
        "model": model,
        "name": model,
        "budget": {"trials": trials, "epochs": epochs, "max_seconds": max_seconds},
        "pruner": {"name": "none"},
        "sampler": {"name": "random", "startup_trials": trials},
        "protocol": {"confirm_configurations": 2, "confirm_rounds": 2, "final_rounds": rounds, "folds": folds},
    }
    data = DescribedData(replace(description, data_digest=data_digest or description.data_digest))
    operations.create(engine, [Planned(spec=spec_from(description, tree, "a test"), data=data)])
    return studies.get_study(engine, model)
