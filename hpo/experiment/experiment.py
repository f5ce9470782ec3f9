"""An experiment: data, metrics and the models to compare."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from hpo.errors import ExperimentError
from hpo.experiment.items import Draw, Items
from hpo.experiment.metrics import Metric
from hpo.experiment.model import Model
from hpo.experiment.rows import RowPool, Rows
from hpo.experiment.spaces import Value

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")  # it is part of studies' names
_MODEL = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")  # as long as the queue's column


DrawItems = Callable[[Any, Draw], tuple[Items, Items]]
_SECTIONS = ("budget", "protocol", "sampler", "pruner")  # of a study, that may have defaults
_OPTION = {"int": int, "float": float, "str": str, "bool": bool, int: int, float: float, str: str, bool: bool}


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
    draw: DrawItems | None = None  # (pool A, draw) -> training, validation; None: as `rows` says
    draw_test: Callable[[Any, Draw], Items] | None = None  # (pool B, draw) -> test items; None: all rows
    options: type[Any] = NoOptions  # a dataclass: what a study's [data] may set
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by section of a study: budget, protocol
    chunk: int = 1000  # items that predict and score see at a time
    columns: Callable[[Any, Items], Mapping[str, Any]] | None = None  # (outputs, items) -> stored for a final round
    sections: Callable[[Any], Any] | None = None  # (view) -> the report's sections that are this experiment's

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
        problems += self._problems_of_options()
        for section, values in self.defaults.items():
            if section not in _SECTIONS or not isinstance(values, Mapping):
                problems.append(f"defaults: {section!r} is none of {', '.join(_SECTIONS)}, with its values by name")
        for name in ("draw", "draw_test", "columns", "sections"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                problems.append(f"{name} must be a function, not {getattr(self, name)!r}")
        if self.chunk < 1:
            problems.append(f"chunk must be at least 1, not {self.chunk}")
        return problems

    def _problems_of_options(self) -> "list[str]":
        if not is_dataclass(self.options) or not isinstance(self.options, type):
            return ["options must be a dataclass whose fields have defaults"]
        problems = []
        for option in dataclasses.fields(self.options):
            if option.type not in _OPTION:
                problems.append(f"options: {option.name} must be an int, a float, a str or a bool")
            elif option.default is dataclasses.MISSING:
                problems.append(f"options: {option.name} needs a default")
        return problems

    def options_of(self, values: Mapping[str, Value]) -> Any:
        """The options, with these values and defaults for the others; ExperimentError where one is none of them."""
        fields = {option.name: _OPTION[option.type] for option in dataclasses.fields(self.options)}
        for name, value in values.items():
            if name not in fields:
                known = ", ".join(fields) or "none"
                raise ExperimentError(f"experiment {self.name}: data: there is no option {name!r}; there are {known}")
            if type(value) is not fields[name] and not (fields[name] is float and type(value) is int):
                raise ExperimentError(
                    f"experiment {self.name}: data: {name} must be of type {fields[name].__name__}, not {value!r}"
                )
        return self.options(**values)

    def drawn(self, pool: Any, draw: Draw) -> tuple[Items, Items]:
        """Training and validation items of pool A; ExperimentError where the user's function gives none such."""
        if self.draw is None:
            assert isinstance(self.data, Rows)
            return self.data.draw(pool, draw)
        pair = self.draw(pool, draw)
        if not isinstance(pair, tuple) or len(pair) != 2 or not all(isinstance(items, Items) for items in pair):
            raise ExperimentError(f"experiment {self.name}: draw must give two hpo.Items: training and validation")
        for items, name in zip(pair, ("training", "validation"), strict=True):
            if not len(items):
                raise ExperimentError(f"experiment {self.name}: draw gave no {name} items")
        return pair

    def test_items(self, pool: Any, draw: Draw) -> Items:
        """Test items of pool B; ExperimentError where the user's function gives none."""
        if self.draw_test is None:
            assert isinstance(pool, RowPool)
            return pool.items
        items = self.draw_test(pool, draw)
        if not isinstance(items, Items) or not len(items):
            raise ExperimentError(f"experiment {self.name}: draw_test must give hpo.Items, at least one")
        return items

    def model(self, name: str) -> Model:
        """The model of that name; ExperimentError lists those that exist."""
        if name not in self.models:
            raise ExperimentError(f"experiment {self.name} has no model {name!r}; there are {', '.join(self.models)}")
        return self.models[name]
