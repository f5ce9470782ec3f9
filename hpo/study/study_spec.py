"""StudySpec: what a study is, complete and checked, with one canonical form and a digest."""

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from hpo.errors import ExperimentError, SpecError
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Float, Space, Value
from hpo.study import limits
from hpo.study.labels import PUBLISHED, TUNED
from hpo.study.spec_errors import explain, shown
from hpo.study.traits import Traits

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")  # no colon: `NAME:confirm` and `NAME:final` are studies that hpo makes
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._'-]{0,63}")
STARTUP_TRIALS = 30  # random ones; half the trials where those are fewer than twice as many

Count = Annotated[int, Field(ge=1, le=limits.COUNT)]
Trials = Annotated[int, Field(ge=0, le=limits.TRIALS)]
Few = Annotated[int, Field(ge=1, le=limits.ROUNDS)]
Share = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, le=limits.SEED)]
Margin = Annotated[float, Field(gt=0)] | None  # of the metric that judges, in its own unit
Values = Mapping[str, Value]


class Record(BaseModel):
    """A part of a spec: immutable, without unknown keys, text in place of numbers, or NaN.

    Fields that a record does not show (`exclude`) are none of its keys.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, serialize_by_alias=True)

    @model_validator(mode="before")
    @classmethod
    def _only_shown(cls, tree: Any) -> Any:
        hidden = [name for name, field in cls.model_fields.items() if field.exclude]
        given = [name for name in hidden if isinstance(tree, Mapping) and name in tree]
        if given:
            raise ValidationError.from_exception_data(
                cls.__name__, [{"type": "extra_forbidden", "loc": (name,), "input": tree[name]} for name in given]
            )
        return tree


class Sampler(Record):
    """How the search proposes configurations; the start-up trials are random whatever the name."""

    name: str = "tpe"  # tpe, gp, cmaes, random, or another of Optuna's: `search.check_sampler` knows them
    startup_trials: Trials = STARTUP_TRIALS  # random, and never pruned


class Pruner(Record):
    """Which trials stop early; shares are of the budget's epochs, so they scale with them."""

    name: Literal["median", "hyperband", "none"] = "median"
    warmup: Share = 0.5  # median: the share of the epochs that every trial trains
    min_resource: Share = 0.1  # hyperband: the share of the epochs up to the lowest rung
    reduction_factor: Annotated[int, Field(ge=2, le=100)] = 3  # hyperband: one in so many is promoted at a rung


class Budget(Record):
    """What the search may spend."""

    trials: Trials = 100  # the reference is one of them; 0: nothing is searched
    epochs: Count = 40  # of every training, in confirm and final too
    in_flight: Count = 8  # adaptive trials at once, whatever the fleet
    max_seconds: Annotated[float, Field(gt=0, le=limits.TRAINING_SECONDS)] | None = None  # of a training


def is_none(value: object) -> bool:
    """Whether a key is left out of the canonical text, so that studies of before it was there keep their digests."""
    return value is None


def _as_tuple(numbers: Any) -> Any:
    return tuple(numbers) if isinstance(numbers, list) else numbers


def _ascending(looks: tuple[int, ...]) -> tuple[int, ...]:
    if list(looks) != sorted(set(looks)) or not looks:
        raise ValueError(f"must be numbers of rounds, each above the one before, not {shown(list(looks))}")
    return looks


LookRounds = Annotated[tuple[Few, ...], BeforeValidator(_as_tuple), AfterValidator(_ascending)] | None


def check_looks(looks: Sequence[int] | None, final_rounds: int) -> None:
    """Raise ValueError unless the first look is at the rounds that a study begins with."""
    if looks is not None and looks[0] != final_rounds:
        raise ValueError(f"looks: the first is at final_rounds, that is {final_rounds}, not at {looks[0]}")


