"""Coordinate search: one-at-a-time tuning as the paper did it, on the surrogate, against the joint optimum."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hpo.analysis.dependence import surrogate as fits
from hpo.analysis.dependence.encoding import Coordinate, accuracy_of
from hpo.analysis.dependence.surrogate import Floats, Surrogate

PASSES = 20  # at most
SAME = 0.001  # a difference in accuracy that counts as none: two of 2,000 validation pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class Expectation:
    """A configuration and the validation accuracy that the surrogate expects of it."""

    params: Mapping[str, float]
    accuracy: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CoordinateSearch:
    """One-at-a-time tuning from the paper's values, against the joint optimum, all on the surrogate."""

    order: tuple[str, ...]
    paper: Expectation  # moved into the fitted trials' range: to its edge, or to the middle where it is undefined
    moved: bool  # whether the paper's values were
    once: Expectation  # each coordinate tuned once, in that order, with the others held
    repeated: Expectation  # passes repeated until one changes nothing
    passes: int  # passes that changed something
    joint: Expectation
    edges: tuple[str, ...]  # coordinates whose joint optimum lies at the edge of the fitted range
    unsure: float  # the surrogate's standard deviation of joint minus once

    @property
    def lost_once(self) -> float:
        """Accuracy that one pass misses."""
        return self.joint.accuracy - self.once.accuracy

    @property
    def lost_repeated(self) -> float:
        """Accuracy that any number of passes misses."""
        return self.joint.accuracy - self.repeated.accuracy


def coordinate_search(fitted: Surrogate, coordinates: Sequence[Coordinate]) -> CoordinateSearch:
    """Tune the coordinates on the surrogate: one after the other from the paper's values, and all of them at once."""
    grid = np.linspace(0, 1, fits.GRID)
    with np.errstate(divide="ignore"):  # the logarithm of 0 is beyond the edge
        paper = np.array([float(c.to_unit(np.array([c.paper]))[0]) for c in coordinates])
    start = np.clip(np.nan_to_num(paper, nan=0.5, posinf=1, neginf=0), 0, 1)
    once, _ = _sweep_once(fitted, start, grid)
    repeated, passes, changed = once, 1, True
    while changed and passes < PASSES:
        repeated, changed = _sweep_once(fitted, repeated, grid)
        passes += changed
    best = best_of_grid(fitted, grid)
    candidates = np.stack([best, repeated, once, start])  # the start need not lie on the grid
    joint = candidates[int(np.argmax(fitted.predict(candidates)))]

    def expectation(point: Floats) -> Expectation:
        params = {c.name: c.from_unit(float(point[j])) for j, c in enumerate(coordinates)}
        return Expectation(params=params, accuracy=float(accuracy_of(fitted.predict(point[None]))[0]))

    optimum = expectation(joint)
    slope = optimum.accuracy * (1 - optimum.accuracy)  # of accuracy over log-odds
    return CoordinateSearch(
        order=tuple(c.name for c in coordinates),
        paper=expectation(start),
        moved=not np.allclose(paper, start),
        once=expectation(once),
        repeated=expectation(repeated),
        passes=passes,
        joint=optimum,
        edges=tuple(c.name for c, x in zip(coordinates, joint, strict=True) if x in (0, 1)),
        unsure=slope * fitted.spread_of_difference(joint, once),
    )


def _sweep_once(fitted: Surrogate, start: Floats, grid: Floats) -> tuple[Floats, bool]:
    """Move each coordinate in its order to the best of the grid and its current value, with the others held."""
    point, changed = start.copy(), False
    for j in range(len(point)):
        tried = np.repeat(point[None], len(grid) + 1, axis=0)
        tried[1:, j] = grid
        values = fitted.predict(tried)
        best = int(np.argmax(values))
        if best and values[best] > values[0] + 1e-9:
            point, changed = tried[best], True
    return point, changed


def best_of_grid(fitted: Surrogate, grid: Floats) -> Floats:
    """The best of all G^K grid points, (K,); the mean is a sum of products, so two tables multiply to all of them."""
    k = fitted.points.shape[1]
    tables = []
    for half in (range(k // 2), range(k // 2, k)):
        table = np.ones((1, len(fitted.weights)))
        for j in half:
            table = (table[:, None, :] * fitted.factors(j, grid)[None]).reshape(-1, len(fitted.weights))
        tables.append(table)
    values = (tables[0] * fitted.weights) @ tables[1].T
    return grid[np.array(np.unravel_index(int(np.argmax(values)), (len(grid),) * k))]
