"""Pairwise comparisons: which configurations may be compared, round by round, and the outcome.

Rounds pair by evidence, never by name: the same data, options, metric, draws and epochs, and the same test items in the
same order. They are paired by the protocol's seed and their number, and pooled over the studies that have measured the
same (`pooling.py`). A difference is an improvement: above 0, a is better than b, whichever way the metric goes; of a
metric that is compared by ratios it is one of logarithms.

Rounds of a pair that are equal in every test item on both sides count once: twenty copies of a difference would else
give a tiny p, and are one observation. Rounds beyond the looks that were declared before the first of them do not
count either: whoever adds rounds until p is small errs more often than p says (`looks.py`). They are told beside.

Holm's correction is applied in two families: pairs of models (tuned ones and those with the reference configuration
together) and tuned against the reference configuration. Each setting has two families of its own, because it is a
separate experiment and no conclusion is chosen among settings. Pairs over repeats of a search (`repeats.py`) answer
another question, whether another search would give the same result, and are corrected among themselves.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from hpo.analysis import stats
from hpo.analysis.items import for_new_items, same_units
from hpo.analysis.looks import Looks, p_over_looks, sequential_test
from hpo.analysis.pooling import CommonRounds, PooledRounds, Pooling, RoundId, common_rounds, measurement_in
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Value
from hpo.results.records import StudyResult, models_of
from hpo.study.labels import TUNED

PairKind = Literal["tuned", "reference", "tuning"]
BETWEEN_TUNED: PairKind = "tuned"  # pairs of models, both tuned
BETWEEN_REFERENCE: PairKind = "reference"  # pairs of models, both with their reference configuration
TUNING: PairKind = "tuning"  # a model's tuned against its reference configuration

Family = Literal["models", "tuning"]  # of Holm's correction
FAMILIES: dict[PairKind, Family] = {BETWEEN_TUNED: "models", BETWEEN_REFERENCE: "models", TUNING: "tuning"}

Configuration = tuple[StudyResult, str]  # a study's, by its label

_LEAST = sys.float_info.min  # of a value that is compared by ratios: 0 has no logarithm


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What must be equal for two final rounds with the same number to form a pair."""

    data_digest: str
    protocol_seed: int
    epochs: int | None  # None: the model's affair, which pairs with any
    draws: tuple[tuple[str, int], ...]  # sizes of the draws by name, where the protocol says them
    metric: MetricInfo
    options: tuple[tuple[str, Value], ...]  # of the data

    def admits(self, other: "Setting") -> bool:
        """Whether rounds of the two may be compared."""
        any_epochs = None in (self.epochs, other.epochs)
        return replace(self, epochs=None) == replace(other, epochs=None) and (any_epochs or self.epochs == other.epochs)


def setting_of(result: StudyResult) -> Setting:
    """The setting of a study's final rounds."""
    spec, protocol = result.spec, result.spec.protocol
    return Setting(
        data_digest=result.data_digest,
        protocol_seed=protocol.seed,
        epochs=_epochs(result),
        draws=tuple(spec.traits.draws.items()),
        metric=result.metric,
        options=tuple(sorted(spec.data.items())),
    )


def settings_of(results: Iterable[StudyResult]) -> list[Setting]:
    """The settings of all studies with final rounds; one whose epochs are any joins another that has some."""
    settings: list[Setting] = []
    for result in results:
        if not any(final.rounds for final in result.final):
            continue
        setting = setting_of(result)
        place = next((i for i, other in enumerate(settings) if other.admits(setting)), None)
        if place is None:
            settings.append(setting)
        elif settings[place].epochs is None:
            settings[place] = setting
    return settings


def experiments_in(results: Iterable[StudyResult], setting: Setting) -> tuple[str, ...]:
    """The names of the experiments in a setting."""
    return tuple(dict.fromkeys(r.experiment for r in results if setting.admits(setting_of(r))))


def place_of(result: StudyResult, settings: Sequence[Setting]) -> int:
    """The number of a study's setting among these."""
    setting = setting_of(result)
    return next(place for place, other in enumerate(settings) if other.admits(setting))


def _epochs(result: StudyResult) -> int | None:
    """The epochs that a comparison depends on; None where the model fixes its own, or its method has none."""
    fixed = getattr(result.spec, "model_epochs", None)
    return None if fixed is not None else result.epochs


# --- Pairs ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class PairSide:
    """One of the two configurations of a pair."""

    experiment: str
    model: str
    label: str
    study: str
    study_id: int
    trials: int  # of its search; 0: nothing was searched there, and a tuned configuration was given
    is_repeat: bool  # whether the study is one of several that repeat a search
    mean: float  # over the common rounds


