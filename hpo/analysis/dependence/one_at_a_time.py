"""Coordinate search: one-at-a-time tuning on the surrogate, against the joint optimum; values are of the metric."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpo.analysis.dependence.encoding import Sample
from hpo.analysis.dependence.surrogate import Floats, Surrogate
from hpo.experiment.spaces import Value

PASSES = 20  # at most
SAME = 0.001  # a difference in accuracy that counts as none: two of 2,000 validation pairs
SAME_SHARE = 0.01  # of another metric: this share of the fitted trials' range
_MOST_POINTS = 2_000_000  # of a grid over all coordinates; of more of them, the best trials are improved instead
_STARTS = 20  # such trials


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    """A configuration and the validation value that the surrogate expects of it."""

    params: Mapping[str, Value]
    value: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CoordinateSearch:
    """One-at-a-time tuning from the reference's values, against the joint optimum, all on the surrogate."""

    order: tuple[str, ...]
    reference: Expectation  # moved into the fitted trials' range: to its edge, or to the middle where it is undefined
    moved: bool  # whether the reference's values were
    once: Expectation  # each coordinate tuned once, in that order, with the others held
    repeated: Expectation  # passes repeated until one changes nothing
    passes: int  # passes that changed something
    joint: Expectation
    edges: tuple[str, ...]  # coordinates whose joint optimum lies at the edge of the fitted range
    unsure: float  # the surrogate's standard deviation of the improvement of joint over once
    lost_once: float  # improvement (`MetricInfo.improvement`) that one pass misses
    lost_repeated: float  # improvement that any number of passes misses
    same: float  # an improvement that counts as none


def coordinate_search(fitted: Surrogate, sample: Sample) -> CoordinateSearch:
    """Tune on the surrogate: one coordinate after the other from the reference's values, and all of them at once."""
    coordinates, link = sample.coordinates, sample.link
    grids = [fitted.ends(j) for j in range(len(coordinates))]
    with np.errstate(divide="ignore"):  # the logarithm of 0 is beyond the edge
        given = np.array([float(c.to_unit(np.array([c.reference]))[0]) for c in coordinates])
    middle = [0.0 if c.choices else 0.5 for c in coordinates]
    defined = np.where(np.isnan(given), middle, given)
    start = np.clip(defined, 0, [max(1, len(c.choices) - 1) for c in coordinates])
    once, _ = _sweep_once(fitted, start, grids)
    repeated, passes, changed = once, 1, True
    while changed and passes < PASSES:
        repeated, changed = _sweep_once(fitted, repeated, grids)
        passes += changed
    best = best_of_grid(fitted, grids)
    candidates = np.stack([best, repeated, once, start])  # the start need not lie on the grid
    joint = candidates[int(np.argmax(fitted.predict(candidates)))]

    def expectation(point: Floats) -> Expectation:
        params = {c.name: c.from_unit(float(point[j])) for j, c in enumerate(coordinates)}
        return Expectation(params=params, value=float(link.values(fitted.predict(point[None]))[0]))

    def lost(point: Floats) -> float:
        return float(link.metric.improvement(optimum.value, expectation(point).value))

    optimum = expectation(joint)
    return CoordinateSearch(
        order=tuple(c.name for c in coordinates),
        reference=expectation(start),
        moved=not np.allclose(given, start),
        once=expectation(once),
        repeated=expectation(repeated),
        passes=passes,
        joint=optimum,
        edges=tuple(c.name for c, x in zip(coordinates, joint, strict=True) if x in (0, 1) and not c.choices),
        unsure=link.slope(optimum.value) * fitted.spread_of_difference(joint, once),
        lost_once=lost(once),
        lost_repeated=lost(repeated),
        same=SAME if link.items is not None else SAME_SHARE * float(np.ptp(sample.values)),
    )


def _sweep_once(fitted: Surrogate, start: Floats, grids: Sequence[Floats]) -> tuple[Floats, bool]:
    """Move each coordinate in its order to the best of the grid and its current value, with the others held."""
    point, changed = start.copy(), False
    for j, grid in enumerate(grids):
        tried = np.repeat(point[None], len(grid) + 1, axis=0)
        tried[1:, j] = grid
        values = fitted.predict(tried)
        best = int(np.argmax(values))
        if best and values[best] > values[0] + 1e-9:
            point, changed = tried[best], True
    return point, changed


def best_of_grid(fitted: Surrogate, grids: Sequence[Floats]) -> Floats:
    """The best of all points of the grid, (K,); the mean is a sum of products, so two tables multiply to all of them.

    Where those are too many, the best that coordinate-wise steps find from the best trials.
    """
    k = len(grids)
    if math.prod(len(grid) for grid in grids) > _MOST_POINTS:
        return _best_from_trials(fitted, grids)
    tables = []
    for half in (range(k // 2), range(k // 2, k)):
        table = np.ones((1, len(fitted.weights)))
        for j in half:
            table = (table[:, None, :] * fitted.factors(j, grids[j])[None]).reshape(-1, len(fitted.weights))
        tables.append(table)
    values = (tables[0] * fitted.weights) @ tables[1].T
    place = np.unravel_index(int(np.argmax(values)), [len(grid) for grid in grids])
    return np.array([grid[i] for grid, i in zip(grids, place, strict=True)])


def _best_from_trials(fitted: Surrogate, grids: Sequence[Floats]) -> Floats:
    ends = []
    for start in fitted.points[np.argsort(-fitted.predict(fitted.points))[:_STARTS]]:
        point, changed, passes = start, True, 0
        while changed and passes < PASSES:
            point, changed = _sweep_once(fitted, point, grids)
            passes += 1
        ends.append(point)
    return np.asarray(ends[int(np.argmax(fitted.predict(np.stack(ends))))])
