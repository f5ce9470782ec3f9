"""Surrogate: a Gaussian process through trials in the unit cube, its interactions, and their null distribution.

Why a Gaussian process and not a forest: on 29 trials a forest makes steps, and two neighbouring steps look like an
interaction; the process is smooth, quantifies its uncertainty, and has a length scale for each coordinate.
scikit-learn chooses the scales by likelihood alone, which overfits so few trials (cross-validated R² of pure noise,
n = 29, four coordinates: -0.42 instead of -0.15) and takes three times as long for each of several hundred fits. So
the scales are chosen here, under weak priors. Most fits need only the mean, a line of linear algebra; the reported
fit also needs the covariance, which is scikit-learn's.

A coordinate is a number from 0 to 1, or the place of a choice among its values, which have no order: two different
ones are as far apart as the ends of a number's range. `levels` (K,) are how many values each choice has, 0 for numbers;
empty where all are numbers.

Shapes: T trials, K coordinates, G grid points of one coordinate, Q query points.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack  # type: ignore[import-untyped]  # has no types
from scipy.optimize import minimize  # type: ignore[import-untyped]

Floats = NDArray[np.float64]

GRID = 33  # points of a coordinate
_PRIOR_MEDIAN = (1.0, 1.0, 0.3)  # of amplitude, length scale, noise; the cube is 1 wide, values have variance 1
_PRIOR_SPREAD = (1.0, 0.7, 1.0)  # standard deviations of their logarithms
_BOUNDS = ((1e-2, 1e2), (0.1, 20.0), (1e-3, 3.0))
_JITTER = 1e-8  # on the covariance's diagonal, for its Cholesky root
_ADDITIVE_KNOTS = 4  # of a cubic spline in each coordinate


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A fitted process; its mean is a sum of T products with one factor per coordinate."""

    points: Floats  # (T, K)
    weights: Floats  # (T,) of the products, in the unit of the values
    scales: Floats  # (K,) lengths: 1 is the width of the cube, 20 is practically linear
    mean: float
    amplitude: float  # variance of the signal, of standardised values
    unit: float  # standard deviation of the values
    noise: float  # variance, of standardised values
    z: Floats  # (T,) the standardised values
    levels: tuple[int, ...] = ()

    @cached_property
    def process(self) -> Any:
        """The same process in scikit-learn, on standardised values; made when first used, as it is slow."""
        from sklearn.gaussian_process import (  # type: ignore[import-untyped]  # has no types; takes seconds to load
            GaussianProcessRegressor,
        )
        from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel  # type: ignore[import-untyped]

        scales = np.repeat(self.scales, [levels or 1 for levels in self.levels] if self.levels else 1)
        kernel = ConstantKernel(self.amplitude) * RBF(scales) + WhiteKernel(self.noise)
        return GaussianProcessRegressor(kernel, alpha=_JITTER, optimizer=None).fit(self._spread(self.points), self.z)

    def grid(self, coordinate: int) -> Floats:
        """Positions that stand for the whole range of a coordinate: (G,), of a choice all of its values."""
        levels = self.levels[coordinate] if self.levels else 0
        return np.arange(levels, dtype=np.float64) if levels else (np.arange(GRID) + 0.5) / GRID  # midpoints

    def ends(self, coordinate: int) -> Floats:
        """The same with both ends of the range: (G,)."""
        is_choice = self.levels and self.levels[coordinate]
        return self.grid(coordinate) if is_choice else np.linspace(0, 1, GRID)

    def factors(self, coordinate: int, at: Floats) -> Floats:
        """One coordinate's factor of every product: (Q, T)."""
        gap = at[:, None] - self.points[None, :, coordinate]
        if self.levels and self.levels[coordinate]:
            gap = (gap != 0).astype(np.float64)
        gap = gap / self.scales[coordinate]
        return np.asarray(np.exp(-0.5 * gap**2))

    def predict(self, at: Floats) -> Floats:
        """The mean at points (Q, K): (Q,)."""
        gap = _apart(at, self.points, self.levels) / self.scales
        return np.asarray(self.mean + np.exp(-0.5 * (gap**2).sum(axis=-1)) @ self.weights)

    def spread_of_difference(self, a: Floats, b: Floats) -> float:
        """The process's standard deviation of the difference between two points (K,)."""
        _, covariance = self.process.predict(self._spread(np.stack([a, b])), return_cov=True)
        # scikit-learn's covariance is that of two new trials, each with its own noise.
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1] - 2 * self.noise
        return self.unit * math.sqrt(max(0.0, float(variance)))

    def _spread(self, points: Floats) -> Floats:
        """Points for scikit-learn: one column for each value of a choice, two values being a distance of 1 apart."""
        columns = [
            (points[:, [j]] == np.arange(levels)) / math.sqrt(2) if levels else points[:, [j]]
            for j, levels in enumerate(self.levels)
        ]
        return np.hstack(columns) if columns else points