@dataclass(frozen=True, kw_only=True, slots=True)
class Undeclared:
    """Rounds beyond the declared looks, asked for after these had been seen: what all rounds together say."""

    added: int  # rounds that do not count
    rounds: int  # with those that do
    seeds: tuple[tuple[int, int], ...]  # protocol seeds of those added, and how many each has
    looks: tuple[int, ...]  # rounds at which the difference could be seen so far
    mean: float  # difference over all rounds
    p: float  # of the sign-flip test over all rounds, as if nobody had looked before
    p_over_looks: float  # and for whoever would have stopped at any of the looks


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """A mean difference and what is concluded from it; above 0, a is better."""

    family: Family  # within which p is corrected
    setting: int
    metric: MetricInfo
    epochs: int | None  # of a training; None: the model's affair
    difference: stats.PairedDifference
    p_holm: float  # corrected within family and setting
    items: stats.Interval | None = None  # of the difference for new seeds and new test items; needs all rounds' scores
    from_items: float | None = None  # share of that interval's variance that comes from the items alone
    items_name: str = "test items"  # what single test items are called

    @property
    def clear_on_these_items(self) -> bool:
        """Whether interval and corrected test agree that the difference is not 0: for new seeds and draws."""
        interval = self.difference.interval
        return interval is not None and interval.excludes_zero and self.p_holm < 1 - stats.LEVEL

    @property
    def clear(self) -> bool:
        """Whether the difference holds for new seeds and for new test items."""
        return self.clear_on_these_items and self.items is not None and self.items.excludes_zero

    @property
    def is_immaterial(self) -> bool:
        """Whether the difference is too small to matter, as far as its intervals go."""
        margin = self.metric.margin
        if margin is None or self.items is None:
            return False
        intervals = [i for i in (self.difference.interval, self.items) if i is not None]
        return all(-margin < i.low and i.high < margin for i in intervals)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair(Contrast):
    """Two configurations over their common rounds; intervals hold together with those of the other looks."""

    kind: PairKind
    a: PairSide
    b: PairSide
    rounds: tuple[int, ...]  # numbers of the common rounds that count
    seeds: tuple[tuple[int, int], ...]  # their protocols' seeds, in the order of `rounds`, and how many each has
    looks: Looks
    outperforming: stats.Outperforming
    test: stats.SignFlip  # over all looks so far
    pairing: stats.Pairing
    detectable: float | None  # true difference that would be clear 4 times in 5; None: so few rounds detect none
    unanswered: int = 0  # rounds without single scores although others have them: one prevents that interval
    same_items: bool = False  # every round was tested on the same items
    repeated: int = 0  # rounds that are equal to others in every item on both sides, and do not count
    undeclared: Undeclared | None = None  # what more rounds say that no look was declared for
    gone: tuple[int, ...] = ()  # protocol seeds of comparisons of the two by studies that are not shown


def label_of(result: StudyResult, which: Literal["tuned", "reference"]) -> str:
    """A study's label of one of the two configurations that are compared."""
    return TUNED if which == "tuned" else result.reference_label


def representatives(
    results: Sequence[StudyResult], setting: Setting, which: Literal["tuned", "reference"]
) -> list[StudyResult]:
    """For each model the study of the configuration with the most rounds there; of equals the oldest."""
    chosen = []
    for key in models_of(results):
        measured: dict[str, tuple[StudyResult, set[int]]] = {}
        for result in results:
            final = result.final_of(label_of(result, which))
            of_key = (result.experiment, result.model) == key and setting.admits(setting_of(result))
            if of_key and final is not None and final.rounds:
                measured.setdefault(measurement_in(result, final), (result, set()))[1].update(final.round_numbers)
        if measured:
            chosen.append(max(measured.values(), key=lambda candidate: len(candidate[1]))[0])
    return chosen


def _at_their_best(results: Sequence[StudyResult], setting: Setting) -> list[Configuration]:
    """Each model's study and label: tuned, or the reference configuration where there is nothing to tune."""
    tuned = {(r.experiment, r.model): (r, TUNED) for r in representatives(results, setting, "tuned")}
    fixed = {
        (r.experiment, r.model): (r, r.reference_label)
        for r in representatives(results, setting, "reference")
        if r.is_fixed
    }
    best = fixed | tuned
    return [best[key] for key in models_of(results) if key in best]


def pairs_of(results: Sequence[StudyResult], settings: Sequence[Setting], pooling: Pooling) -> list[Pair]:
    """All pairs, setting by setting, with p-values corrected within their families.

    What two settings would both compare, for they differ in the protocol's seed alone, stands in the first one.
    """
    pairs: list[Pair] = []
    compared: set[tuple[PairKind, str, str, MetricInfo]] = set()
    for index, setting in enumerate(settings):
        by_family: dict[Family, list[Pair]] = {"models": [], "tuning": []}
        for kind, a, b in _to_compare(results, setting):
            key = (kind, pooling.measurement(*a), pooling.measurement(*b), a[0].metric)
            pair = None if key in compared else _pair(kind, index, a, b, pooling)
            if pair is not None:
                compared.add(key)
                by_family[pair.family].append(pair)
        pairs += [pair for family in by_family.values() for pair in _corrected(family)]
    return pairs


def _to_compare(
    results: Sequence[StudyResult], setting: Setting
) -> Iterable[tuple[PairKind, Configuration, Configuration]]:
    """What is compared with what in a setting; the first should be the better one."""
    references = [(result, result.reference_label) for result in representatives(results, setting, "reference")]
    for worse, better in combinations(_at_their_best(results, setting), 2):
        if TUNED in (worse[1], better[1]):
            yield BETWEEN_TUNED, better, worse
    for worse, better in combinations(references, 2):
        yield BETWEEN_REFERENCE, better, worse
    for result in representatives(results, setting, "tuned"):
        tuned = result.final_of(TUNED)
        if tuned is not None and tuned.same_as is None:
            yield TUNING, (result, TUNED), (result, result.reference_label)


