"""Pools of rows as files: written by a process that never trains, mapped by those that do. Nothing is pickled.

An array is a .npy file; texts and mixed values are JSON; a data frame is a folder with a file a column and their types.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hpo.errors import ExperimentError
from hpo.experiment.items import Items
from hpo.experiment.rows import RowPool

_PARTS = ("group", "time", "official", "stratum")
_PLAIN = (str, int, float, bool, type(None))


def save(pool: RowPool, folder: Path) -> None:
    """Write a pool into a new folder; ExperimentError where values have no form that can be read back."""
    folder.mkdir(parents=True)
    for name in _PARTS:
        if (part := getattr(pool, name)) is not None:
            _save(part, folder / name)
    _save(pool.items.x, folder / "x")
    for name, values in (("y", pool.items.y), ("unit", pool.items.unit)):
        if values is not None:
            _save(values, folder / name)


def load(folder: Path) -> RowPool:
    """Read what `save` wrote; arrays are mapped, not copied, and cannot be written to."""
    there = {name: _load(folder / name) for name in (*_PARTS, "y", "unit") if _exists(folder / name)}
    items = Items(x=_load(folder / "x"), y=there.pop("y", None), unit=there.pop("unit", None))
    return RowPool(items=items, **there)


def _exists(path: Path) -> bool:
    return path.is_dir() or any(path.with_suffix(suffix).exists() for suffix in (".npy", ".json"))


def _save(values: Any, path: Path) -> None:
    if isinstance(values, Mapping):
        _save_columns({str(name): column for name, column in values.items()}, path, kind="mapping")
    elif hasattr(values, "iloc") and hasattr(values, "columns"):
        columns = {str(name): values[name] for name in values.columns}
        _save_columns(columns, path, kind="frame")
    elif hasattr(values, "iloc"):  # a series: its values, without the index
        _save_columns({"values": values}, path, kind="series")
    else:
        _save_array(np.asarray(values), path)


def _save_array(array: Any, path: Path) -> None:
    if array.dtype.kind != "O":
        np.save(path.with_suffix(".npy"), array, allow_pickle=False)
        return
    listed = array.tolist()
    missing = [None if value != value else value for value in listed] if array.ndim == 1 else listed  # NaN
    if array.ndim != 1 or not all(isinstance(value, _PLAIN) for value in missing):
        odd = next((value for value in missing if not isinstance(value, _PLAIN)), missing)
        kind = type(odd).__name__
        raise ExperimentError(f"rows: a value of type {kind} cannot be stored; take numbers, texts or dates")
    path.with_suffix(".json").write_text(json.dumps(missing))


def _save_columns(columns: Mapping[str, Any], path: Path, *, kind: str) -> None:
    path.mkdir()
    about: list[dict[str, Any]] = []
    for place, (name, column) in enumerate(columns.items()):
        dtype = str(column.dtype) if hasattr(column, "dtype") else "object"
        described: dict[str, Any] = {"name": name, "dtype": dtype}
        if kind != "mapping" and dtype == "category":
            described |= {"categories": column.cat.categories.tolist(), "ordered": bool(column.cat.ordered)}
            column = column.cat.codes
        elif kind != "mapping" and not _has_numpy_type(column):
            column = column.astype(object).where(column.notna(), None)  # extension types: texts, nullable numbers
        _save_array(np.asarray(column), path / str(place))
        about.append(described)
    (path / "columns.json").write_text(json.dumps({"kind": kind, "columns": about}))


def _has_numpy_type(column: Any) -> bool:
    return isinstance(column.dtype, np.dtype)


def _load(path: Path) -> Any:
    if path.is_dir():
        return _load_columns(path)
    if (array := path.with_suffix(".npy")).exists():
        return np.load(array, mmap_mode="r", allow_pickle=False)
    listed = json.loads(path.with_suffix(".json").read_text())
    values = np.empty(len(listed), dtype=object)
    values[:] = listed
    return values


def _load_columns(path: Path) -> Any:
    about = json.loads((path / "columns.json").read_text())
    loaded = [_load(path / str(place)) for place in range(len(about["columns"]))]
    if about["kind"] == "mapping":
        return {column["name"]: values for column, values in zip(about["columns"], loaded, strict=True)}
    import pandas as pd  # type: ignore[import-untyped]  # ships no types

    series = {}
    for column, values in zip(about["columns"], loaded, strict=True):
        if "categories" in column:
            kind = pd.CategoricalDtype(column["categories"], ordered=column["ordered"])
            series[column["name"]] = pd.Series(pd.Categorical.from_codes(np.asarray(values), dtype=kind))
        else:
            series[column["name"]] = pd.Series(values, dtype=column["dtype"])
    return series["values"] if about["kind"] == "series" else pd.DataFrame(series)
