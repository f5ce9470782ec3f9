"""StudySpec: the validated content of a studies/*.toml, with one canonical form and a digest."""

import functools
import hashlib
import json
import math
import re
import tomllib
import typing
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

import hpo
from hpo.errors import SpecError
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Float, Space, Value
from hpo.files import read_bounded
from hpo.study import limits
from hpo.study.spec_errors import explain, near, shown
from hpo.training.augmentation import SAMPLES_PER_PAIR

ModelName = Literal["simple", "ws", "ws-aux"]
MODELS: tuple[ModelName, ...] = get_args(ModelName)
_ALL_MODELS = ("learning_rate", "weight_decay", "dropout")
HYPERPARAMETERS: Mapping[ModelName, tuple[str, ...]] = {
    "simple": _ALL_MODELS,
    "ws": _ALL_MODELS,
    "ws-aux": (*_ALL_MODELS, "aux_weight", "main_weight"),
}
"""What is tuned, by model, in the order of every table and file."""

_LIMITS: Mapping[str, tuple[float, bool, float, bool]] = {  # low, inclusive?, high, inclusive?
    "learning_rate": (0.0, False, math.inf, False),
    "weight_decay": (0.0, True, math.inf, False),
    "dropout": (0.0, True, 1.0, False),
    "aux_weight": (0.0, True, math.inf, False),
    "main_weight": (0.0, True, math.inf, False),
}

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")  # no colon: `NAME:confirm` and `NAME:final` are studies that hpo makes
_LONGEST_LINE = 300  # characters of a study's file, comments aside

Count = Annotated[int, Field(ge=1, le=limits.COUNT)]
Trials = Annotated[int, Field(ge=0, le=limits.TRIALS)]
Few = Annotated[int, Field(ge=1, le=limits.ROUNDS)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=limits.SEED)]


class _Record(BaseModel):
    """A part of a spec: immutable, without unknown keys, text in place of numbers, or NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Range(_Record):
    """The values of one hyperparameter that a search may try: low..high, uniform in the value or its log."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, but low is {self.low:g} and high is {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log = true needs low above 0, but low is {self.low:g}")
        return self


class Sampler(_Record):
    """How the search proposes configurations; the start-up trials are random whatever the name."""

    name: Literal["tpe", "gp", "random"] = "tpe"
    startup_trials: Trials = 30  # random, and never pruned


class Pruner(_Record):
    """Which trials stop early; shares are of the budget's epochs, so they scale with them."""

    name: Literal["median", "hyperband", "none"] = "median"
    warmup: Share = 0.5  # median: the share of the epochs that every trial trains
    min_resource: Share = 0.1  # hyperband: the share of the epochs up to the lowest rung
    reduction_factor: Annotated[int, Field(ge=2, le=100)] = 3  # hyperband: one in so many is promoted at a rung


class Budget(_Record):
    """What the search may spend."""

    trials: Trials = 100  # the paper's is one of them; 0: nothing is searched
    epochs: Count = 40  # of every training, in confirm and final too
    in_flight: Count = 8  # adaptive trials at once, whatever the fleet


class Protocol(_Record):
    """The rules of the comparison: draws, confirmation and final rounds."""

    seed: Seed = 2019  # of confirm and final, shared by all models so that rounds are paired
    batch_size: Count = 100  # samples; the last batch of an epoch may be smaller
    training_pairs: Count = 1000  # before augmentation: each gives SAMPLES_PER_PAIR samples
    validation_pairs: Count = 2000
    test_pairs: Count = 1000
    confirm_configurations: Few = 5  # besides the paper's
    confirm_rounds: Few = 10
    final_rounds: Few = 20

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return SAMPLES_PER_PAIR * self.training_pairs