class Protocol(Record):
    """The rules of the comparison: confirmation and final rounds."""

    seed: Seed = 2019  # of confirm and final, shared by all models so that rounds are paired
    folds: Annotated[int, Field(ge=1, le=limits.FOLDS)] = 1  # in search and confirm; a trial's value is their mean
    confirm_configurations: Few = 5  # besides the reference
    confirm_rounds: Few = 10
    final_rounds: Few = 20
    margin: Margin = Field(default=None, exclude_if=is_none)  # less is practically the same; None: as the metric says
    looks: LookRounds = Field(default=None, exclude_if=is_none)  # rounds at which results are seen; None: at the first

    @model_validator(mode="after")
    def _begins_with_its_rounds(self) -> Self:
        check_looks(self.looks, self.final_rounds)
        return self

    if TYPE_CHECKING:  # of the first format alone: whoever asks for these has made sure that a study is of that one

        @property
        def batch_size(self) -> int: ...

        @property
        def training_pairs(self) -> int: ...

        @property
        def validation_pairs(self) -> int: ...

        @property
        def test_pairs(self) -> int: ...

        @property
        def samples(self) -> int: ...


UNCOUNTED = {"name", "published", "chosen_reference"}  # fields of a spec on which no result depends


def startup_trials(trials: int) -> int:
    """How many of a search's trials are random unless a study says otherwise."""
    return min(STARTUP_TRIALS, trials // 2)


class StudySpec(Record):
    """One model's tuning, complete: what is searched, how, how long, and what it is compared with.

    All that a study needs of its experiment is in it, so reading one needs no experiment at hand.
    """

    experiment: str
    version: int = 1  # the experiment's
    model: str
    name: str = Field(default_factory=lambda fields: f"{fields.get('experiment', '')}-{fields.get('model', '')}")
    seed: Seed = 1
    metrics: tuple[MetricInfo, ...]  # the first judges, the second breaks ties, the others are recorded
    data: Values = {}  # options of the data
    model_epochs: Count | None = None  # where the model has epochs of its own: the budget's are these
    space: dict[str, Any]  # as Space.to_plain: hyperparameters and constants
    sampler: Sampler = Sampler()
    pruner: Pruner = Pruner()
    budget: Budget = Budget()
    protocol: Protocol = Protocol()
    # The configuration to compare with: the first trial, confirmed, tested beside the winner.
    reference: Values = Field(validation_alias=AliasChoices("reference", "paper"))
    reference_label: str = "reference"  # what slots call it
    chosen_reference: bool = Field(default=False, exclude_if=lambda chosen: not chosen)  # by a file, else the model's
    tuned: Values | None = None  # from an earlier search: `evaluate` measures it, a search tries it
    # By metric, what others have reported of the model: shown beside the results, which do not depend on it.
    published: Mapping[str, float] = Field(default={}, exclude_if=lambda values: not values)

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """The spec that a tree of plain values is; one that names no experiment is of the first format."""
        if cls is StudySpec and not isinstance(obj, StudySpec):
            return cast(Self, super(StudySpec, format_of(obj)).model_validate(obj, **options))
        return super().model_validate(obj, **options)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"must be 1 to 100 letters, digits, '.', '_' or '-', not {shown(name)}")
        return name

    @field_validator("metrics", mode="before")
    @classmethod
    def _metrics(cls, metrics: Any) -> Any:
        if not isinstance(metrics, list | tuple) or not metrics:
            raise ValueError("must be a list of one metric or more")
        try:
            return tuple(m if isinstance(m, MetricInfo) else MetricInfo(**m) for m in metrics)
        except TypeError as error:
            raise ValueError(f"a metric cannot be read: {error}") from error

    @field_validator("reference_label")
    @classmethod
    def _free_label(cls, label: str) -> str:
        if not _LABEL.fullmatch(label) or label in (TUNED, PUBLISHED) or label.startswith("trial "):
            raise ValueError(f"must be 1 to 64 letters, digits and the like, none of hpo's own labels, not {label!r}")
        return label

    @field_validator("space")
    @classmethod
    def _whole_space(cls, space: dict[str, Any]) -> dict[str, Any]:
        try:
            return _with_floats(Space.from_plain(space).to_plain())
        except ExperimentError as error:
            raise ValueError(str(error).removeprefix("space: ")) from error

    @field_validator("reference", "tuned")
    @classmethod
    def _as_floats(cls, values: Values | None, info: ValidationInfo) -> Values | None:
        """Whole numbers as floats where the range is one of floats, so that 1 and 1.0 are the same study."""
        if values is None or "space" not in info.data:
            return values
        floats = {n for n, p in Space.from_plain(info.data["space"]).parameters.items() if isinstance(p, Float)}
        return {
            n: float(v) if n in floats and isinstance(v, int) and not isinstance(v, bool) else v
            for n, v in values.items()
        }

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for what, configuration in (("reference", self.reference), ("tuned", self.tuned)):
            if configuration is not None:
                try:
                    self.parsed_space.check(configuration, what)
                except ExperimentError as error:
                    raise ValueError(str(error)) from error
        if self.budget.trials and not self.parsed_space.parameters:
            raise ValueError(f"budget.trials: must be 0, for model {self.model} has nothing to search")
        return self

    @property
    def metric(self) -> MetricInfo:
        """The one that judges, with the margin that the protocol says."""
        first, margin = self.metrics[0], self.protocol.margin
        return first if margin is None else replace(first, margin=margin)

    @property
    def tie_breaker(self) -> MetricInfo | None:
        """The metric that decides where the first one's values are equal."""
        return self.metrics[1] if len(self.metrics) > 1 else None

    @functools.cached_property
    def parsed_space(self) -> Space:
        """What is tuned, in the order of every table and file, and what is constant."""
        return Space.from_plain(self.space)

    @property
    def looks(self) -> tuple[int, ...]:
        """The numbers of final rounds at which results are looked at, as was said when the study was created."""
        return self.protocol.looks or (self.protocol.final_rounds,)

    @property
    def has_shipped_reference(self) -> bool:
        """Whether the configuration to compare with is the one that comes with the model."""
        return not self.chosen_reference

    @property
    def shown_reference(self) -> str:
        """What reports call the configuration to compare with: as the model has it, if it is the model's."""
        return self.reference_label if self.has_shipped_reference else "reference"

    @property
    def traits(self) -> Traits:
        """What reports must know of its experiment beside its keys."""
        return Traits()

    @property
    def diverged_drops(self) -> bool:
        """Whether a configuration that diverges in confirm is dropped, as one that fails; else that round counts."""
        return True

    @property
    def paper(self) -> dict[str, Any]:
        """The reference, by the name of the first format's key."""
        return dict(self.reference)

    @property
    def goes_by_epochs(self) -> bool:
        """Whether its trainings are known to have epochs: a user's function may ask for them or not."""
        return self.model_epochs is not None

    @property
    def steps(self) -> int:
        """How often a trial may be judged on its way: after each fold, or where there is one, after each epoch."""
        return self.protocol.folds if self.protocol.folds > 1 else self.budget.epochs

    @property
    def warmup_epochs(self) -> int:
        """Steps that the median pruner lets every trial train."""
        return math.ceil(self.pruner.warmup * self.steps)

    @property
    def min_resource_epochs(self) -> int:
        """Steps up to hyperband's lowest rung, at least 1."""
        return max(1, math.ceil(self.pruner.min_resource * self.steps))

    def canonical(self) -> str:
        """Return the one JSON text of this spec, without blanks; the hyperparameters keep their order."""
        return compact_json(self.model_dump(mode="json"), sort_keys=False)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the sorted text without what is `UNCOUNTED`: the same science, whatever it is called."""
        return hashlib.sha256(compact_json(self.model_dump(mode="json", exclude=UNCOUNTED)).encode()).hexdigest()

    @classmethod
    def from_canonical(cls, text: str) -> Self:
        """Read the output of canonical(); SpecError where it is damaged."""
        try:
            tree = json.loads(text)
        except json.JSONDecodeError as error:
            raise SpecError(f"the spec stored in the database is not JSON: {error}") from error
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise SpecError(f"the spec stored in the database: {explain(error, format_of(tree))}") from error

    def with_options(
        self,
        name: str | None = None,
        trials: int | None = None,
        epochs: int | None = None,
        rounds: int | None = None,
        seed: int | None = None,
        looks: Sequence[int] | None = None,
    ) -> Self:
        """Return this spec with the command line's options applied; SpecError names an invalid option."""
        asked: dict[tuple[str, ...], object] = {
            ("name",): name,
            ("budget", "trials"): trials,
            ("budget", "epochs"): epochs,
            ("protocol", "final_rounds"): rounds,
            ("seed",): seed,
            _LOOKS: None if looks is None else list(looks),
        }
        return self._changed({key: value for key, value in asked.items() if value is not None})

    def demo(self) -> Self:
        """Return this spec on the demo's budget: enough to see how it works, too little for a result."""
        return self._changed({**_DEMO, _LOOKS: None})

    def quick(self) -> Self:
        """Return this spec on a budget for a coffee break: a rough comparison, not the protocol's."""
        return self._changed({**_QUICK, _LOOKS: None})

    def _changed(self, values: Mapping[tuple[str, ...], object]) -> Self:
        tree = self.model_dump()
        for key, value in self._followed(values).items():
            table = tree
            for part in key[:-1]:
                table = table[part]
            table[key[-1]] = value
        try:
            return type(self).model_validate(tree)  # checked again: model_copy would not
        except ValidationError as error:
            raise SpecError(explain(error, type(self), _OPTIONS)) from error

    def _followed(self, values: Mapping[tuple[str, ...], object]) -> Mapping[tuple[str, ...], object]:
        """The changes as far as they are this model's, and what follows from them.

        A model with epochs of its own keeps them, one without a search has none, and as many start-up trials as is
        usual stay so many.
        """
        fixed = {("budget", "epochs")} if self.model_epochs else set()
        if not self.parsed_space.parameters:
            fixed.add(("budget", "trials"))
        changes = {key: value for key, value in values.items() if key not in fixed}
        trials, usual = changes.get(("budget", "trials")), startup_trials(self.budget.trials)
        if isinstance(trials, int) and trials >= 0 and self.sampler.startup_trials == usual:
            changes.setdefault(("sampler", "startup_trials"), startup_trials(trials))
        return changes


