"""What an experiment's `columns` gives of a final round's test items, chunk by chunk, checked before it is stored.

Shapes: n items of a chunk or of the round, u entries of an item.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ExperimentError
from hpo.experiment.experiment import Experiment
from hpo.experiment.items import Items
from hpo.experiment.metrics import array_of

UNIT = "unit"  # the column that says what items were sampled from
LONGEST_NAME = 64  # characters
WIDEST = 64  # entries of an item
_KINDS = "biuf"  # numpy's: truth values, whole numbers, others


class KeptColumns:
    """The named columns of a round's items."""

    def __init__(self, experiment: Experiment) -> None:
        self._columns = experiment.columns
        self._taken = {metric.name for metric in experiment.metrics} | {UNIT}
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self._chunks = 0

    def add(self, outputs: Any, items: Items) -> None:
        """Keep what belongs to the outputs for these items; ExperimentError where that cannot be stored."""
        if self._columns is None:
            return
        columns = {name: array_of(values) for name, values in self._columns(outputs, items).items()}
        if self._chunks and columns.keys() != self._parts.keys():
            raise ExperimentError(f"columns gave {_names(columns)} for some items and {_names(self._parts)} for others")
        for name, values in columns.items():
            if problem := self._problem(name, values, len(items)):
                raise ExperimentError(f"columns: {name!r:.80}: {problem}")
            wide = values.dtype.kind == "f" and values.dtype != np.float32
            self._parts.setdefault(name, []).append(values.astype(np.float64) if wide else values)
        self._chunks += 1

    def joined(self) -> dict[str, NDArray[Any]]:
        """All of them, (n,) or (n, u) by name."""
        return {name: np.concatenate(parts) for name, parts in self._parts.items()}

    def _problem(self, name: Any, values: NDArray[Any], n: int) -> str:
        if not isinstance(name, str) or not name.isidentifier() or len(name) > LONGEST_NAME:
            return f"a column's name must be an identifier of at most {LONGEST_NAME} characters"
        if name in self._taken:
            return "is stored already, as a metric or what items were sampled from; take another name"
        if values.dtype.kind not in _KINDS:
            return f"must hold numbers or truth values, not {values.dtype}"
        if values.ndim not in (1, 2) or len(values) != n or (values.ndim == 2 and not 1 <= values.shape[1] <= WIDEST):
            return f"has the shape {values.shape}, but must be ({n},) or ({n}, u) with u up to {WIDEST}"
        return ""


def _names(columns: dict[str, Any]) -> str:
    return ", ".join(columns) or "nothing"
