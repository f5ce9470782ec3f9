"""What makes a split of rows suspect though nobody parted them wrongly: a column that tells the target, columns that
were prepared with the test rows among them.

n rows.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.experiment.tables import classes, codes
from hpo.text import listed

FEWEST_ROWS = 20  # of fewer, chance explains all of this
MOST_COLUMNS = 2_000  # that are looked at
ROUNDING = 1e-6  # of a mean, in standard deviations: data of 32 bits


def suspicions(columns: Mapping[str, Any], y: Any) -> list[str]:
    """A sentence for each reason to look at the data again."""
    each = dict(_single(columns))
    n = len(next(iter(each.values()), ()))
    if n < FEWEST_ROWS:
        return []
    reasons = []
    if tells := [name for name, values in each.items() if _tells(values, np.asarray(y))]:
        reasons.append(f"{listed(tells)} among the inputs tells the target exactly: is it the target itself?")
    numbers = {name: values for name, values in each.items() if values.dtype.kind == "f" and np.ptp(values) > 0}
    if centred := [name for name, values in numbers.items() if abs(values.mean()) < ROUNDING * values.std()]:
        reasons.append(f"{listed(centred)} has mean 0 over all rows: what centred it has seen the test; {_DO_IT_LATER}")
    ranges = {(float(values.min()), float(values.max())) for values in numbers.values()}
    if len(numbers) > 1 and ranges in ({(0.0, 1.0)}, {(-1.0, 1.0)}):
        low, high = min(ranges)
        reasons.append(f"every column ends at {low:g} and {high:g}: what scaled them has seen the test; {_DO_IT_LATER}")
    return reasons


_DO_IT_LATER = "fit it to the training items, in train"


def _single(columns: Mapping[str, Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    """The columns (n,), those of an array one by one, without those that have missing values."""
    for name, values in columns.items():
        array = np.asarray(values)
        flat = array.reshape(len(array), -1)
        for place in range(min(flat.shape[1], MOST_COLUMNS)):
            part = flat[:, place]
            if part.dtype.kind != "f" or np.isfinite(part).all():
                yield (
                    (f"column {name}" if array.ndim == 1 else f"column {place} of {name}"),
                    part.astype(np.float64 if part.dtype.kind == "f" else part.dtype),
                )


def _tells(values: NDArray[Any], y: NDArray[Any]) -> bool:
    """Whether a column is the target under another name: the same classes, or the same number up to a scale."""
    if y.ndim != 1 or values.dtype.kind == "O":
        return values.dtype.kind == "O" and y.ndim == 1 and bool(np.all(values == y))
    groups = classes(y)
    if groups is None:
        if values.dtype.kind not in "iuf" or y.dtype.kind not in "iuf":
            return False
        spread, target_spread = values.std(), y.std()
        if not spread or not target_spread:
            return False
        return bool(abs(np.corrcoef(values, y.astype(np.float64))[0, 1]) > 1 - 1e-9)
    kinds = codes(values)
    several = int(groups.max()) + 1
    return several > 1 and int(kinds.max()) + 1 == several == len(np.unique(kinds * several + groups))