class StudySpec(_Record):
    """One model's tuning, complete: what is searched, how, how long, and what it is compared with."""

    model: ModelName
    name: str = Field(default_factory=lambda fields: str(fields.get("model", "")))
    seed: Seed = 1
    space: dict[str, Range]
    sampler: Sampler = Sampler()
    pruner: Pruner = Pruner()
    budget: Budget = Budget()
    protocol: Protocol = Protocol()
    paper: dict[str, float]
    tuned: dict[str, float] | None = None  # from an earlier search: `evaluate` measures it, a search tries it

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"must be 1 to 100 letters, digits, '.', '_' or '-', not {shown(name)}")
        return name

    @model_validator(mode="after")
    def _hyperparameters_fit(self) -> Self:
        for key, values in (("space", self.space), ("paper", self.paper), ("tuned", self.tuned)):
            if values is not None:
                _check_names(key, values, self.model)
        for name, bounds in self.space.items():
            _check_limits(f"space.{name}.low", name, bounds.low)
            _check_limits(f"space.{name}.high", name, bounds.high)
        for key, configuration in (("paper", self.paper), ("tuned", self.tuned or {})):
            for name, value in configuration.items():
                _check_limits(f"{key}.{name}", name, value)
                if self.budget.trials and self.space[name].log and value <= 0:  # as a trial it has a place on the scale
                    raise ValueError(f"{key}.{name}: 0 has no place in a range with log = true; take a tiny value")
        return self

    @property
    def experiment(self) -> str:
        """The experiment's name."""
        return "digits"

    @property
    def metrics(self) -> tuple[MetricInfo, ...]:
        """The first judges, the second breaks ties."""
        return (
            MetricInfo(name="accuracy", diverged=0.5),
            MetricInfo(name="cross_entropy", maximize=False, diverged=40.0, unit="nats"),
        )

    @property
    def metric(self) -> MetricInfo:
        """The one that judges."""
        return self.metrics[0]

    @property
    def tie_breaker(self) -> MetricInfo | None:
        """The metric that decides where the first one's values are equal."""
        return self.metrics[1] if len(self.metrics) > 1 else None

    @property
    def parsed_space(self) -> Space:
        """What is tuned, in the order of every table and file."""
        ranges = {name: self.space[name] for name in HYPERPARAMETERS[self.model]}
        return Space.of({name: Float(r.low, r.high, log=r.log) for name, r in ranges.items()})

    @property
    def data(self) -> Mapping[str, Value]:
        """Options of the data."""
        return {}

    @property
    def reference(self) -> dict[str, float]:
        """The configuration to compare with: the first trial, confirmed, tested beside the winner."""
        return self.paper

    @property
    def reference_label(self) -> str:
        """What slots and reports call it."""
        return "paper"

    @property
    def warmup_epochs(self) -> int:
        """Epochs that the median pruner lets every trial train."""
        return math.ceil(self.pruner.warmup * self.budget.epochs)

    @property
    def min_resource_epochs(self) -> int:
        """Epochs up to hyperband's lowest rung, at least 1."""
        return max(1, math.ceil(self.pruner.min_resource * self.budget.epochs))

    def canonical(self) -> str:
        """Return the one JSON text of this spec: keys sorted, no blanks."""
        return _json(self.model_dump(mode="json"))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical text without the name: the same science, whatever it is called."""
        return hashlib.sha256(_json(self.model_dump(mode="json", exclude={"name"})).encode()).hexdigest()

    @classmethod
    def from_canonical(cls, text: str) -> Self:
        """Read the output of canonical(); SpecError where it is damaged."""
        try:
            return cls.model_validate(json.loads(text))
        except json.JSONDecodeError as error:
            raise SpecError(f"the spec stored in the database is not JSON: {error}") from error
        except ValidationError as error:
            raise SpecError(f"the spec stored in the database: {explain(error, cls)}") from error

    def with_options(
        self,
        name: str | None = None,
        trials: int | None = None,
        epochs: int | None = None,
        rounds: int | None = None,
        seed: int | None = None,
    ) -> Self:
        """Return this spec with the command line's options applied; SpecError names an invalid option."""
        asked: dict[tuple[str, ...], object] = {
            ("name",): name,
            ("budget", "trials"): trials,
            ("budget", "epochs"): epochs,
            ("protocol", "final_rounds"): rounds,
            ("seed",): seed,
        }
        return self._changed({key: value for key, value in asked.items() if value is not None})

    def demo(self) -> Self:
        """Return this spec on the demo's budget: enough to see how it works, too little for a result."""
        return self._changed(_DEMO)

    def quick(self) -> Self:
        """Return this spec on a budget for a coffee break: a rough comparison, not the protocol's."""
        return self._changed(_QUICK)

    def _changed(self, values: Mapping[tuple[str, ...], object]) -> Self:
        tree = self.model_dump()
        for key, value in values.items():
            table = tree
            for part in key[:-1]:
                table = table[part]
            table[key[-1]] = value
        try:
            return type(self).model_validate(tree)  # checked again: model_copy would not
        except ValidationError as error:
            raise SpecError(explain(error, type(self), _OPTIONS)) from error


