"""Tables of rows, whatever holds them: an array, a mapping of arrays, a data frame; their columns and their hashes.

n rows.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ExperimentError

RowColumn = NDArray[Any]
_ROWS_A_CLASS = 10  # whole numbers with fewer rows each are quantities, not classes


def columns_of(x: Any) -> dict[str, Any]:
    """The columns by name; an array is the single column x."""
    if isinstance(x, Mapping):
        return dict(x)
    if hasattr(x, "iloc") and hasattr(x, "columns"):
        return {str(name): np.asarray(x[name]) for name in x.columns}
    return {"x": x}


def column(x: Any, name: str) -> RowColumn:
    """A column (n,); ExperimentError lists those that exist."""
    there: Sequence[Any] = list(x) if isinstance(x, Mapping) else list(getattr(x, "columns", []))
    if name not in there:
        known = ", ".join(map(str, there)) if there else "none: x is an array"
        raise ExperimentError(f"rows: there is no column {name!r}; there are {known}")
    return np.asarray(x[name])


def without(x: Any, names: Sequence[str]) -> Any:
    """The table without these columns; ExperimentError where none are left."""
    if not names:
        return x
    if isinstance(x, Mapping):
        rest: Any = {name: values for name, values in x.items() if name not in names}
    else:
        rest = x.drop(columns=list(names))
    if not len(rest if isinstance(rest, Mapping) else rest.columns):
        raise ExperimentError(f"rows: without {', '.join(names)} x has no column left")
    return rest


def known(values: RowColumn, name: str) -> RowColumn:
    """The column itself; ExperimentError where values are missing."""
    missing = np.array([value is None or value != value for value in values.ravel().tolist()], dtype=bool)
    if missing.any():
        rows = np.flatnonzero(missing)
        raise ExperimentError(f"rows: {name!r} is missing in {len(rows)} rows, the first is row {rows[0] + 1}")
    return values


def codes(values: RowColumn) -> RowColumn:
    """(n,) the number of each entry among the distinct ones."""
    return np.asarray(np.unique(values, return_inverse=True)[1])


def classes(y: Any) -> RowColumn | None:
    """(n,) codes of the classes of y; None where its values are no classes: fractions, or nearly all different."""
    values = np.asarray(y)
    if values.ndim != 1 or (values.dtype.kind == "f" and not np.all(values == np.floor(values))):
        return None
    numbers = codes(values)
    return numbers if numbers.max() + 1 <= max(2, len(values) // _ROWS_A_CLASS) else None


def row_hashes(x: Any, y: Any) -> NDArray[np.uint64]:
    """(n,) a hash of each row's content: equal rows have equal ones, on any machine and whatever their order."""
    parts = [_texts(values) for values in [*columns_of(x).values(), *([] if y is None else [y])]]
    hashed = (hashlib.sha256("\x1f".join(row).encode()).digest()[:8] for row in zip(*parts, strict=True))
    return np.fromiter((int.from_bytes(digest, "little") for digest in hashed), dtype=np.uint64, count=len(parts[0]))


def _texts(values: Any) -> list[str]:
    """Each entry as a text that two equal ones share, whatever their type on disk: 1, 1.0 and int8(1) are equal."""
    array = np.asarray(values)
    if array.ndim > 1:
        flat = np.ascontiguousarray(array.reshape(len(array), -1))
        if flat.dtype.kind in "biuf":
            return [row.tobytes().hex() for row in flat.astype(np.float64) + 0.0]  # -0.0 is 0.0
        return ["\x1e".join(_texts(row)) for row in flat]
    if array.dtype.kind in "biuf":
        return [repr(value) for value in (array.astype(np.float64) + 0.0).tolist()]
    return [str(value) for value in array.tolist()]
