"""The first format of specs, which is the digits' alone: their models, hyperparameters, draws and limits.

Stored results carry its digests, so what it reads and writes is as it always was.
"""

import functools
import math
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from pydantic import Field, ValidationInfo, field_validator, model_validator

from hpo.experiment import shipped
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Float, Space, Value
from hpo.study.spec_errors import near
from hpo.study.study_spec import (
    Budget,
    Count,
    Few,
    LookRounds,
    Margin,
    Record,
    Sampler,
    Seed,
    StudySpec,
    Values,
    check_looks,
    compact_json,
    is_none,
)
from hpo.study.traits import Traits
from hpo.training.augmentation import SAMPLES_PER_PAIR

EXPERIMENT = shipped.NAME
ModelName = Literal["simple", "ws", "ws-aux"]
MODELS: tuple[ModelName, ...] = get_args(ModelName)
_ALL_MODELS = ("learning_rate", "weight_decay", "dropout")
HYPERPARAMETERS: Mapping[str, tuple[str, ...]] = {
    "simple": _ALL_MODELS,
    "ws": _ALL_MODELS,
    "ws-aux": (*_ALL_MODELS, "aux_weight", "main_weight"),
}
"""What is tuned, by model, in the order of every table and file."""

_PAPER = {"learning_rate": 3e-3, "weight_decay": 2.5e-5, "dropout": 0.15, "aux_weight": 1.0, "main_weight": 0.5}
MOST_BATCH = 10_000  # samples
MOST_VALIDATION_PAIRS = 100_000
CHANCE = 0.5  # the accuracy of a training that diverged
MARGIN = 0.005  # of accuracies: less is practically the same, unless a study says otherwise
SINGLE_ANSWER = 0.55  # of always answering yes: the share of digit 1 <= digit 2 where digits are uniform
METRICS = (
    MetricInfo(name="accuracy", diverged=CHANCE, margin=MARGIN),
    MetricInfo(name="cross_entropy", maximize=False, diverged=40.0, unit="nats"),
)

_LIMITS: Mapping[str, tuple[float, bool, float, bool]] = {  # low, inclusive?, high, inclusive?
    "learning_rate": (0.0, False, math.inf, False),
    "weight_decay": (0.0, True, math.inf, False),
    "dropout": (0.0, True, 1.0, False),
    "aux_weight": (0.0, True, math.inf, False),
    "main_weight": (0.0, True, math.inf, False),
}


class Range(Record):
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


class DigitsSampler(Sampler):
    """How the search proposes configurations; the start-up trials are random whatever the name."""

    name: Literal["tpe", "gp", "random"] = "tpe"


class DigitsBudget(Budget):
    """What the search may spend."""

    max_seconds: None = Field(default=None, exclude=True)


class DigitsProtocol(Record):
    """The rules of the comparison: draws, confirmation and final rounds."""

    seed: Seed = 2019  # of confirm and final, shared by all models so that rounds are paired
    batch_size: Count = 100  # samples; the last batch of an epoch may be smaller
    training_pairs: Count = 1000  # before augmentation: each gives SAMPLES_PER_PAIR samples
    validation_pairs: Count = 2000
    test_pairs: Count = 1000
    confirm_configurations: Few = 5  # besides the paper's
    confirm_rounds: Few = 10
    final_rounds: Few = 20
    folds: int = Field(default=1, exclude=True)
    margin: Margin = Field(default=None, exclude_if=is_none)
    looks: LookRounds = Field(default=None, exclude_if=is_none)

    @model_validator(mode="after")
    def _begins_with_its_rounds(self) -> Self:
        check_looks(self.looks, self.final_rounds)
        return self

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return SAMPLES_PER_PAIR * self.training_pairs


class DigitsSpec(StudySpec):
    """One of the digits' models: what an experiment says is not stored but known here."""

    experiment: str = Field(default=EXPERIMENT, exclude=True)
    version: int = Field(default=1, exclude=True)
    model: ModelName
    name: str = Field(default_factory=lambda fields: str(fields.get("model", "")))
    metrics: tuple[MetricInfo, ...] = Field(default=METRICS, exclude=True)
    data: dict[str, Value] = Field(default={}, exclude=True)
    model_epochs: None = Field(default=None, exclude=True)
    space: dict[str, Range]
    sampler: DigitsSampler = DigitsSampler()
    budget: DigitsBudget = DigitsBudget()
    protocol: DigitsProtocol = DigitsProtocol()  # type: ignore[assignment]  # its keys stand in another order
    reference: dict[str, float] = Field(alias="paper")
    reference_label: str = Field(default="paper", exclude=True)
    chosen_reference: bool = Field(default=False, exclude=True)
    tuned: dict[str, float] | None = None
    published: dict[str, float] = Field(default={}, exclude=True)

    @field_validator("space")
    @classmethod
    def _whole_space(cls, space: dict[str, Any]) -> dict[str, Any]:
        return space

    @field_validator("reference", "tuned")
    @classmethod
    def _as_floats(cls, values: Values | None, info: ValidationInfo) -> Values | None:
        return values

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for key, values in (("space", self.space), ("paper", self.reference), ("tuned", self.tuned)):
            if values is not None:
                _check_names(key, values, self.model)
        for name, bounds in self.space.items():
            _check_limits(f"space.{name}.low", name, bounds.low)
            _check_limits(f"space.{name}.high", name, bounds.high)
        for key, configuration in (("paper", self.reference), ("tuned", self.tuned or {})):
            for name, value in configuration.items():
                _check_limits(f"{key}.{name}", name, value)
                if self.budget.trials and self.space[name].log and value <= 0:  # as a trial it has a place on the scale
                    raise ValueError(f"{key}.{name}: 0 has no place in a range with log = true; take a tiny value")
        return self

    @functools.cached_property
    def parsed_space(self) -> Space:
        """What is tuned, in the order of every table and file."""
        ranges = {name: self.space[name] for name in HYPERPARAMETERS[self.model]}
        return Space.of({name: Float(r.low, r.high, log=r.log) for name, r in ranges.items()})

    @property
    def has_shipped_reference(self) -> bool:
        """Whether it is the paper's."""
        return all(_PAPER[name] == value for name, value in self.reference.items())

    @functools.cached_property
    def traits(self) -> Traits:
        """Those of pairs of images, drawn anew for each round."""
        protocol = self.protocol
        return Traits(
            items="images",
            draws={
                "batch_size": protocol.batch_size,
                "training_pairs": protocol.training_pairs,
                "test_pairs": protocol.test_pairs,
            },
            validation_items=protocol.validation_pairs,
            redraws_test=True,
            measures_training=True,
            usual_epochs=Budget().epochs,
            learned_above=constant_answer(protocol.validation_pairs),
            weighs_losses="aux_weight" in self.space,
            place=MODELS.index(self.model),
        )

    @property
    def goes_by_epochs(self) -> bool:
        """They do."""
        return True

    @property
    def diverged_drops(self) -> bool:
        """A diverged round counts, at chance."""
        return False

    def canonical(self) -> str:
        """Return the one JSON text of this spec: keys sorted, no blanks."""
        return compact_json(self.model_dump(mode="json"))

    def _followed(self, values: Mapping[tuple[str, ...], object]) -> Mapping[tuple[str, ...], object]:
        return values


def constant_answer(pairs: int) -> float:
    """The accuracy on so many pairs that a constant answer does not exceed: four standard errors above its mean."""
    return SINGLE_ANSWER + 4 * math.sqrt(SINGLE_ANSWER * (1 - SINGLE_ANSWER) / pairs)


def _check_names(key: str, values: Mapping[str, object], model: str) -> None:
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
