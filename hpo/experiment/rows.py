"""Data sets of rows: two pools that never meet, split by what the rows hold, and draws of training and validation rows.

The share of a row is a hash of its content, or of its group, so that more rows move none from one pool to the other.
n rows.
"""

import datetime
import hashlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ExperimentError
from hpo.experiment.csv_file import read_csv
from hpo.experiment.items import Draw, DrawnRows, Items, length, take
from hpo.experiment.suspicions import suspicions
from hpo.experiment.tables import RowColumn, classes, codes, column, columns_of, known, row_hashes, without
from hpo.text import listed

Load = Callable[[], Any]
Chosen = NDArray[np.bool_]  # (n,)
SAME_VALIDATION = "the validation rows are the same in every round: rounds differ by their seed alone"


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

    load: Load | Path  # a function giving (x, y), or a CSV file
    test: float | str
    target: str = ""  # the column of x that is y
    validation: float | str = 0.25
    group: str = ""
    time: str = ""
    gap: Any = 0
    stratify: bool = True
    taken: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.load, Path) and not self.target:
            raise ExperimentError(f"rows: say which column of {self.load.name} is the target: target=COLUMN")
        if not isinstance(self.load, Path) and not callable(self.load):
            raise ExperimentError(f"rows: load must be a function or a CSV file's name, not {self.load!r}")
        for name in ("test", "validation"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (isinstance(value, int | float) and 0 < value < 1):
                raise ExperimentError(
                    f"rows: {name} must be a share between 0 and 1, or a column's name, not {value!r}"
                )
        if self.gap and not self.time:
            raise ExperimentError("rows: a gap needs time=COLUMN")
        if not isinstance(self.gap, int | float | datetime.timedelta | np.timedelta64):
            raise ExperimentError(f"rows: gap must be a number or a timedelta, not {self.gap!r}")
        names = [name for name in (self.test, self.validation, self.group, self.time) if isinstance(name, str) and name]
        if self.target in names:
            raise ExperimentError(f"rows: the target {self.target!r} cannot be what the rows are split by")
        object.__setattr__(self, "taken", tuple(dict.fromkeys(names)))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it names itself; what a function reads is not known."""
        return (self.load,) if isinstance(self.load, Path) else ()

    def split(self) -> Split:
        """Load the rows and split them; ExperimentError where that cannot be done."""
        x, y = self._loaded()
        columns = {name: column(x, name) for name in self.taken}
        x = without(x, self.taken)
        n = length(x)
        if y is None or length(y) != n:
            raise ExperimentError(f"rows: {'no' if y is None else length(y)} targets for {n} rows")
        hashes = row_hashes(x, y)
        group = codes(known(columns[self.group], self.group)) if self.group else None
        times = _sortable(columns[self.time], self.time, self.gap) if self.time else None
        in_b, kept = self._pools(columns, hashes, times)
        wanted = {"A": kept & ~in_b, "B": kept & in_b}
        for name, chosen in wanted.items():
            if not chosen.any():
                raise ExperimentError(f"rows: pool {name} is empty ({int(in_b.sum())} of {n} rows are for the test)")
        official = self._official(columns, wanted["A"])
        if group is not None and times is None:
            _refuse_overlap(columns[self.group], in_b, np.ones(n, dtype=bool), self.group, "both pools")
            if official is not None:
                _refuse_overlap(columns[self.group], official, wanted["A"], self.group, "training and validation")
        remarks = [*_remarks(hashes, in_b, kept), *_remarks_on_classes(y, wanted), *suspicions(columns_of(x), y)]
        if official is not None or times is not None:
            remarks.append(SAME_VALIDATION)
        a, b = (
            RowPool(
                items=Items(x=take(x, index), y=take(y, index), unit=None if group is None else group[index]),
                group=None if group is None or self.time else group[index],
                time=None if times is None else times[index],
                official=None if official is None else official[index],
                stratum=classes(take(y, index)) if self.stratify else None,
            )
            for index in map(np.flatnonzero, wanted.values())
        )
        way = repr((self.test, self.validation, self.group, self.time, self.gap, self.stratify))
        content = hashlib.sha256(way.encode())
        content.update(np.sort(hashes).tobytes())
        return Split(a=a, b=b, digest=content.hexdigest(), remarks=tuple(remarks))

    def _loaded(self) -> tuple[Any, Any]:
        """x and y, the target taken out of x."""
        loaded = read_csv(self.load) if isinstance(self.load, Path) else self.load()
        if self.target:
            y = known(column(loaded, self.target), self.target)
            return without(loaded, [self.target]), y
        if not isinstance(loaded, tuple) or len(loaded) != 2:
            kind = type(loaded).__name__
            raise ExperimentError(f"rows: load must give (x, y), not a {kind}; or name a target=COLUMN")
        return loaded

    def _pools(
        self, columns: Mapping[str, RowColumn], hashes: NDArray[np.uint64], times: RowColumn | None
    ) -> tuple[Chosen, Chosen]:
        """Which rows are B's, and which are in a pool at all: those within the gap are in none."""
        if isinstance(self.test, str):
            return _mask(columns[self.test], self.test), np.ones(len(hashes), dtype=bool)
        if times is not None:
            return latest(times, self.test, self.gap)
        key = hashes if not self.group else row_hashes(columns[self.group], None)
        return _share_of(key) < self.test, np.ones(len(hashes), dtype=bool)

    def _official(self, columns: Mapping[str, RowColumn], in_a: Chosen) -> Chosen | None:
        """The rows that validate where a column says so."""
        if not isinstance(self.validation, str):
            return None
        official = _mask(columns[self.validation], self.validation)
        validating, there = int((official & in_a).sum()), int(in_a.sum())
        if not 0 < validating < there:
            raise ExperimentError(
                f"rows: column {self.validation!r} holds for {validating} of the {there} rows of pool A; "
                "some must validate, and some must train"
            )
        return official

    def draw(self, pool: RowPool, draw: Draw) -> tuple[Items, Items]:
        """Training and validation rows of pool A, for one seed (and fold)."""
        if draw.folds > 1 and (pool.official is not None or pool.time is not None):
            why = "a column says which rows validate" if pool.time is None else "rows in the order of time"
            raise ExperimentError(f"rows: there are no folds where {why}; set folds = 1")
        if pool.official is None and pool.time is not None:
            assert not isinstance(self.validation, str)
            validates, kept = latest(pool.time, self.validation, self.gap)
        else:
            validates, kept = self._validation(pool, draw), np.ones(len(pool.items), dtype=bool)
        if not validates.any() or not (kept & ~validates).any():
            raise ExperimentError(f"rows: {len(pool.items)} rows in pool A are too few to train and to validate on")
        items = pool.items
        training = DrawnRows(items.x, items.y, items.unit, stratum=pool.stratum, time=pool.time)
        return training.take(np.flatnonzero(kept & ~validates)), items.take(np.flatnonzero(validates))

    def _validation(self, pool: RowPool, draw: Draw) -> Chosen:
        """Which rows of the pool validate."""
        if pool.official is not None:
            return pool.official
        assert not isinstance(self.validation, str)
        # Every unit (a row or a group) gets a place in its stratum; folds are consecutive shares of the places.
        units, place = np.unique(pool.group, return_inverse=True) if pool.group is not None else (None, None)
        n = len(pool.items) if units is None else len(units)
        if draw.folds > n:
            raise ExperimentError(f"rows: {draw.folds} folds of {n} {'rows' if units is None else 'groups'}; set fewer")
        rank = ranks(unit_strata(pool.stratum, place, n), draw.rng("validation"))
        low = draw.fold / draw.folds if draw.folds > 1 else 0.0
        high = (draw.fold + 1) / draw.folds if draw.folds > 1 else self.validation
        chosen = np.asarray((rank >= low) & (rank < high))
        return chosen if place is None else chosen[place]


def rows(
    load: Load | str | Path,
    *,
    target: str = "",
    test: float | str,
    validation: float | str = 0.25,
    group: str = "",
    time: str = "",
    gap: Any = 0,
    stratify: bool = True,
) -> Rows:
    """A data set of rows, split into a pool A for tuning and training and a pool B for the final test.

    `load` is a function that gives (x, y), x an array (n, ...), a mapping of arrays or a data frame, and y the targets
    (n, ...); or a table alone whose column `target` is y; or the name of a CSV file with that column, relative to the
    file that calls this. `test` and `validation` are shares, or names of columns of x that are true for these rows.
    Rows of one `group` share a pool; with `time` the latest rows are the test, after a `gap` (in the column's unit, in
    days or a timedelta for dates) that is left out. These columns are removed from x. Where y has classes, `stratify`
    keeps their shares in every draw. ExperimentError where an argument cannot be right.
    """
    if isinstance(load, str | Path):
        caller = sys._getframe(1).f_globals.get("__file__")
        load = (Path(caller).resolve().parent if caller else Path.cwd()) / load
    return Rows(
        load=load,
        target=target,
        test=test,
        validation=validation,
        group=group,
        time=time,
        gap=gap,
        stratify=stratify,
    )


# --- What the rows are split by -------------------------------------------------------------------------------


def _share_of(hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    """(n,) in 0..1, uniform."""
    return (hashes >> np.uint64(11)).astype(np.float64) / 2.0**53


def _mask(values: RowColumn, name: str) -> Chosen:
    distinct = set(np.unique(values).tolist()) if values.dtype.kind in "biuf" else set(values.tolist())
    if not distinct <= {0, 1}:
        raise ExperimentError(f"rows: column {name!r} is no mask: it must be True or False in each row")
    return values.astype(bool)


def _sortable(values: RowColumn, name: str, gap: Any) -> RowColumn:
    """Times as numbers or dates; texts are read as ISO dates."""
    values = known(values, name)
    if values.dtype.kind in "biufM":
        if isinstance(gap, datetime.timedelta | np.timedelta64) and values.dtype.kind != "M":
            raise ExperimentError(f"rows: column {name!r} has numbers, so the gap must be one too, not {gap!r}")
        return values
    try:
        return values.astype(str).astype("datetime64[us]")
    except ValueError:
        raise ExperimentError(
            f"rows: column {name!r} has no times: numbers or dates like 2024-12-31 are wanted, not {str(values[0])!r}"
        ) from None


def latest(times: RowColumn, share: float, gap: Any) -> tuple[Chosen, Chosen]:
    """The latest share of the rows, equal times together, and all but those that the gap before them leaves out."""
    start = np.sort(times)[len(times) - max(1, round(share * len(times)))]
    chosen = times >= start
    if not gap:
        return chosen, np.ones(len(times), dtype=bool)
    if times.dtype.kind == "M" and isinstance(gap, int | float):
        gap = datetime.timedelta(days=gap)
    if isinstance(gap, datetime.timedelta):
        gap = np.timedelta64(gap)
    return chosen, chosen | (times < start - gap)


def _refuse_overlap(groups: RowColumn, chosen: Chosen, among: Chosen, name: str, where: str) -> None:
    shared = sorted(set(groups[chosen & among].tolist()) & set(groups[~chosen & among].tolist()), key=str)
    if shared:
        raise ExperimentError(
            f"rows: {len(shared)} groups of {name!r} stand in {where}, for example {shared[0]!r}; "
            "the mask must not part them"
        )


# --- Strata ---------------------------------------------------------------------------------------------------


def unit_strata(stratum: RowColumn | None, place: NDArray[np.intp] | None, n: int) -> RowColumn:
    """(n,) the stratum of each unit; a group's is that of most of its rows, whose units are at `place`."""
    if stratum is None:
        return np.zeros(n, dtype=np.intp)
    if place is None:
        return stratum
    counts = np.zeros((n, int(stratum.max()) + 1))
    np.add.at(counts, (place, stratum), 1)
    return np.asarray(counts.argmax(1))


def ranks(strata: RowColumn, rng: np.random.Generator) -> NDArray[np.float64]:
    """(n,) the place of each unit in its stratum in 0..1, in an order at random."""
    rank = np.empty(len(strata))
    for stratum in np.unique(strata):
        members = np.flatnonzero(strata == stratum)
        rank[members[rng.permutation(len(members))]] = (np.arange(len(members)) + rng.random()) / len(members)
    return rank


# --- What a user should know ----------------------------------------------------------------------------------


def _remarks(hashes: NDArray[np.uint64], in_b: Chosen, kept: Chosen) -> list[str]:
    remarks = []
    double = np.intersect1d(hashes[in_b & kept], hashes[~in_b & kept])
    if len(double):
        remarks.append(f"{len(double)} different rows stand in both pools")
    if left_out := int((~kept).sum()):
        remarks.append(f"{left_out} rows within the gap are in neither pool")
    return remarks


def _remarks_on_classes(y: Any, pools: Mapping[str, Chosen]) -> list[str]:
    """Classes that one of the pools lacks; ExperimentError where they are named by texts and A is the one."""
    if classes(y) is None:
        return []
    values = np.asarray(y)
    there = {name: set(values[chosen].tolist()) for name, chosen in pools.items()}
    unknown = sorted(there["B"] - there["A"], key=str)
    missing = listed([repr(value) for value in unknown])
    if unknown and isinstance(unknown[0], str):
        raise ExperimentError(
            f"rows: no row of pool A has the class {missing}, which the test has; leave such rows out, join "
            "rare classes, or take another share"
        )
    remarks = [f"no row of pool A has the class {missing}, which the test has"] if unknown else []
    if untested := sorted(there["A"] - there["B"], key=str):
        remarks.append(
            f"no row of pool B has the class {listed([repr(value) for value in untested])}: it is not tested"
        )
    return remarks
