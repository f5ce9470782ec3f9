"""Repeats: the same search run again with other seeds, which alone shows how much of its outcome is chance.

The comparison's other intervals concern rounds of given configurations. Here the unit is a search: each repeat's mean
over the rounds that all repeats have in common is one value. Values are in the unit of the metric.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from hpo.analysis import stats
from hpo.analysis.pairwise import Setting, oriented, place_of
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Value
from hpo.results.records import StudyResult, models_of
from hpo.study.labels import TUNED
from hpo.study.repeats import repeat_number


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeat:
    """One search of several, and the results of its tuned configuration."""

    study: str
    number: int  # in its group: repeats of two models with the same number share their draws, and form a pair
    seed: int  # of the search
    source: str | int | None  # of the tuned configuration: the reference's label, or a trial's number
    params: Mapping[str, Value]
    search: float | None  # best value of the search, on validation items
    confirm: float | None  # of the tuned configuration
    test: float  # its mean on test items over the common rounds
    reference: float | None  # the reference configuration in the same rounds


@dataclass(frozen=True, kw_only=True, slots=True)
class RepeatGroup:
    """The finished repeats of one model's search."""

    group: str
    experiment: str
    model: str
    metric: MetricInfo
    reference_label: str
    hyperparameters: tuple[str, ...]
    setting: int
    repeats: tuple[Repeat, ...]
    rounds: tuple[int, ...]  # numbers of the rounds that all of them have in common
    mean: float  # of the repeats' means
    interval: stats.Interval | None  # Student's t over repeats: for another search of this kind
    components: stats.Components | None  # variance between searches and between rounds


@dataclass(frozen=True, kw_only=True, slots=True)
class RepeatPair:
    """Two models, or a model's tuned and reference configuration, over repeats; above 0, a is better."""

    a: str
    b: str
    metric: MetricInfo
    numbers: tuple[int, ...]  # of the repeats that both have
    difference: stats.PairedDifference  # one value per repeat
    test: stats.SignFlip
    p_holm: float  # over the pairs of its kind

    @property
    def clear(self) -> bool:
        """Whether interval and corrected test agree that the difference is not 0."""
        interval = self.difference.interval
        return interval is not None and interval.excludes_zero and self.p_holm < 1 - stats.LEVEL


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeats:
    """All that is known from repeats; empty where no search was repeated."""

    groups: tuple[RepeatGroup, ...]
    models: tuple[RepeatPair, ...]  # pairs of models, both tuned
    tuning: tuple[RepeatPair, ...]  # tuned against the reference configuration


def repeats_of(results: Sequence[StudyResult], settings: Sequence[Setting]) -> Repeats:
    """Groups of at least two repeats whose tuned configurations have a final round in common.

    A repeat of whose search too many trials failed is left out.
    """
    by_group: dict[tuple[str, str, str, int], list[StudyResult]] = {}
    for result in results:
        tuned = result.final_of(TUNED)
        if result.repeat_group is not None and tuned is not None and tuned.rounds and not result.is_inconclusive:
            key = (result.repeat_group, result.experiment, result.model, place_of(result, settings))
            by_group.setdefault(key, []).append(result)
    repeated = (
        _group(name, setting, members) for (name, _, _, setting), members in by_group.items() if len(members) > 1
    )
    order = models_of(results)
    groups = tuple(
        sorted(
            (group for group in repeated if group is not None),
            key=lambda group: (group.setting, order.index((group.experiment, group.model))),
        )
    )
    models, tuning = [], []
    for setting in dict.fromkeys(g.setting for g in groups):
        by_model = _largest_by_model([g for g in groups if g.setting == setting])
        # The later model is the one that should be better, as in the pairs over rounds.
        models += _corrected([_pair(b.model, a.model, b.metric, *_tests(b, a)) for a, b in combinations(by_model, 2)])
        tuning += _corrected(
            [
                _pair(f"{g.model} {TUNED}", f"{g.model} {g.reference_label}", g.metric, *_tuned_and_reference(g))
                for g in by_model
            ]
        )
    return Repeats(groups=groups, models=tuple(models), tuning=tuple(tuning))


