"""Studies of users' experiments, until specs know experiments: `python function_studies.py hpo-words...` runs hpo so.

To be replaced by `hpo study create --experiment` once that is there: `create_study` alone is used by tests.
"""

import functools
import json
import sys
from typing import Any

from sqlalchemy import Engine

from hpo.experiment.description import Description
from hpo.experiment.metric_info import MetricInfo
from hpo.storage import studies
from hpo.storage.studies import NewStudy, StudyRow
from hpo.study import phases, spec
from hpo.study.spec import MODELS, Budget, Protocol, StudySpec


class FunctionBudget(Budget):
    max_seconds: float | None = None


class FunctionProtocol(Protocol):
    folds: int = 1


class FunctionSpec(StudySpec):
    model: str  # type: ignore[assignment]  # of the digits there are three
    budget: FunctionBudget = FunctionBudget()
    protocol: FunctionProtocol = FunctionProtocol()

    @property
    def experiment(self) -> str:
        return "cancer"

    @property
    def metrics(self) -> tuple[MetricInfo, ...]:
        return MetricInfo(name="accuracy"), MetricInfo(name="log_loss", maximize=False, diverged=40.0)


FunctionSpec.__pydantic_decorators__.model_validators.clear()  # they know the digits' hyperparameters
FunctionSpec.model_rebuild(force=True)


@functools.cache
def _parsed(text: str) -> StudySpec:
    tree = json.loads(text)
    if tree["model"] in MODELS:
        return StudySpec.from_canonical(text)
    spec.HYPERPARAMETERS[tree["model"]] = tuple(tree["space"])  # type: ignore[index]
    return FunctionSpec.model_validate(tree)


def install() -> None:
    """Have such specs understood in this process."""
    spec._parsed = _parsed


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
        "space": {"C": {"low": 1e-4, "high": 1e4, "log": True}},
        "paper": {"C": 1.0},
        "budget": {"trials": trials, "epochs": epochs, "max_seconds": max_seconds},
        "pruner": {"name": "none"},
        "sampler": {"name": "random", "startup_trials": trials},
        "protocol": {"confirm_configurations": 2, "confirm_rounds": 2, "final_rounds": rounds, "folds": folds},
    }
    made = FunctionSpec.model_validate(tree)
    new = NewStudy(
        name=model,
        model=model,
        spec=made.canonical(),
        spec_digest=made.digest,
        data_digest=data_digest or description.data_digest,
        seed=made.seed,
        in_flight=made.budget.in_flight,
        trial_seeds=phases.search_seeds(made.seed, 0, trials),
        adaptive_from=None,
        paper=made.paper,
    )
    return studies.create_study(engine, new)


if __name__ == "__main__":
    install()
    from hpo.cli.main import main

    sys.argv = ["hpo", *sys.argv[1:]]
    main()