def _pair(kind: PairKind, setting: int, a: Configuration, b: Configuration, pooling: Pooling) -> Pair | None:
    of_a, of_b = pooling.of(*a), pooling.of(*b)
    common = common_rounds(of_a, of_b)
    if common is None or not common.rounds:
        return None
    values_a, values_b = ([side.rounds[r].value for r in common.rounds] for side in (of_a, of_b))
    metric, looks = a[0].metric, common.looks
    difference = stats.paired_difference(*oriented(metric, values_a, values_b), looks.level)
    test = sequential_test(difference.values, common.places, looks)
    pair = Pair(
        kind=kind,
        family=FAMILIES[kind],
        setting=setting,
        a=_side(*a, stats.mean(values_a)),
        b=_side(*b, stats.mean(values_b)),
        metric=metric,
        epochs=a[0].epochs if a[0].epochs == b[0].epochs else None,
        rounds=tuple(r.number for r in common.rounds),
        seeds=_seeds(common.rounds),
        looks=looks,
        difference=difference,
        outperforming=stats.probability_of_outperforming(*oriented(metric, values_a, values_b)),
        test=test,
        p_holm=test.p,
        pairing=stats.pairing(*oriented(metric, values_a, values_b)),
        detectable=None,
        repeated=common.repeated,
        undeclared=_undeclared(common, of_a, of_b, metric) if common.beyond else None,
        gone=common.gone,
        items_name=f"test {a[0].spec.traits.items}",
    )
    return _with_items(pair, common, of_a, of_b)


def _seeds(rounds: Sequence[RoundId]) -> tuple[tuple[int, int], ...]:
    return tuple(Counter(r.seed for r in rounds).items())


def _undeclared(common: CommonRounds, a: PooledRounds, b: PooledRounds, metric: MetricInfo) -> Undeclared:
    """What all rounds say, with those that do not count."""
    values = oriented(metric, *([side.rounds[r].value for r in common.every] for side in (a, b)))
    difference = stats.paired_difference(*values)
    return Undeclared(
        added=len(common.beyond),
        rounds=len(common.every),
        seeds=_seeds(common.beyond),
        looks=common.ends,
        mean=difference.mean,
        p=stats.sign_flip_test(difference.values).p,
        p_over_looks=p_over_looks(difference.values, common.ends),
    )


def _with_items(pair: Pair, common: CommonRounds, a: PooledRounds, b: PooledRounds) -> Pair:
    """The pair with an interval for new test items, where the scores of all its rounds are stored."""
    if not (a.at_hand and b.at_hand):
        return pair
    scored = [
        {place: of for place, r in enumerate(common.rounds) if (of := side.rounds[r].scored) is not None}
        for side in (a, b)
    ]
    if not any(scored):  # the metric has none for single items
        return pair
    lacking = len(pair.rounds) - len(scored[0].keys() & scored[1].keys())
    several = len(pair.rounds) + pair.repeated > 1
    same = several and bool(scored[0]) and same_units(list(scored[0].values()))
    pair = replace(pair, unanswered=lacking, same_items=same)
    if lacking:
        return pair
    fewest = 1 if pair.repeated else 2  # where all rounds are equal, new test items alone are asked for
    (expected,) = for_new_items([(scored[0], scored[1])], pair.metric, pair.looks.level, fewest=fewest)
    return pair if expected is None else replace(pair, items=expected.interval, from_items=expected.from_units)


def oriented(metric: MetricInfo, a: Sequence[float], b: Sequence[float]) -> tuple[list[float], list[float]]:
    """Values of both sides, of which the larger are the better, and whose differences are what is compared."""

    def turned(value: float) -> float:
        return metric.sign * (math.log(max(value, _LEAST)) if metric.is_relative else value)

    return [turned(value) for value in a], [turned(value) for value in b]


def _side(result: StudyResult, label: str, mean: float) -> PairSide:
    return PairSide(
        experiment=result.experiment,
        model=result.model,
        label=label,
        study=result.name,
        study_id=result.id,
        trials=result.trials.total,
        is_repeat=result.repeat_group is not None,
        mean=mean,
    )


def _corrected(family: Sequence[Pair]) -> list[Pair]:
    adjusted = stats.holm([pair.test.p for pair in family])
    return [
        replace(pair, p_holm=p, detectable=_detectable(pair, len(family)))
        for pair, p in zip(family, adjusted, strict=True)
    ]


def _detectable(pair: Pair, tests: int) -> float | None:
    """At the level of Holm's first step, the strictest: the step that a pair will meet is known only afterwards."""
    level = stats.attainable_level(pair.test.n, pair.looks.alpha((1 - stats.LEVEL) / tests))
    return stats.detectable_difference(pair.difference.std or 0.0, pair.test.n, alpha=level)
