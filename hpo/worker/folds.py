"""A trial's folds: what each of them gave, and what they come to."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from hpo.storage.outcome import Seconds


class TrainedFold(BaseModel):
    """What a child said of a fold; finished ones are kept, so that a training which goes on does not repeat them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    scores: Mapping[str, float | None]  # by metric
    items: Annotated[int, Field(ge=1)]  # that they were measured on
    numbers: Mapping[str, float | None]  # the last that were reported
    epochs: Annotated[int, Field(ge=0)]
    seconds: Seconds  # in the user's function
    memory: Annotated[int, Field(ge=0)]  # bytes
    device: str
    kernels: str | None = None  # that a recipe's training used, or why none

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From a child's answer."""
        return cls(**{name: values[name] for name in cls.model_fields if name in values})


def over_folds(folds: Sequence[TrainedFold]) -> dict[str, Any]:
    """What they come to, as a child would say it: scores are averaged; a metric that one fold has not has none."""
    scores = {}
    for name in folds[0].scores:
        known = [score for fold in folds if (score := fold.scores[name]) is not None]
        scores[name] = math.fsum(known) / len(known) if len(known) == len(folds) else None
    numbers = {name: math.nan if number is None else number for name, number in folds[-1].numbers.items()}
    items, seconds = sum(fold.items for fold in folds), math.fsum(fold.seconds for fold in folds)
    return {**folds[-1].model_dump(), "scores": scores, "numbers": numbers, "items": items, "seconds": seconds}
