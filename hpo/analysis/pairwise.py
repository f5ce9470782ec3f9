"""Pairwise comparisons: which configurations may be compared, round by round, and the outcome.

Only rounds of one setting are compared: the same images, protocol seed, draws, batches and epochs. Rounds are paired
by their number. Accuracies and differences are fractions.

Holm's correction is applied in two families: pairs of models (tuned ones and those with the paper's configuration
together) and tuned against the paper's configuration. Each setting has two families of its own, because it is a
separate experiment and no conclusion is chosen among settings. Pairs over repeats of a search (`repeats.py`) answer
another question, whether another search would give the same result, and are corrected among themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal

from hpo.analysis import stats
from hpo.results.records import StudyResult
from hpo.study.labels import PAPER, TUNED
from hpo.study.spec import MODELS, ModelName

PairKind = Literal[
    "pairs of models, tuned",
    "pairs of models, the paper's configuration",
    "tuned against the paper's configuration",
]
BETWEEN_TUNED: PairKind = "pairs of models, tuned"
BETWEEN_PAPER: PairKind = "pairs of models, the paper's configuration"
TUNING: PairKind = "tuned against the paper's configuration"

Family = Literal["pairs of models", "tuned against the paper's configuration"]  # of Holm's correction
FAMILIES: dict[PairKind, Family] = {
    BETWEEN_TUNED: "pairs of models",
    BETWEEN_PAPER: "pairs of models",
    TUNING: "tuned against the paper's configuration",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What must be equal for two final rounds with the same number to form a pair."""

    data_digest: str
    protocol_seed: int
    epochs: int
    batch_size: int
    training_pairs: int
    test_pairs: int


def setting_of(result: StudyResult) -> Setting:
    """The setting of a study's final rounds."""
    spec = result.spec
    return Setting(
        data_digest=result.data_digest,
        protocol_seed=spec.protocol.seed,
        epochs=spec.budget.epochs,
        batch_size=spec.protocol.batch_size,
        training_pairs=spec.protocol.training_pairs,
        test_pairs=spec.protocol.test_pairs,
    )


# --- Pairs ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class PairSide:
    """One of the two configurations of a pair."""

    model: ModelName
    label: str
    study: str
    study_id: int
    mean: float  # over the common rounds


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """Two configurations over their common rounds: a minus b."""

    kind: PairKind
    family: Family  # within which p is corrected
    setting: int
    a: PairSide
    b: PairSide
    rounds: tuple[int, ...]  # numbers of the common rounds
    difference: stats.PairedDifference
    outperforming: stats.Outperforming
    test: stats.SignFlip
    p_holm: float  # corrected within family and setting
    pairing: stats.Pairing
    detectable: float | None  # true difference that would be clear 4 times in 5; None: so few rounds detect none
    images: stats.Interval | None = None  # of the difference for new seeds and new images; needs all rounds' answers
    unanswered: int = 0  # rounds without single answers although the images are at hand: one prevents that interval

    @property
    def clear(self) -> bool:
        """Whether interval and corrected test agree that the difference is not 0."""
        interval = self.difference.interval
        return interval is not None and interval.excludes_zero and self.p_holm < 1 - stats.LEVEL


def representatives(results: Sequence[StudyResult], setting: Setting, label: str) -> list[StudyResult]:
    """For each model the study with the most rounds under the label; of equals the oldest."""
    chosen = []
    for model in MODELS:
        candidates = [
            (final.rounds, -index, result)
            for index, result in enumerate(results)
            if result.model == model and setting_of(result) == setting
            for final in result.final
            if final.label == label and final.rounds
        ]
        if candidates:
            chosen.append(max(candidates, key=lambda candidate: candidate[:2])[2])
    return chosen


def pairs_of(results: Sequence[StudyResult], settings: Sequence[Setting], index: int) -> list[Pair]:
    """All pairs of one setting, with p-values corrected within their families."""
    setting = settings[index]
    between = [
        pair
        for kind, label in ((BETWEEN_TUNED, TUNED), (BETWEEN_PAPER, PAPER))
        for worse, better in combinations(representatives(results, setting, label), 2)  # the later should be better
        if (pair := _pair(kind, index, (better, label), (worse, label))) is not None
    ]
    tuning = [
        pair
        for result in representatives(results, setting, TUNED)
        if (tuned := result.final_of(TUNED)) is not None and tuned.same_as is None
        if (pair := _pair(TUNING, index, (result, TUNED), (result, PAPER))) is not None
    ]
    return _corrected(between) + _corrected(tuning)


def _pair(kind: PairKind, setting: int, a: tuple[StudyResult, str], b: tuple[StudyResult, str]) -> Pair | None:
    by_round_a, by_round_b = _by_round(*a), _by_round(*b)
    common = sorted(by_round_a.keys() & by_round_b.keys())
    if not common:
        return None
    values_a, values_b = [by_round_a[r] for r in common], [by_round_b[r] for r in common]
    difference = stats.paired_difference(values_a, values_b)
    test = stats.sign_flip_test(difference.values)
    return Pair(
        kind=kind,
        family=FAMILIES[kind],
        setting=setting,
        a=_side(*a, stats.mean(values_a)),
        b=_side(*b, stats.mean(values_b)),
        rounds=tuple(common),
        difference=difference,
        outperforming=stats.probability_of_outperforming(values_a, values_b),
        test=test,
        p_holm=test.p,
        pairing=stats.pairing(values_a, values_b),
        detectable=None,
    )


def _by_round(result: StudyResult, label: str) -> dict[int, float]:
    final = result.final_of(label)
    return {} if final is None else dict(zip(final.round_numbers, final.test_values, strict=True))


def _side(result: StudyResult, label: str, mean: float) -> PairSide:
    return PairSide(model=result.model, label=label, study=result.name, study_id=result.id, mean=mean)


def _corrected(family: Sequence[Pair]) -> list[Pair]:
    adjusted = stats.holm([pair.test.p for pair in family])
    return [
        replace(pair, p_holm=p, detectable=_detectable(pair, len(family)))
        for pair, p in zip(family, adjusted, strict=True)
    ]


def _detectable(pair: Pair, tests: int) -> float | None:
    """At the level of Holm's first step, the strictest: the step that a pair will meet is known only afterwards."""
    level = stats.attainable_level(pair.test, 1 - stats.LEVEL, tests)
    return stats.detectable_difference(pair.difference.std or 0.0, pair.test.n, alpha=level)
