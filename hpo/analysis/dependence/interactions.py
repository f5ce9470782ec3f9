"""Interactions: do a model's hyperparameters depend on each other?

Values are in the unit of the metric. Fits to accuracies are made on their log-odds, where a point near 100 % counts
more than one near 80 %: otherwise every model close to the ceiling would seem to have interactions. A hyperparameter
that some configurations do not have depends on others by its condition; it is named and not fitted. Shapes as in
`surrogate.py`.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # has no types

from hpo.analysis.dependence import surrogate as fits
from hpo.analysis.dependence.encoding import (
    WEIGHT_RATIO,
    Coordinate,
    Link,
    Sample,
    fitted_names,
    sample_of,
)
from hpo.analysis.dependence.one_at_a_time import CoordinateSearch, coordinate_search
from hpo.analysis.dependence.surrogate import Floats, Parts, Surrogate
from hpo.analysis.search_history import SearchHistory, Trial, search_data
from hpo.analysis.stats import LEVEL, holm
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Value
from hpo.results.records import StudyResult

LEAST_R2 = 0.3  # cross-validated: with a lower one, nothing is concluded about interactions
LEAST_TRIALS = 15  # random ones: with fewer, nothing is fitted
MOST_TRIALS, MOST_CHECKED = 100, 150  # random ones fitted, and of all in checks: the cost is cubic
NULL_REPEATS = 199  # p down to 0.005: after Holm's correction for six pairs 0.03
CV_REPEATS, CHECK_REPEATS = 10, 2
PED_PERMUTATIONS = 100
KNOWN_MOST = 3  # clear pairs that enter the null: each costs another run of it


Check = Literal["all complete trials", "with those that learned nothing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """How well the surrogate predicts trials that it has not seen."""

    n: int  # trials
    r2: float  # mean over the repeats of the cross-validation
    r2_std: float  # over the repeats

    @property
    def good(self) -> bool:
        """Whether this fit supports any conclusion."""
        return self.r2 >= LEAST_R2


@dataclass(frozen=True, kw_only=True, slots=True)
class Importance:
    """How much one coordinate matters; shares are of the surrogate's variance."""

    name: str
    ped_anova: float  # sums to 1 over the coordinates
    ped_chance: float  # 95 % quantile over permuted values
    main: float  # alone
    total: float  # with all its interactions


@dataclass(frozen=True, kw_only=True, slots=True)
class PairStrength:
    """How much two coordinates interact."""

    a: str
    b: str
    h: float  # Friedman's H, 0..1
    share: float  # of the surrogate's variance
    p: float | None  # None where the fit is too poor
    p_holm: float | None  # over the model's pairs

    @property
    def clear(self) -> bool:
        """Whether the interaction is stronger than the null explains."""
        return self.p_holm is not None and self.p_holm <= 1 - LEVEL


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """The effect of one coordinate, averaged over the others."""

    name: str
    at: tuple[Value, ...]
    values: tuple[float, ...]
    trials: tuple[tuple[Value, float], ...]  # the hyperparameter, the validation value: what was fitted


