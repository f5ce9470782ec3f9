"""Data sets of rows: two pools that never meet, split by what the rows hold, and draws of training and validation rows.

The share of a row is a hash of its content, or of its group, so that more rows move none from one pool to the other.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ExperimentError
from hpo.experiment.items import Draw, Items, length, take

Load = Callable[[], tuple[Any, Any]]
RowColumn = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class RowPool:
    """The rows of one pool, and what draws from it go by."""

    items: Items
    group: RowColumn | None = None  # (n,) codes; rows of one group are never parted
    time: RowColumn | None = None  # (n,) sorts; validation rows are later than training rows
    official: NDArray[np.bool_] | None = None  # (n,) the rows that validate, where the data set says so
    stratum: RowColumn | None = None  # (n,) codes of classes; draws keep their shares


@dataclass(frozen=True, kw_only=True)
class Split:
    """Both pools, and what a user should know about them."""

    a: RowPool
    b: RowPool
    digest: str  # of all rows and of how they were split
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A data set of rows and the way to split it; see `rows`."""

    load: Load
    test: float | str
    validation: float | str = 0.25
    group: str = ""
    time: str = ""
    gap: Any = 0
    stratify: bool = True
    taken: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("test", "validation"):
            value = getattr(self, name)
            if not isinstance(value, str) and not 0 < value < 1:
                raise ExperimentError(
                    f"rows: {name} must be a share between 0 and 1, or a column's name, not {value!r}"
                )
        columns = [column for column in (self.test, self.validation, self.group, self.time) if isinstance(column, str)]
        object.__setattr__(self, "taken", tuple(dict.fromkeys(filter(None, columns))))

    def split(self) -> Split:
        """Load the rows and split them; ExperimentError where that cannot be done."""
        x, y = self.load()
        columns = {name: _column(x, name) for name in self.taken}
        x = _without(x, self.taken)
        n = length(x)
        if y is None or len(y) != n:
            raise ExperimentError(f"rows: {'no' if y is None else len(y)} targets for {n} rows")
        hashes = row_hashes(x, y)
        group = _codes(columns[self.group]) if self.group else None
        times = columns.get(self.time)
        in_b, kept = self._pools(columns, hashes, times)
        remarks = _remarks(hashes, in_b, kept)
        if group is not None and times is None:
            _refuse_overlap(columns[self.group], in_b, self.group)
        pools = []
        for wanted in (kept & ~in_b, kept & in_b):
            index = np.flatnonzero(wanted)
            if not len(index):
                raise ExperimentError(
                    f"rows: one of the pools is empty ({int(in_b.sum())} of {n} rows are for the test)"
                )
            pools.append(self._pool(x, y, index, columns, group))
        way = repr((self.test, self.validation, self.group, self.time, self.gap, self.stratify))
        content = hashlib.sha256(way.encode())
        content.update(np.sort(hashes).tobytes())
        return Split(a=pools[0], b=pools[1], digest=content.hexdigest(), remarks=remarks)

    def _pools(
        self, columns: Mapping[str, RowColumn], hashes: NDArray[np.uint64], times: RowColumn | None
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(n,) which rows are B's, and (n,) which are in a pool at all: those within the gap are in none."""
        everything = np.ones(len(hashes), dtype=bool)
        if isinstance(self.test, str):
            return _mask(columns[self.test], self.test), everything
        if times is not None:
            start = np.sort(times)[len(times) - max(1, round(self.test * len(times)))]
            in_b = times >= start
            return in_b, in_b | (times < start - self.gap)
        key = hashes if not self.group else row_hashes(columns[self.group], None)
        return _share_of(key) < self.test, everything

    def _pool(
        self, x: Any, y: Any, index: NDArray[np.intp], columns: Mapping[str, RowColumn], group: RowColumn | None
    ) -> RowPool:
        official = _mask(columns[self.validation], self.validation)[index] if isinstance(self.validation, str) else None
        return RowPool(
            items=Items(x=take(x, index), y=take(y, index), unit=None if group is None else group[index]),
            group=None if group is None or self.time else group[index],
            time=columns[self.time][index] if self.time else None,
            official=official,
            stratum=_classes(take(y, index)) if self.stratify else None,
        )

    def draw(self, pool: RowPool, draw: Draw) -> tuple[Items, Items]:
        """Training and validation rows of pool A, for one seed (and fold)."""
        chosen = self._validation(pool, draw)
        return pool.items.take(np.flatnonzero(~chosen)), pool.items.take(np.flatnonzero(chosen))

    def _validation(self, pool: RowPool, draw: Draw) -> NDArray[np.bool_]:
        """(n,) which rows of the pool validate."""
        if pool.official is not None:
            return pool.official
        assert not isinstance(self.validation, str)
        if pool.time is not None:
            order = np.argsort(pool.time, kind="stable")
            chosen = np.zeros(len(order), dtype=bool)
            chosen[order[len(order) - max(1, round(self.validation * len(order))) :]] = True
            return chosen
        # Every unit (a row or a group) gets a place in its stratum; folds are consecutive shares of the places.
        units, place = np.unique(pool.group, return_inverse=True) if pool.group is not None else (None, None)
        n = len(pool.items) if units is None else len(units)
        strata = _unit_strata(pool, place, n)
        rank = _ranks(strata, draw.rng("validation"))
        low = draw.fold / draw.folds if draw.folds > 1 else 0.0
        high = (draw.fold + 1) / draw.folds if draw.folds > 1 else self.validation
        chosen = (rank >= low) & (rank < high)
        return chosen if place is None else chosen[place]


def rows(
    load: Load,
    *,
    test: float | str,
    validation: float | str = 0.25,
    group: str = "",
    time: str = "",
    gap: Any = 0,
    stratify: bool = True,
) -> Rows:
    """A data set of rows, split into a pool A for tuning and training and a pool B for the final test.

    `load` gives (x, y): x an array (n, ...), a mapping of arrays or a data frame; y (n,) targets. `test` and
    `validation` are shares, or names of columns of x that say which rows these are. Rows of one `group` share a
    pool; with `time` the latest rows are the test, after a `gap` that is left out. These columns are removed from
    x. Where y has classes, `stratify` keeps their shares in every draw.
    """
    return Rows(load=load, test=test, validation=validation, group=group, time=time, gap=gap, stratify=stratify)


# --- Hashes -------------------------------------------------------------------------------------------------


def row_hashes(x: Any, y: Any) -> NDArray[np.uint64]:
    """(n,) a hash of each row's content: equal rows have equal ones, on any machine and whatever their order."""
    parts = [_texts(values) for values in [*_columns_of(x).values(), *([] if y is None else [y])]]
    hashed = (hashlib.sha256("\x1f".join(row).encode()).digest()[:8] for row in zip(*parts, strict=True))
    return np.fromiter((int.from_bytes(digest, "little") for digest in hashed), dtype=np.uint64, count=len(parts[0]))


def _share_of(hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    """(n,) in 0..1, uniform."""
    return (hashes >> np.uint64(11)).astype(np.float64) / 2.0**53


def _texts(values: Any) -> list[str]:
    """Each entry as a text that two equal ones share, whatever their type on disk: 1, 1.0 and int8(1) are equal."""
    array = np.asarray(values)
    if array.ndim > 1:
        flat = np.ascontiguousarray(array.reshape(len(array), -1))
        if flat.dtype.kind in "biuf":
            return [row.tobytes().hex() for row in flat.astype(np.float64)]
        return ["\x1e".join(_texts(row)) for row in flat]
    if array.dtype.kind in "biuf":
        return [repr(value) for value in (array.astype(np.float64) + 0.0).tolist()]  # -0.0 is 0.0
    return [str(value) for value in array.tolist()]


# --- Columns ------------------------------------------------------------------------------------------------


def _columns_of(x: Any) -> dict[str, Any]:
    if isinstance(x, Mapping):
        return dict(x)
    if hasattr(x, "iloc") and hasattr(x, "columns"):
        return {str(name): np.asarray(x[name]) for name in x.columns}
    return {"x": x}


def _column(x: Any, name: str) -> RowColumn:
    """A column that the split goes by, as an array (n,)."""
    there: Sequence[Any] = list(x) if isinstance(x, Mapping) else list(getattr(x, "columns", []))
    if name not in there:
        known = ", ".join(map(str, there)) if there else "none: x is an array"
        raise ExperimentError(f"rows: there is no column {name!r}; there are {known}")
    return np.asarray(x[name])


def _without(x: Any, names: Sequence[str]) -> Any:
    if not names:
        return x
    if isinstance(x, Mapping):
        return {name: values for name, values in x.items() if name not in names}
    return x.drop(columns=list(names))


def _mask(values: RowColumn, name: str) -> NDArray[np.bool_]:
    distinct = set(np.unique(values).tolist())
    if not distinct <= {0, 1}:
        raise ExperimentError(f"rows: column {name!r} is no mask: it must be True or False in each row")
    return values.astype(bool)


def _codes(values: RowColumn) -> RowColumn:
    return np.asarray(np.unique(values, return_inverse=True)[1])


def _classes(y: Any) -> RowColumn | None:
    """(n,) codes of the classes of y; None where its values are no classes: fractions, or nearly all different."""
    values = np.asarray(y)
    if values.ndim != 1 or (values.dtype.kind == "f" and not np.all(values == np.floor(values))):
        return None
    codes = _codes(values)
    return codes if codes.max() + 1 <= max(2, len(values) // 10) else None


# --- Strata and checks ----------------------------------------------------------------------------------------


def _unit_strata(pool: RowPool, place: NDArray[np.intp] | None, n: int) -> RowColumn:
    """(n,) the stratum of each unit; a group's is that of most of its rows."""
    if pool.stratum is None:
        return np.zeros(n, dtype=np.intp)
    if place is None:
        return pool.stratum
    counts = np.zeros((n, int(pool.stratum.max()) + 1))
    np.add.at(counts, (place, pool.stratum), 1)
    return np.asarray(counts.argmax(1))


def _ranks(strata: RowColumn, rng: np.random.Generator) -> NDArray[np.float64]:
    """(n,) the place of each unit in its stratum in 0..1, in an order at random."""
    rank = np.empty(len(strata))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        rank[members[rng.permutation(len(members))]] = (np.arange(len(members)) + rng.random()) / len(members)
    return rank


def _refuse_overlap(groups: RowColumn, in_b: NDArray[np.bool_], name: str) -> None:
    shared = sorted(set(groups[in_b].tolist()) & set(groups[~in_b].tolist()), key=str)
    if shared:
        raise ExperimentError(
            f"rows: {len(shared)} groups of {name!r} stand in both pools, for example {shared[0]!r}; "
            "the mask must not part them"
        )


def _remarks(hashes: NDArray[np.uint64], in_b: NDArray[np.bool_], kept: NDArray[np.bool_]) -> tuple[str, ...]:
    remarks = []
    double = np.intersect1d(hashes[in_b & kept], hashes[~in_b & kept])
    if len(double):
        remarks.append(f"{len(double)} different rows stand in both pools")
    if left_out := int((~kept).sum()):
        remarks.append(f"{left_out} rows within the gap are in neither pool")
    return tuple(remarks)