_SCALED: tuple[tuple[str, ...], ...] = (
    ("budget", "trials"),
    ("budget", "epochs"),
    ("sampler", "startup_trials"),
    ("protocol", "confirm_configurations"),
    ("protocol", "confirm_rounds"),
    ("protocol", "final_rounds"),
)
_DEMO = dict(zip(_SCALED, (8, 4, 4, 2, 2, 5), strict=True))
_QUICK = dict(zip(_SCALED, (20, 8, 10, 3, 3, 10), strict=True))
_OPTIONS = {
    "name": "--name",
    "budget.trials": "--trials",
    "budget.epochs": "--epochs",
    "protocol.final_rounds": "--rounds",
    "seed": "--seed",
}


def load_spec(path: Path | str) -> StudySpec:
    """Read a study's file, TOML or `study export`'s JSON; SpecError, one line, where it is missing or invalid."""
    try:
        text = read_bounded(path).decode()
        is_json = text.lstrip().startswith("{")  # as no TOML does
        return _validated(path, _from_json(text) if is_json else _from_toml(text))
    except FileNotFoundError as error:
        raise SpecError(f"{path}: no such file; `hpo study create --model ws` needs none") from error
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not a TOML file: not UTF-8 text at byte {error.start}") from error
    except RecursionError as error:
        raise SpecError(f"{path}: not a study: nested too deeply; a study has tables in tables and no more") from error
    except ValueError as error:  # of either parser, or of a number with thousands of digits
        raise SpecError(f"{path}: not a {'JSON' if is_json else 'TOML'} file: {_first_clause(error)}") from error


def _validated(path: Path | str, tree: object) -> StudySpec:
    try:
        return StudySpec.model_validate(tree)
    except ValidationError as error:
        raise SpecError(f"{path}: {explain(error, StudySpec)}") from error


def _from_toml(text: str) -> object:
    """Parse TOML; the time that Python takes for a key grows with the square of its dots."""
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > _LONGEST_LINE and not line.lstrip().startswith("#"):
            raise ValueError(f"line {number} has more than {_LONGEST_LINE:,} characters")
    return tomllib.loads(text)


def _from_json(text: str) -> object:
    """Parse JSON as strictly as TOML is: no key comes twice."""

    def table(pairs: list[tuple[str, object]]) -> dict[str, object]:
        values = dict(pairs)
        if len(values) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            raise ValueError(f"key {shown(counts.most_common(1)[0][0])} comes twice")
        return values

    return json.loads(text, object_pairs_hook=table)


def _first_clause(error: ValueError) -> str:
    """What Python says is wrong, without its advice to programmers."""
    return str(error).partition(";")[0]


def builtin_spec(model: str) -> StudySpec:
    """Return the spec that comes with hpo for a model; SpecError for an unknown model."""
    if model not in MODELS:
        raise SpecError(f"no model {shown(model)}; there are {', '.join(MODELS)}{near(model, MODELS)}")
    here = Path(hpo.__file__).parent  # of all of hpo
    installed = here / "builtin_studies" / f"{model}.toml"  # a wheel's; a checkout's is at the root
    return load_spec(installed if installed.exists() else here.parent / "studies" / f"{model}.toml")