@dataclass(frozen=True, kw_only=True, slots=True)
class Contour:
    """The joint effect of two coordinates, averaged over the others."""

    a: str
    b: str
    at_a: tuple[Value, ...]
    at_b: tuple[Value, ...]
    values: tuple[tuple[float, ...], ...]  # [b][a]
    trials: tuple[tuple[Value, Value, float], ...]  # a, b, the validation value: what was fitted


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """The same fit on other trials, as a check; no conclusion is drawn from it."""

    what: Check
    quality: Quality
    h: tuple[tuple[str, str, float], ...]  # of every pair


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleCounts:
    """Which trials can be used; rates are the lowest and highest learning rate."""

    random: int  # start-up trials with a result, without the reference's
    diverged: int  # of them
    blank: int | None  # of them: trained to the end without learning anything; None where that cannot be told
    blank_rates: tuple[float, float] | None
    learned: int
    learned_rates: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the fit shows; where it is poor, importances and effects are only a guess."""

    coordinates: tuple[Coordinate, ...]
    quality: Quality
    importances: tuple[Importance, ...]
    pairs: tuple[PairStrength, ...]  # the least likely by chance first, then by share
    contour: Contour | None  # of the strongest pair; None without a good fit
    effects: tuple[Effect, ...]
    coordinate_search: CoordinateSearch | None  # None without a good fit
    sensitivity: tuple[Sensitivity, ...]

    @property
    def redundant(self) -> bool:
        """Whether loss weights are among the coordinates, whose common scale changes nothing."""
        return any(c.name == WEIGHT_RATIO for c in self.coordinates)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dependence:
    """The answer for one study."""

    study: str
    model: str
    metric: MetricInfo
    reference_label: str
    fitted: tuple[str, ...]  # hyperparameters that every configuration has
    conditional: tuple[tuple[str, tuple[str, ...]], ...]  # those that not every one has, and on which they depend
    link: Link
    counts: SampleCounts
    answer: Answer | None  # None: too few trials, or fewer than two hyperparameters to fit


def dependence_of(result: StudyResult) -> Dependence:
    """Fit the random start-up trials that were never pruned, did not diverge and learned something."""
    search, link, traits = search_data(result), _link(result), result.spec.traits
    random = [trial for trial in search.trials if trial.unbiased]
    complete = [trial for trial in random if trial.state == "complete"]
    blank = [trial for trial in complete if trial.value <= traits.learned_above]
    learned = [trial for trial in complete if trial.value > traits.learned_above]
    counts = SampleCounts(
        random=len(random),
        diverged=sum(trial.state == "diverged" for trial in random),
        blank=len(blank) if traits.knows_blank else None,
        blank_rates=_rates(search, blank) if traits.knows_blank else None,
        learned=len(learned),
        learned_rates=_rates(search, learned) if traits.knows_blank else None,
    )
    others: dict[Check, list[Trial]] = {
        "all complete trials": [t for t in search.trials if t.state == "complete" and t.value > traits.learned_above],
    }
    if blank:
        others["with those that learned nothing"] = complete

    def sample(trials: Sequence[Trial]) -> Sample:
        return sample_of(trials, search, result.spec.reference, link, ratios=traits.weighs_losses)

    checks = {}
    for what, trials in others.items():
        step = max(1, math.ceil(len(trials) / MOST_CHECKED))  # spread evenly over the search
        checks[what] = sample(trials[::step])
    with threadpool_limits(1, user_api="blas"):  # with matrices this small, threads mostly wait for each other
        answer = answer_of(sample(learned[:MOST_TRIALS]), checks)
    parameters = zip(search.names, search.parameters, strict=True)
    return Dependence(
        study=result.name,
        model=result.model,
        metric=result.metric,
        reference_label=result.reference_label,
        fitted=fitted_names(search),
        conditional=tuple((name, tuple(p.when)) for name, p in parameters if p.when),
        link=link,
        counts=counts,
        answer=answer,
    )


def _link(result: StudyResult) -> Link:
    """How the values of a study's search are fitted: an accuracy over a known number of items by its log-odds."""
    items = result.spec.traits.validation_items or next((run.items for run in result.search if run.items), None)
    return Link(metric=result.metric, items=items if result.metric.name == "accuracy" else None)


def _rates(search: SearchHistory, trials: Sequence[Trial]) -> tuple[float, float] | None:
    if "learning_rate" not in search.names:
        return None
    column = search.names.index("learning_rate")
    rates = [rate for trial in trials if isinstance(rate := trial.params[column], int | float)]
    return (min(rates), max(rates)) if rates else None


# --- What the surrogate shows ---------------------------------------------------------------------------------


def answer_of(sample: Sample, checks: Mapping[Check, Sample]) -> Answer | None:
    """Everything that a fit to the sample shows; None where they are too few or all have the same value, or have
    fewer than two coordinates."""
    if len(sample.coordinates) < 2 or len(sample.values) < LEAST_TRIALS or np.ptp(sample.values) == 0:
        return None
    fitted = fits.fit(sample.points, sample.values, sample.levels)
    parts = fits.take_apart(fitted)
    quality = _quality(sample, CV_REPEATS)
    pairs = _pairs(sample, fitted, parts, NULL_REPEATS if quality.good else 0)
    return Answer(
        coordinates=sample.coordinates,
        quality=quality,
        importances=_importances(sample, parts),
        pairs=pairs,
        contour=_contour(sample, fitted, pairs[0]) if quality.good else None,
        effects=tuple(_effect(sample, parts, j) for j in range(len(sample.coordinates))),
        coordinate_search=coordinate_search(fitted, sample) if quality.good else None,
        sensitivity=tuple(_check(what, check) for what, check in checks.items() if len(check.values) >= LEAST_TRIALS),
    )


def _quality(sample: Sample, repeats: int) -> Quality:
    r2 = fits.cross_validated(sample.points, sample.values, repeats, levels=sample.levels)
    return Quality(n=len(sample.values), r2=float(np.mean(r2)), r2_std=float(np.std(r2, ddof=1)))


def _check(what: Check, sample: Sample) -> Sensitivity:
    parts = fits.take_apart(fits.fit(sample.points, sample.values, sample.levels))
    names = [c.name for c in sample.coordinates]
    h = tuple((names[a], names[b], h) for (a, b), h in parts.h.items())
    return Sensitivity(what=what, quality=_quality(sample, CHECK_REPEATS), h=h)


def _pairs(sample: Sample, fitted: Surrogate, parts: Parts, repeats: int) -> tuple[PairStrength, ...]:
    """All pairs: the least likely by chance first, then by their share of the variance."""
    p = interaction_p_values(sample, fitted, parts, repeats) if repeats else {}
    adjusted = dict(zip(p, holm(list(p.values())), strict=True))
    names = [c.name for c in sample.coordinates]
    strengths = [
        PairStrength(
            a=names[a],
            b=names[b],
            h=parts.h[a, b],
            share=parts.pair_shares[a, b],
            p=p.get((a, b)),
            p_holm=adjusted.get((a, b)),
        )
        for a, b in combinations(range(len(names)), 2)
    ]
    return tuple(sorted(strengths, key=lambda pair: (pair.p_holm or 0.0, -pair.share)))


