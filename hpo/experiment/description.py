"""An experiment in plain types: all that studies, workers and reports need of it, without importing its code."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Value


@dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """One of the compared models."""

    space: Mapping[str, Any]  # as Space.to_plain
    reference: Mapping[str, Value]
    label: str  # what slots and reports call the reference configuration
    epochs: int | None  # its own; None: the study's
    published: Mapping[str, float]  # by metric
    code_digest: str  # of what its training runs
    remarks: tuple[str, ...] = ()  # what a user should look at in its code
    needed: tuple[str, ...] | None = None  # the hyperparameters that a recipe has in every training; None: a function
    structure: tuple[str, ...] = ()  # those of them that its module is made from
    by_lanes: bool = False  # a process may train several at once


@dataclass(frozen=True, kw_only=True)
class Description:
    """An experiment whose pools lie in a folder."""

    locator: str  # absolute: FILE:NAME or MODULE:NAME
    folder: Path  # of the pools, as child processes read them
    name: str
    version: int
    metrics: tuple[MetricInfo, ...]
    models: Mapping[str, ModelDescription]
    data_digest: str
    about: str = ""  # a sentence on the data
    sizes: Mapping[str, int] = field(default_factory=dict)  # items by pool, where they are rows
    remarks: tuple[str, ...] = ()  # what a user should know of the split
    defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by section of a study
    options: Mapping[str, Value] = field(default_factory=dict)  # of the data, with their defaults: a study's [data]

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "folder": str(self.folder)}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """What `to_plain` gave."""
        return cls(
            **{
                **plain,
                "folder": Path(plain["folder"]),
                "metrics": tuple(MetricInfo(**metric) for metric in plain["metrics"]),
                "models": {
                    name: ModelDescription(
                        **{
                            **model,
                            "remarks": tuple(model["remarks"]),
                            "structure": tuple(model["structure"]),
                            "needed": None if model["needed"] is None else tuple(model["needed"]),
                        }
                    )
                    for name, model in plain["models"].items()
                },
                "remarks": tuple(plain["remarks"]),
            }
        )
