"""A jackknife: what blocks of units contribute to a metric of which single items have no score.

An area under a curve or a macro average is one number for all test items. It is computed again without each block of
units; the blocks' pseudo-values then serve as the scores of their items (Tukey 1958; for blocks of unequal size Busing,
Meijer and van der Leeden, "Delete-m jackknife for unequal m", 1999).
n items, G blocks.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.experiment.metric_info import MetricInfo

MOST_BLOCKS = 100
_SUFFIX = "_blocks"  # of the stored column that says in which block an item is
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # of SplitMix64 (Steele et al. 2014)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Blocks = NDArray[np.int64]


def column_of(metric: str) -> str:
    """The name of the column that says which block each item's pseudo-value of a metric is of."""
    return metric + _SUFFIX


def blocks_of(units: NDArray[np.int64]) -> Blocks:
    """The block (n,) of each unit (n,): a hash of the unit alone, so it is the same for every model and round."""
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        z = units.astype(np.uint64) + _GOLDEN
        for shift, factor in zip((30, 27), _MIX, strict=True):
            z = (z ^ (z >> np.uint64(shift))) * factor
        z ^= z >> np.uint64(31)
    return (z % np.uint64(MOST_BLOCKS)).astype(np.int64)


def pseudo_values(
    value: float, without: Callable[[NDArray[np.bool_]], float | None], blocks: Blocks, metric: MetricInfo
) -> NDArray[np.float64] | None:
    """Scores of items, (n,) or (n, 2), that combine as the metric's do, of its `value` for all of them.

    `without` gives the metric of the items (n,) that are True. None where it does not exist without one of the blocks,
    as an area under a curve of a single class.
    """
    n, scores = len(blocks), np.empty(len(blocks))
    distinct = np.unique(blocks)
    if len(distinct) < 2:
        return None
    whole = metric.added_up(value)
    for block in distinct:
        rest = blocks != block
        left = without(rest)
        if left is None or not np.isfinite(left):
            return None
        share = n / (n - int(rest.sum()))
        scores[~rest] = share * whole - (share - 1) * metric.added_up(left)
    return metric.items_of(scores) if np.isfinite(scores).all() else None


def units_of(unit: NDArray[Any] | None, n: int) -> NDArray[np.int64] | None:
    """The units (n,) that blocks are made of: the items where nothing is said; None where an item is of several."""
    if unit is None:
        return np.arange(n, dtype=np.int64)
    flat = unit.reshape(n, -1)
    return flat[:, 0] if flat.shape[1] == 1 else None