class StoredSpec(typing.Protocol):
    """A row that holds a study's spec."""

    @property
    def name(self) -> str:
        """The study's."""

    @property
    def spec(self) -> str:
        """What canonical() wrote."""


def spec_of(row: StoredSpec) -> StudySpec:
    """The spec of a study's row; SpecError where it cannot be read. A text is parsed once in a process."""
    try:
        return _parsed(row.spec)
    except SpecError as error:
        raise SpecError(
            f"study {row.name}: {error}; use the version of hpo that stored it, or remove it with "
            f"`hpo study delete {row.name} --yes`"
        ) from error


@functools.lru_cache(maxsize=1024)
def _parsed(text: str) -> StudySpec:
    return StudySpec.from_canonical(text)


def differences(old: StudySpec, new: StudySpec) -> list[str]:
    """List the differences between a stored and a requested spec, a line each; names do not count."""
    stored, requested = (_flat(spec.model_dump(exclude={"name"})) for spec in (old, new))
    return [
        f"{key}: {shown(stored.get(key))} in the database, {shown(requested.get(key))} requested"
        for key in [*stored, *(key for key in requested if key not in stored)]
        if stored.get(key) != requested.get(key)
    ]


def to_toml(spec: StudySpec) -> str:
    """Write a spec as the TOML that load_spec reads back to an equal one."""
    lines = [
        "# A study of hpo. `hpo study create --file THIS` runs it, `hpo evaluate THIS` measures its",
        "# tuned configuration (the paper's where there is none). Every key is explained in studies/ws.toml.",
        *(f"{key} = {_toml(getattr(spec, key))}" for key in ("name", "model", "seed")),
        "",
        "[space]  # what the search may try; log: uniform in the logarithm",
    ]
    for name in HYPERPARAMETERS[spec.model]:
        inside = (f"{key} = {_toml(value)}" for key, value in spec.space[name].model_dump().items())
        lines.append(f"{name} = {{ {', '.join(inside)} }}")
    tables: list[tuple[str, dict[str, Any]]] = [
        (key, getattr(spec, key).model_dump()) for key in ("sampler", "pruner", "budget", "protocol")
    ]
    tables.append(("paper", {name: spec.paper[name] for name in HYPERPARAMETERS[spec.model]}))
    if spec.tuned is not None:
        tables.append(("tuned", {name: spec.tuned[name] for name in HYPERPARAMETERS[spec.model]}))
    for key, values in tables:
        lines += ["", f"[{key}]{_NOTES.get(key, '')}"]
        lines += [f"{name} = {_toml(value)}" for name, value in values.items()]
    return "\n".join(lines) + "\n"


_NOTES = {
    "paper": "  # the configuration to compare with: trial 0 of the search",
    "tuned": "  # a configuration from an earlier search",
}


def _toml(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _json(tree: object) -> str:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a tree's leaves by dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        inside = isinstance(value, Mapping)
        leaves.update(_flat(value, f"{prefix}{key}.") if inside else {prefix + key: value})
    return leaves


def _check_names(key: str, values: Mapping[str, object], model: ModelName) -> None:
    wanted = HYPERPARAMETERS[model]
    allowed = f"model {model} has {', '.join(wanted)}"
    for name in values:
        if name not in wanted:
            raise ValueError(f"{key}.{name}: not a hyperparameter here; {allowed}{near(name, wanted)}")
    for name in wanted:
        if name not in values:
            raise ValueError(f"{key}.{name}: missing; {allowed}")


def _check_limits(key: str, name: str, value: float) -> None:
    low, with_low, high, with_high = _LIMITS[name]
    if (low <= value if with_low else low < value) and (value <= high if with_high else value < high):
        return
    allowed = f"{'at least' if with_low else 'above'} {low:g}"
    if high < math.inf:
        allowed += f" and {'at most' if with_high else 'below'} {high:g}"
    raise ValueError(f"{key}: must be {allowed}, not {value:g}")
