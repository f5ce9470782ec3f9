"""An experiment: data, metrics and the models to compare."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from hpo.errors import ExperimentError
from hpo.experiment.items import Draw, Items
from hpo.experiment.metrics import Metric
from hpo.experiment.model import Model
from hpo.experiment.rows import Rows

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")  # it is part of studies' names
_MODEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")  # as long as the queue's column


@dataclass(frozen=True)
class NoOptions:
    """An experiment whose data have no options."""


@dataclass(frozen=True)
class Data:
    """A data set that no helper covers: two pools that never meet, each loaded by a function of its own."""

    digest: str  # of all that results depend on outside Python: files' hashes, compilers' versions
    a: Callable[[], Any]  # pool A, for tuning and training: loaded once a training process
    b: Callable[[], Any]  # pool B, for the final test: loaded behind the seal alone
    about: str = ""  # a sentence for the report

    def __post_init__(self) -> None:
        if not self.digest or not isinstance(self.digest, str):
            raise ExperimentError("data: digest must be a text that changes when the data do")


@dataclass(frozen=True)
class Experiment:
    """What is compared. The first metric judges, the second breaks ties, the others are recorded."""

    name: str
    data: Rows | Data
    metrics: Sequence[Metric]
    models: Mapping[str, Model]
    version: int = 1
    draw: Callable[[Any, Draw], tuple[Items, Items]] | None = (
        None  # (pool A, draw) -> training, validation; None: rows'
    )
    draw_test: Callable[[Any, Draw], Items] | None = None  # (pool B, draw) -> test items; None: all rows
    options: type[Any] = NoOptions  # a dataclass: what a study's [data] may set
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by section of a study: budget, protocol
    chunk: int = 1000  # items that predict and score see at a time

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ExperimentError(
                f"experiment {self.name!r}: its name must be 1 to 40 letters, digits, '_' or '-', the first a letter"
            )
        for problem in self._problems():
            raise ExperimentError(f"experiment {self.name}: {problem}")

    def _problems(self) -> "list[str]":
        """What is wrong, in the order in which a user would mend it."""
        problems = []
        if not self.metrics:
            problems.append("metrics: at least one is needed, to judge")
        names = [metric.name for metric in self.metrics]
        problems += [f"metrics: two are called {name}" for name in dict.fromkeys(names) if names.count(name) > 1]
        if not self.models:
            problems.append("models: there are none to compare")
        for name, model in self.models.items():
            if not _MODEL.fullmatch(name):
                problems.append(f"models: {name!r} must be 1 to 32 letters, digits, '_' or '-', the first a letter")
            unknown = sorted(set(model.published) - set(names))
            if unknown:
                problems.append(f"models: {name}: published names {unknown[0]}, which is none of the metrics")
        if isinstance(self.data, Data) and (self.draw is None or self.draw_test is None):
            problems.append("data: with hpo.Data say how items are drawn: draw=... and draw_test=...")
        if not is_dataclass(self.options):
            problems.append("options must be a dataclass whose fields have defaults")
        if self.chunk < 1:
            problems.append(f"chunk must be at least 1, not {self.chunk}")
        return problems

    def model(self, name: str) -> Model:
        """The model of that name; ExperimentError lists those that exist."""
        if name not in self.models:
            raise ExperimentError(f"experiment {self.name} has no model {name!r}; there are {', '.join(self.models)}")
        return self.models[name]