_LOOKS = ("protocol", "looks")
_SCALED: tuple[tuple[str, ...], ...] = (
    ("budget", "trials"),
    ("budget", "epochs"),
    ("sampler", "startup_trials"),
    ("protocol", "confirm_configurations"),
    ("protocol", "confirm_rounds"),
    ("protocol", "final_rounds"),
)
_DEMO = dict(zip(_SCALED, (36, 5, 6, 2, 3, 10), strict=True))
_QUICK = dict(zip(_SCALED, (40, 8, 10, 3, 3, 10), strict=True))
_OPTIONS = {
    "name": "--name",
    "budget.trials": "--trials",
    "budget.epochs": "--epochs",
    "protocol.final_rounds": "--rounds",
    "protocol.looks": "--looks",
    "seed": "--seed",
}


def format_of(tree: object) -> type[StudySpec]:
    """How a spec is written that has these keys: without an experiment in the first format, the digits'."""
    from hpo.study.digits_spec import DigitsSpec  # built on this module

    return StudySpec if isinstance(tree, Mapping) and "experiment" in tree else DigitsSpec


def compact_json(tree: object, sort_keys: bool = True) -> str:
    """The one JSON text of plain values."""
    return json.dumps(tree, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False)


def _with_floats(space: dict[str, Any]) -> dict[str, Any]:
    """The bounds of ranges of floats as floats."""
    return {
        name: {**entry, "low": float(entry["low"]), "high": float(entry["high"])}
        if isinstance(entry, Mapping) and "low" in entry and not entry.get("int")
        else entry
        for name, entry in space.items()
    }