def interaction_p_values(sample: Sample, fitted: Surrogate, parts: Parts, repeats: int) -> dict[tuple[int, int], float]:
    """A p-value for each pair, against a null without interactions and then against nulls with the clear ones.

    An interaction shortens the length scales of its two coordinates and so raises their H with every other coordinate:
    against an additive null, all of these would seem to interact. So once a pair is clear, the null includes it, the
    other clear pairs are tested again, and a pair's p is the highest of its tests. Pairs that are not clear need no
    second test, as their p could only rise.
    """
    p = fits.interaction_p(sample.points, sample.values, parts.h, repeats, levels=sample.levels)
    known: list[tuple[int, int]] = []
    while len(known) < KNOWN_MOST:
        adjusted = dict(zip(p, holm(list(p.values())), strict=True))
        clear = [pair for pair in p if adjusted[pair] <= 1 - LEVEL and pair not in known]
        if len(clear) < 2:
            break
        known.append(max(clear, key=lambda pair: parts.pair_shares[pair]))
        effects = np.sum([fits.pair_effect(fitted, *pair) for pair in known], axis=0)
        others = {pair: parts.h[pair] for pair in clear if pair not in known}
        retested = fits.interaction_p(sample.points, sample.values, others, repeats, effects, sample.levels)
        p = {pair: max(value, retested.get(pair, 0.0)) for pair, value in p.items()}
    return p


def _effect(sample: Sample, parts: Parts, j: int) -> Effect:
    coordinate, values = sample.coordinates[j], sample.link.values(sample.values).tolist()
    return Effect(
        name=coordinate.name,
        at=tuple(coordinate.from_unit(x) for x in parts.grids[j]),
        values=tuple(sample.link.values(parts.mean + parts.mains[j]).tolist()),
        trials=tuple((coordinate.from_unit(x), y) for x, y in zip(sample.points[:, j].tolist(), values, strict=True)),
    )


def _contour(sample: Sample, fitted: Surrogate, pair: PairStrength) -> Contour:
    names = [c.name for c in sample.coordinates]
    a, b = names.index(pair.a), names.index(pair.b)
    at_a, at_b = fitted.ends(a), fitted.ends(b)
    joint = fits.joint_effect(fitted, a, b, at_a, at_b)
    first, second = sample.coordinates[a], sample.coordinates[b]
    return Contour(
        a=pair.a,
        b=pair.b,
        at_a=tuple(first.from_unit(x) for x in at_a),
        at_b=tuple(second.from_unit(x) for x in at_b),
        values=tuple(tuple(row) for row in sample.link.values(joint).T.tolist()),
        trials=tuple(
            (first.from_unit(point[a]), second.from_unit(point[b]), value)
            for point, value in zip(sample.points.tolist(), sample.link.values(sample.values).tolist(), strict=True)
        ),
    )


def _importances(sample: Sample, parts: Parts) -> tuple[Importance, ...]:
    ped, chance = ped_anova([c.name for c in sample.coordinates], sample.points, sample.values, sample.levels)
    return tuple(
        Importance(
            name=c.name,
            ped_anova=ped[c.name],
            ped_chance=chance[c.name],
            main=float(parts.main_shares[j]),
            total=float(parts.total_shares[j]),
        )
        for j, c in enumerate(sample.coordinates)
    )


def ped_anova(
    names: Sequence[str], points: Floats, values: Floats, levels: Sequence[int] = ()
) -> tuple[dict[str, float], dict[str, float]]:
    """Optuna's PED-ANOVA: how much the best trials' distribution differs from that of all, and by how much by chance.

    Watanabe et al., "PED-ANOVA: efficiently quantifying hyperparameter importance in arbitrary subspaces" (2023).
    The best are a tenth, but at least five trials, as Optuna advises. Importances add up to 1; the chance level of each
    is its 95 % quantile over permuted values, which is high for few trials.
    """
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    counts = dict(zip(names, levels or [0] * len(names), strict=True))
    space: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(range(count)) if count else FloatDistribution(0.0, 1.0)
        for name, count in counts.items()
    }
    for point in points:
        params: dict[str, Any] = {
            name: int(x) if count else min(max(float(x), 0.0), 1.0)
            for (name, count), x in zip(counts.items(), point, strict=True)
        }
        study.add_trial(optuna.trial.create_trial(params=params, distributions=space, value=0.0))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, 5 / len(values)))

    def importances(of: Floats) -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that targets are minimised: the target is the negative
            by_name = get_param_importances(study, evaluator=evaluator, target=lambda trial: -float(of[trial.number]))
        return {name: float(by_name.get(name, 0.0)) for name in names}

    rng = np.random.default_rng(0)
    permuted = [importances(rng.permutation(values)) for _ in range(PED_PERMUTATIONS)]
    chance = {name: float(np.quantile([sample[name] for sample in permuted], LEVEL)) for name in names}
    return importances(values), chance