def _apart(a: Floats, b: Floats, levels: Sequence[int]) -> Floats:
    """Distances along each coordinate, (Q, T, K) of points (Q, K) and (T, K); between different choices 1."""
    gap = a[:, None] - b[None]
    if any(levels):
        gap = np.where(np.array(levels) > 0, gap != 0, gap)
    return np.asarray(gap)


def fit(points: Floats, values: Floats, levels: tuple[int, ...] = ()) -> Surrogate:
    """The process with the most likely scales under the priors; points (T, K), values (T,)."""
    mean, unit = float(values.mean()), float(values.std()) or 1.0
    z = (values - mean) / unit
    gaps = np.ascontiguousarray((_apart(points, points, levels) ** 2).transpose(2, 0, 1))  # (K, T, T)
    theta = _most_likely(gaps, z)
    _, root = _signal_and_root(theta, gaps)
    return Surrogate(
        points=points,
        weights=unit * math.exp(theta[0]) * lapack.dpotrs(root, z, lower=1)[0],
        scales=np.exp(theta[1:-1]),
        mean=mean,
        amplitude=math.exp(theta[0]),
        unit=unit,
        noise=math.exp(theta[-1]),
        z=z,
        levels=levels,
    )


def _most_likely(gaps: Floats, z: Floats) -> Floats:
    """Logarithms of amplitude, K lengths and noise at the highest posterior density; gaps (K, T, T)."""
    repeats = [1, len(gaps), 1]
    centre = np.repeat(np.log(_PRIOR_MEDIAN), repeats)
    spread = np.repeat(_PRIOR_SPREAD, repeats)
    bounds = np.repeat(np.log(_BOUNDS), repeats, axis=0)

    def cost(theta: Floats) -> tuple[float, Floats]:
        value, slope = minus_log_likelihood(theta, gaps, z)
        apart = (theta - centre) / spread
        return value + 0.5 * float(apart @ apart), slope + apart / spread

    options = {"maxiter": 40, "ftol": 1e-6}  # a change too small to matter for any fit
    optimum = minimize(cost, centre, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return np.asarray(optimum.x, dtype=np.float64)


def _signal_and_root(theta: Floats, gaps: Floats) -> tuple[Floats, Floats]:
    """The covariance without noise, and the lower Cholesky root of the covariance with noise: (T, T) each."""
    inverse_squares, noise = np.exp(-2 * theta[1:-1]), math.exp(theta[-1])
    size = gaps.shape[1]
    signal = math.exp(theta[0]) * np.exp(-0.5 * (inverse_squares @ gaps.reshape(len(gaps), -1))).reshape(size, size)
    covariance = signal.copy()
    covariance.flat[:: size + 1] += noise + _JITTER
    root, _ = lapack.dpotrf(covariance, lower=1)
    return signal, root


def minus_log_likelihood(theta: Floats, gaps: Floats, z: Floats) -> tuple[float, Floats]:
    """Minus the log marginal likelihood and its slope (Rasmussen & Williams 2006, equations 5.8 and 5.9).

    theta (K + 2,): logarithms of amplitude, lengths, noise; gaps (K, T, T): squared distances by coordinate.
    """
    signal, root = _signal_and_root(theta, gaps)
    lower, _ = lapack.dpotri(root, lower=1)  # a third of the cost of inverting the root; above the diagonal are zeros
    inverse = lower + lower.T
    inverse.flat[:: len(z) + 1] /= 2
    weights = inverse @ z
    value = 0.5 * z @ weights + np.log(root.diagonal()).sum() + 0.5 * len(z) * math.log(2 * math.pi)
    pull = (weights[:, None] * weights - inverse) * signal
    slope = np.empty_like(theta)
    slope[0] = -0.5 * pull.sum()
    slope[1:-1] = -0.5 * (gaps.reshape(len(gaps), -1) @ pull.ravel()) * np.exp(-2 * theta[1:-1])
    slope[-1] = -0.5 * math.exp(theta[-1]) * (weights @ weights - inverse.trace())
    return float(value), slope


def cross_validated(
    points: Floats, values: Floats, repeats: int, folds: int = 5, levels: tuple[int, ...] = ()
) -> list[float]:
    """R² on held-out trials, one for each repeat of k-fold cross-validation; below 0, the mean predicts better."""
    total = float(((values - values.mean()) ** 2).sum())
    if total == 0:
        return [0.0] * repeats
    r2 = []
    for repeat in range(repeats):
        order = np.random.default_rng([repeat, 5]).permutation(len(values))
        wrong = 0.0
        for held in np.array_split(order, folds):
            rest = np.setdiff1d(order, held)
            fitted = fit(points[rest], values[rest], levels)
            wrong += float(((fitted.predict(points[held]) - values[held]) ** 2).sum())
        r2.append(1 - wrong / total)
    return r2


# --- What the surrogate is made of ------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Parts:
    """The surrogate decomposed over the uniform cube (functional ANOVA: centred partial dependences)."""

    grids: tuple[Floats, ...]  # K of (G,)
    mean: float
    mains: tuple[Floats, ...]  # K of (G,)
    pairs: dict[tuple[int, int], Floats]  # (G, G') of both coordinates: the joint effect without the main effects
    main_shares: Floats  # (K,) of the variance: first-order Sobol indices
    total_shares: Floats  # (K,) with all interactions of the coordinate
    h: dict[tuple[int, int], float]  # Friedman's H, 0..1
    pair_shares: dict[tuple[int, int], float]


def take_apart(surrogate: Surrogate) -> Parts:
    """Partial dependences, exact because the mean is a sum of products, and H.

    H² = sum (PD_jk - PD_j - PD_k)² / sum PD_jk², all centred (Friedman & Popescu, "Predictive learning via rule
    ensembles", 2008, equation 44), over the grid instead of the trials: random trials are uniform in the cube.
    """
    k = surrogate.points.shape[1]
    grids = tuple(surrogate.grid(j) for j in range(k))  # their mean is the integral
    factors = [surrogate.factors(j, grid) for j, grid in enumerate(grids)]  # each (G, T)
    averages = [f.mean(axis=0) for f in factors]  # each (T,)

    def rest(*without: int) -> Floats:
        product = surrogate.weights.copy()
        for j in range(k):
            if j not in without:
                product = product * averages[j]
        return product

    mean = float(rest().sum())
    mains = tuple(factors[j] @ rest(j) - mean for j in range(k))
    pairs, h, explained = {}, {}, {}
    tiny = 1e-12 * surrogate.unit**2
    for a, b in combinations(range(k), 2):
        joint = (factors[a] * rest(a, b)) @ factors[b].T - mean
        interaction = joint - mains[a][:, None] - mains[b][None, :]
        variance_of_joint = float((joint**2).mean())
        pairs[a, b], explained[a, b] = interaction, float((interaction**2).mean())
        h[a, b] = min(1.0, math.sqrt(explained[a, b] / variance_of_joint)) if variance_of_joint > tiny else 0.0
    seconds = [f.T @ f / len(f) for f in factors]  # (T, T) means of the products of two factors
    variance = max(_quadratic(surrogate.weights, seconds) - mean**2, 1e-300)
    outer = [np.outer(a, a) for a in averages]
    # Averaging over coordinate j leaves the variance that the others explain without it.
    total = [
        variance - _quadratic(surrogate.weights, [outer[i] if i == j else seconds[i] for i in range(k)]) + mean**2
        for j in range(k)
    ]
    return Parts(
        grids=grids,
        mean=surrogate.mean + mean,
        mains=mains,
        pairs=pairs,
        main_shares=np.array([float((m**2).mean()) for m in mains]) / variance,
        total_shares=np.array(total) / variance,
        h=h,
        pair_shares={pair: part / variance for pair, part in explained.items()},
    )


def joint_effect(surrogate: Surrogate, a: int, b: int, at_a: Floats, at_b: Floats) -> Floats:
    """Partial dependence on two coordinates at positions of each, (Q, Q') with b along the columns."""
    rest = surrogate.weights.copy()
    for j in range(surrogate.points.shape[1]):
        if j not in (a, b):
            rest = rest * surrogate.factors(j, surrogate.grid(j)).mean(axis=0)
    return np.asarray(surrogate.mean + (surrogate.factors(a, at_a) * rest) @ surrogate.factors(b, at_b).T)


def pair_effect(surrogate: Surrogate, a: int, b: int) -> Floats:
    """The interaction of two coordinates, without their main effects, at the fitted points: (T,)."""
    points = surrogate.points
    rest = surrogate.weights.copy()
    for j in range(points.shape[1]):
        if j not in (a, b):
            rest = rest * surrogate.factors(j, surrogate.grid(j)).mean(axis=0)
    here_a, here_b = (surrogate.factors(j, points[:, j]) for j in (a, b))
    mean_a, mean_b = (surrogate.factors(j, surrogate.grid(j)).mean(axis=0) for j in (a, b))
    return np.asarray(((here_a - mean_a) * (here_b - mean_b)) @ rest)


def _quadratic(weights: Floats, matrices: Sequence[Floats]) -> float:
    product = np.outer(weights, weights)
    for matrix in matrices:
        product = product * matrix
    return float(product.sum())


# --- The null distribution: H where nothing interacts ----------------------------------------------------------


def interaction_p(
    points: Floats,
    values: Floats,
    observed: dict[tuple[int, int], float],
    repeats: int,
    known: Floats | None = None,
    levels: tuple[int, ...] = (),
) -> dict[tuple[int, int], float]:
    """How often H is at least as high as observed where the truth is an additive fit with permuted residuals.

    H is never below 0 and grows with noise, so it has a meaning only against this null. Stops once every pair has been
    exceeded often (Besag & Clifford, "Sequential Monte Carlo p-values", 1991); the lowest p is 1 / (repeats + 1).
    `known` (T,) is the effect of interactions already shown, which the truth includes.
    """
    known = np.zeros_like(values) if known is None else known
    smooth, residuals = additive_fit(points, values - known, levels)
    smooth, rng = smooth + known, np.random.default_rng(0)
    exceeded, done = dict.fromkeys(observed, 0), 0
    while done < repeats and min(exceeded.values()) < _ENOUGH:
        h = take_apart(fit(points, smooth + rng.permutation(residuals), levels)).h
        done += 1
        for pair in observed:
            exceeded[pair] += h[pair] >= observed[pair]
    return {pair: (1 + count) / (1 + done) for pair, count in exceeded.items()}


_ENOUGH = 20  # times exceeded after which p is known well enough: it is far above 0.05


def additive_fit(points: Floats, values: Floats, levels: Sequence[int] = ()) -> tuple[Floats, Floats]:
    """A sum of a smooth curve in each coordinate (ridge on cubic splines; of a choice a step for each value), and
    residuals of the noise's size.

    The penalty is chosen by leave-one-out. Residuals of a fit with f free parameters are too small by a factor
    sqrt(1 - f / T), for which they are corrected.
    """
    from sklearn.linear_model import RidgeCV  # type: ignore[import-untyped]  # as above
    from sklearn.preprocessing import SplineTransformer  # type: ignore[import-untyped]

    choices = [j for j, count in enumerate(levels) if count]
    numbers = [j for j in range(points.shape[1]) if j not in choices]
    steps = [(points[:, [j]] == np.arange(levels[j])).astype(np.float64) for j in choices]
    splines = SplineTransformer(n_knots=_ADDITIVE_KNOTS, degree=3, include_bias=False)
    design = np.hstack([*([splines.fit_transform(points[:, numbers])] if numbers else []), *steps])
    design = design - design.mean(axis=0)
    ridge = RidgeCV(np.logspace(-4, 3, 15)).fit(design, values)
    smooth = ridge.predict(design)
    singular = np.linalg.svd(design, compute_uv=False) ** 2
    free = 1 + float((singular / (singular + ridge.alpha_)).sum())
    residuals = values - smooth
    left = max(1 - free / len(values), 0.2)
    return smooth, (residuals - residuals.mean()) / math.sqrt(left)
