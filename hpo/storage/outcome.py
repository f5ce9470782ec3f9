"""What a training gave: one record, written and read here alone, with a final round's packed answers.

Format 1 is the digits' alone: its values are accuracies, its losses cross entropies. Format 2 has any metric's.
Shapes: E test pairs.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hpo.errors import DatabaseError

FORMAT = 2  # of the stored text; raised with every field that is added, so that older readers refuse it by name
_BASE = 10  # of the code for two digits
_HIGHEST_CODE = 1 + 2 * (_BASE * _BASE - 1)

OutcomeState = Literal["complete", "pruned", "diverged"]
Whole = Annotated[int, Field(ge=0)]
Accuracy = Annotated[float, Field(ge=0, le=1)]
Loss = Annotated[float, Field(ge=0)]  # cross entropy
Seconds = Annotated[float, Field(ge=0)]


class UnreadableOutcome(DatabaseError):
    """A stored outcome of a newer format, damaged, or without sense: which slot, and what is wrong with it."""


class NewerOutcome(UnreadableOutcome):
    """A stored outcome of a format that a newer hpo writes; it is whole, and that hpo reads it."""


class Seeds(BaseModel):
    """The two seeds that made a training."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    slot: int  # initialisation, order, dropout
    draw: int  # the pairs


class Outcome(BaseModel):
    """The whole result of a training, as it is stored in its slot."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    state: OutcomeState
    value: float  # of the first metric; search, confirm: on validation items; final: on test items
    loss: float | None  # of the second metric with it; None where it diverged, or there is none
    train_accuracy: Accuracy | None  # after the last epoch; None where it did not get there, or is not measured
    epochs: Whole  # trained; 0: its method has none
    train_loss: tuple[float | None, ...]  # by epoch; None where it was not finite
    validation_accuracy: tuple[float, ...]  # by epoch, of the first metric; empty in final rounds
    metrics: Mapping[str, float | None] = {}  # by name, all of them; format 1 has none. None: not for such outputs
    numbers: Mapping[str, float | None] = {}  # the last that the training reported, unjudged
    memory: Whole | None = None  # bytes that the training's process had at its end
    items: Whole | None = None  # how many it was measured on
    units_digest: str | None = None  # final: of what the test items were sampled from, in order
    code_digest: str | None = None  # of the code that trained
    seconds: Seconds  # in a lane: lanes of one device train side by side
    device_seconds: Seconds | None = None  # of the device, shared among lanes; results made before 0.1.0 have none
    resumed_at: tuple[Whole, ...] = ()  # epochs after which it went on from a checkpoint
    attempt: Annotated[int, Field(ge=1)]
    worker: str | None
    device: str
    versions: Mapping[str, str]
    git_commit: str | None
    spec_digest: str
    data_digest: str
    seeds: Seeds

    @model_validator(mode="after")
    def _curves_fit(self) -> Self:
        if self.train_loss and len(self.train_loss) != self.epochs:
            raise ValueError(f"{self.epochs} epochs, but {len(self.train_loss)} training losses")
        if len(self.validation_accuracy) > self.epochs:
            raise ValueError(f"{self.epochs} epochs, but {len(self.validation_accuracy)} validation accuracies")
        return self

    def to_json(self) -> str:
        """The text that is stored."""
        return json.dumps({"format": FORMAT, **self.model_dump(mode="json")}, sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, where: str) -> Self:
        """Read what `to_json` wrote, in this or an earlier version; `where` names its place in messages.

        Raises UnreadableOutcome.
        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise UnreadableOutcome(f"{where}: its outcome is not JSON: {error}") from error
        return cls.from_fields(fields, where)

    @classmethod
    def from_fields(cls, fields: object, where: str) -> Self:
        """As `from_json`, from what is parsed already."""
        if not isinstance(fields, dict):
            raise UnreadableOutcome(f"{where}: its outcome is not a record")
        stored = dict(fields)
        version = stored.pop("format", 1)  # the first results carry none
        if isinstance(version, int) and version > FORMAT:
            raise NewerOutcome(
                f"{where}: its outcome has format {version}, this hpo reads formats up to {FORMAT}; use the version of "
                "hpo that wrote it, or a newer one"
            )
        if version not in range(1, FORMAT + 1):
            raise UnreadableOutcome(f"{where}: its outcome has format {version!r}, which no hpo has written")
        later = [name for name in _SINCE_2 if name in stored] if version == 1 else []
        if later:
            raise UnreadableOutcome(f"{where}: its outcome is invalid: format 1 has no {later[0]}")
        text = json.dumps(stored)
        try:
            if version == 1:
                _FirstFormat.model_validate_json(text)
            return cls.model_validate_json(text)  # JSON's lists are tuples there
        except ValidationError as error:
            raise UnreadableOutcome(f"{where}: its outcome is invalid: {first_problem(error)}") from error


class _FirstFormat(BaseModel):
    """What format 1 promises beyond the fields' types."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    value: Accuracy
    loss: Loss | None
    validation_accuracy: tuple[Accuracy, ...]


_SINCE_2 = ("metrics", "numbers", "memory", "items", "units_digest", "code_digest")


def first_problem(error: ValidationError) -> str:
    """What is wrong with a record: its first problem, and where."""
    first, *others = error.errors(include_url=False)
    place = ".".join(str(part) for part in first["loc"])
    problem = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(others)} more)" if others else ""
    return f"{place}: {problem}{more}" if place else f"{problem}{more}"


def pack_answers(answer: NDArray[Any], digits: NDArray[Any] | None) -> bytes:
    """One byte a test pair: answer + 2 * (10 * digit 1 + digit 2), digits 0 where the model names none.

    answer (E,) is 0 or 1; digits (E, 2) are 0 to 9.
    """
    code = np.asarray(answer).astype(np.uint8)
    if digits is not None:
        code = code + 2 * (_BASE * digits[:, 0] + digits[:, 1]).astype(np.uint8)
    return code.tobytes()


def unpack_answers(packed: bytes, where: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The answers (E,) and the digits that the model named (E, 2); UnreadableOutcome where no answers are packed."""
    code = np.frombuffer(packed, dtype=np.uint8).astype(np.int64)
    if code.size and code.max() > _HIGHEST_CODE:
        raise UnreadableOutcome(f"{where}: its packed answers hold {code.max()}, {_HIGHEST_CODE} is the highest code")
    return code % 2, np.stack([code // 2 // _BASE, code // 2 % _BASE], axis=1)
