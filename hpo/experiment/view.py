"""What an experiment's `sections` sees of its results: plain records and arrays, whatever made them.

Shapes: n test items of a round, u units of an item.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from hpo.experiment.messages import Message
from hpo.experiment.spaces import Value


@dataclass(frozen=True, kw_only=True, eq=False)
class FinalRound:
    """One final round: a training that was tested on pool B."""

    number: int  # rounds of one number are paired
    slot: int  # of the database; a round that stands under two labels has one
    seed: int  # of the draw of its items
    opened: bool  # whether its opening of pool B is on record
    metrics: Mapping[str, float | None]  # on its test items
    columns: Mapping[str, NDArray[Any]]  # of its items (n,) or (n, u): metrics' scores, "unit", what `columns` keeps


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyView:
    """One study of the experiment."""

    name: str
    model: str
    version: int  # of the experiment
    phase: str  # search, confirm, final, done
    data_digest: str
    still_tuned: tuple[str, ...]  # studies on the same data that are in search or confirm: B is sealed as yet
    reference_label: str
    params: Mapping[str, Mapping[str, Value]]  # of the configurations that were tested, by label
    rounds: Mapping[str, Sequence[FinalRound]]  # those that are done, by label


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """All results of one experiment that a database holds."""

    studies: Sequence[StudyView] = field(default_factory=tuple)

    @property
    def models(self) -> list[str]:
        """The models that have studies, as these were first created."""
        return list(dict.fromkeys(study.model for study in self.studies))


def to_message(view: View) -> Message:
    """The view as plain values and arrays, for another process."""
    arrays: dict[str, NDArray[Any]] = {}
    studies = []
    for study in view.studies:
        rounds = {
            label: [_plain_round(tested, arrays) for tested in of_label] for label, of_label in study.rounds.items()
        }
        params = {label: dict(values) for label, values in study.params.items()}
        studies.append({**_fields(study), "params": params, "rounds": rounds})
    return Message("view", {"studies": studies}, arrays)


def _fields(record: object) -> dict[str, Any]:
    names: Mapping[str, Any] = record.__dataclass_fields__  # type: ignore[attr-defined]  # each record here has them
    return {name: getattr(record, name) for name in names}


def _plain_round(tested: FinalRound, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """A round whose columns are the names of arrays, which are added."""
    names = {}
    for name, column in tested.columns.items():
        names[name] = str(len(arrays))
        arrays[names[name]] = column
    return {**_fields(tested), "metrics": dict(tested.metrics), "columns": names}


def from_message(message: Message) -> View:
    """What `to_message` gave."""
    return View(
        studies=tuple(
            StudyView(
                **{
                    **study,
                    "still_tuned": tuple(study["still_tuned"]),
                    "rounds": {
                        label: tuple(_round(tested, message.arrays) for tested in of_label)
                        for label, of_label in study["rounds"].items()
                    },
                }
            )
            for study in message.values["studies"]
        )
    )


def _round(tested: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> FinalRound:
    return FinalRound(**{**tested, "columns": {name: arrays[key] for name, key in tested["columns"].items()}})