def _group(name: str, setting: int, results: Sequence[StudyResult]) -> RepeatGroup | None:
    by_round = [_values(result, TUNED) for result in results]
    common = sorted(set.intersection(*(set(values) for values in by_round)))
    if not common:
        return None
    table = [[values[number] for number in common] for values in by_round]
    repeats = tuple(_repeat(result, row, common) for result, row in zip(results, table, strict=True))
    means = [repeat.test for repeat in repeats]
    return RepeatGroup(
        group=name,
        experiment=results[0].experiment,
        model=results[0].model,
        metric=results[0].metric,
        reference_label=results[0].reference_label,
        hyperparameters=results[0].hyperparameters,
        setting=setting,
        repeats=repeats,
        rounds=tuple(common),
        mean=stats.mean(means),
        interval=stats.t_interval(means),
        components=stats.variance_components(table),
    )


def _repeat(result: StudyResult, tests: Sequence[float], common: Sequence[int]) -> Repeat:
    tuned, reference = result.tuned, _values(result, result.reference_label)
    final = result.final_of(TUNED)
    assert final is not None
    return Repeat(
        study=result.name,
        number=repeat_number(result.name, result.repeat_group) or 0,
        seed=result.seed,
        source=None if tuned is None else tuned.source,
        params=final.params,
        search=None if result.best is None else result.best.value,
        confirm=None if tuned is None else tuned.confirm_mean,
        test=stats.mean(tests),
        reference=stats.mean([reference[number] for number in common]) if set(common) <= set(reference) else None,
    )


def _values(result: StudyResult, label: str) -> dict[int, float]:
    final = result.final_of(label)
    return {} if final is None else dict(zip(final.round_numbers, final.test_values, strict=True))


def _largest_by_model(groups: Sequence[RepeatGroup]) -> list[RepeatGroup]:
    """One group for each model, the one with the most repeats; of equals the first."""
    best: dict[tuple[str, str], RepeatGroup] = {}
    for group in groups:
        key = group.experiment, group.model
        if key not in best or len(group.repeats) > len(best[key].repeats):
            best[key] = group
    return list(best.values())


def _tests(a: RepeatGroup, b: RepeatGroup) -> tuple[dict[int, float], dict[int, float]]:
    first, second = ({repeat.number: repeat.test for repeat in group.repeats} for group in (a, b))
    return first, second


def _tuned_and_reference(group: RepeatGroup) -> tuple[dict[int, float], dict[int, float]]:
    pairs = [(repeat.number, repeat.test, repeat.reference) for repeat in group.repeats if repeat.reference is not None]
    return {number: test for number, test, _ in pairs}, {number: reference for number, _, reference in pairs}


def _pair(
    a: str, b: str, metric: MetricInfo, of_a: Mapping[int, float], of_b: Mapping[int, float]
) -> RepeatPair | None:
    """The pair over the repeats that both have, None below two."""
    numbers = sorted(of_a.keys() & of_b.keys())
    if len(numbers) < 2:
        return None
    values = oriented(metric, [of_a[number] for number in numbers], [of_b[number] for number in numbers])
    difference = stats.paired_difference(*values)
    test = stats.sign_flip_test(difference.values)
    return RepeatPair(a=a, b=b, metric=metric, numbers=tuple(numbers), difference=difference, test=test, p_holm=test.p)


def _corrected(pairs: Sequence[RepeatPair | None]) -> list[RepeatPair]:
    family = [pair for pair in pairs if pair is not None]
    adjusted = stats.holm([pair.test.p for pair in family])
    return [replace(pair, p_holm=p) for pair, p in zip(family, adjusted, strict=True)]
