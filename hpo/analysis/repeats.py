"""Repeats: the same search run again with other seeds, which alone shows how much of its outcome is chance.

The comparison's other intervals concern rounds of given configurations. Here searches are a sample, and so are rounds:
final rounds with the same number are the same in all repeats (and one training of the reference configuration serves
them all), so what rounds bring does not average out over searches. Intervals and tests have both components
(`crossed.py`). Values are in the unit of the metric.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from hpo.analysis import stats
from hpo.analysis.crossed import METHOD, Components, CrossedTest, crossed_test, variance_components, variance_of_mean
from hpo.analysis.items import ScoredRounds, share_of, variance_from_units
from hpo.analysis.looks import Looks, common_looks
from hpo.analysis.pairwise import Configuration, Contrast, Family, Setting, oriented, place_of
from hpo.analysis.pooling import ScoresOf, evidence
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Value
from hpo.results.records import FinalResult, StudyResult, models_of
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
    rounds: tuple[int, ...]  # numbers of the rounds that all of them have in common, and that count
    mean: float  # of the repeats' means
    interval: stats.Interval | None  # of what such searches reach on average, in such rounds
    components: Components | None  # variance between searches and between rounds
    added: tuple[str, ...]  # repeats that were created when a result of another could be seen

    @property
    def unchanged(self) -> int:
        """In how many repeats the reference configuration won: tuning brought exactly nothing there."""
        return sum(repeat.source == self.reference_label for repeat in self.repeats)


@dataclass(frozen=True, kw_only=True, slots=True)
class RepeatPair(Contrast):
    """Two models, or a model's tuned and reference configuration, over repeats.

    The difference has one value per repeat; its interval is for new searches and new rounds.
    """

    a: str
    b: str
    mean_a: float  # over repeats and rounds
    mean_b: float
    numbers: tuple[int, ...]  # of the repeats that both have
    rounds: tuple[int, ...]  # numbers of the rounds that all of these have in common, and that count
    test: CrossedTest
    components: Components | None  # of the differences


@dataclass(frozen=True, kw_only=True, slots=True)
class Repeats:
    """All that is known from repeats; empty where no search was repeated."""

    groups: tuple[RepeatGroup, ...]
    models: tuple[RepeatPair, ...]  # pairs of models, both tuned
    tuning: tuple[RepeatPair, ...]  # tuned against the reference configuration


def repeats_of(results: Sequence[StudyResult], settings: Sequence[Setting], scores: ScoresOf | None = None) -> Repeats:
    """Groups of at least two repeats whose tuned configurations have a final round in common.

    A repeat of whose search too many trials failed is left out. `scores`, by study id, are those of test items.
    """
    by_group: dict[tuple[str, str, str, int], list[StudyResult]] = {}
    for result in results:
        tuned = result.final_of(TUNED)
        if result.repeat_group is not None and tuned is not None and tuned.rounds and not result.is_inconclusive:
            key = (result.repeat_group, result.experiment, result.model, place_of(result, settings))
            by_group.setdefault(key, []).append(result)
    made = _Maker(scores or {})
    repeated = [
        (made.group(name, setting, members), members)
        for (name, _, _, setting), members in by_group.items()
        if len(members) > 1
    ]
    order = models_of(results)
    groups = sorted(
        ((group, members) for group, members in repeated if group is not None),
        key=lambda of: (of[0].setting, order.index((of[0].experiment, of[0].model))),
    )
    models: list[RepeatPair] = []
    tuning: list[RepeatPair] = []
    for setting in dict.fromkeys(group.setting for group, _ in groups):
        largest = _largest_by_model([of for of in groups if of[0].setting == setting])
        # The later model is the one that should be better, as in the pairs over rounds.
        models += _corrected(made.models(b, a) for a, b in combinations(largest, 2))
        tuning += _corrected(made.tuning(of) for of in largest)
    return Repeats(groups=tuple(group for group, _ in groups), models=tuple(models), tuning=tuple(tuning))


_Repeated = tuple[RepeatGroup, list[StudyResult]]


def _largest_by_model(groups: Sequence[_Repeated]) -> list[_Repeated]:
    """One group for each model, the one with the most repeats; of equals the first."""
    best: dict[tuple[str, str], _Repeated] = {}
    for group, members in groups:
        key = group.experiment, group.model
        if key not in best or len(members) > len(best[key][1]):
            best[key] = group, members
    return list(best.values())


def _corrected(pairs: Iterable[RepeatPair | None]) -> list[RepeatPair]:
    family = [pair for pair in pairs if pair is not None]
    adjusted = stats.holm([pair.test.p for pair in family])
    return [replace(pair, p_holm=p) for pair, p in zip(family, adjusted, strict=True)]


def _number(result: StudyResult) -> int:
    return repeat_number(result.name, result.repeat_group) or 0


class _Maker:
    """Makes groups and pairs from studies and the scores of their test items."""

    def __init__(self, scores: ScoresOf) -> None:
        self._scores = scores

    def group(self, name: str, setting: int, members: Sequence[StudyResult]) -> RepeatGroup | None:
        """None without a round in common."""
        common, looks = self._common_rounds([(result, TUNED) for result in members])
        if not common:
            return None
        table = [_values((result, TUNED), common) for result in members]
        mean, variance = stats.mean([x for row in table for x in row]), variance_of_mean(table)
        first = members[0]
        return RepeatGroup(
            group=name,
            experiment=first.experiment,
            model=first.model,
            metric=first.metric,
            reference_label=first.reference_label,
            hyperparameters=first.hyperparameters,
            setting=setting,
            repeats=tuple(_repeat(result, row, common) for result, row in zip(members, table, strict=True)),
            rounds=tuple(common),
            mean=mean,
            interval=None if variance is None else stats.student_interval(mean, [variance], looks.level, METHOD),
            components=variance_components(table),
            added=_added(members),
        )

    def models(self, a: _Repeated, b: _Repeated) -> RepeatPair | None:
        """Two models, both tuned, paired by the repeats' numbers."""
        of_a, of_b = ({_number(result): (result, TUNED) for result in members} for _, members in (a, b))
        return self._pair("models", (a[0].model, b[0].model), a[0].setting, of_a, of_b)

    def tuning(self, of: _Repeated) -> RepeatPair | None:
        """A model's tuned against its reference configuration; None where every search ended at the reference.

        Differences that are all 0 have no spread, and say nothing of how often another search would find something.
        """
        group, members = of
        if group.unchanged == len(members):
            return None
        names = f"{group.model} {TUNED}", f"{group.model} {group.reference_label}"
        measured = [r for r in members if (final := r.final_of(r.reference_label)) is not None and final.rounds]
        of_a = {_number(result): (result, TUNED) for result in measured}
        of_b = {_number(result): (result, result.reference_label) for result in measured}
        return self._pair("tuning", names, group.setting, of_a, of_b)

    def _pair(
        self,
        family: Family,
        names: tuple[str, str],
        setting: int,
        of_a: Mapping[int, Configuration],
        of_b: Mapping[int, Configuration],
    ) -> RepeatPair | None:
        """The pair over the repeats that both have, None below two."""
        numbers = sorted(of_a.keys() & of_b.keys())
        if len(numbers) < 2:
            return None
        sides = [(of_a[number], of_b[number]) for number in numbers]
        common, looks = self._common_rounds([configuration for side in sides for configuration in side])
        if not common:
            return None
        first = sides[0][0][0]
        values = [[_values(configuration, common) for configuration in side] for side in sides]
        rows = [oriented(first.metric, *of_side) for of_side in values]
        table = [stats.paired_difference(*row).values for row in rows]
        means_a, means_b = ([stats.mean(row[place]) for row in rows] for place in (0, 1))
        difference = stats.paired_difference(means_a, means_b)
        variance, test = variance_of_mean(table), crossed_test(table, common, looks)
        epochs = {result.epochs for side in sides for result, _ in side}
        pair = RepeatPair(
            family=family,
            setting=setting,
            metric=first.metric,
            epochs=epochs.pop() if len(epochs) == 1 else None,
            difference=replace(difference, interval=None),
            p_holm=test.p,
            items_name=f"test {first.spec.traits.items}",
            a=names[0],
            b=names[1],
            mean_a=stats.mean([x for of_a, _ in values for x in of_a]),
            mean_b=stats.mean([x for _, of_b in values for x in of_b]),
            numbers=tuple(numbers),
            rounds=tuple(common),
            test=test,
            components=variance_components(table),
        )
        if variance is None:
            return pair
        interval = stats.student_interval(difference.mean, [variance], looks.level, METHOD)
        pair = replace(pair, difference=replace(difference, interval=interval))
        scored = [(self._scored(a, common), self._scored(b, common)) for a, b in sides]
        if any(of is None for side in scored for of in side):
            return pair
        by_units = variance_from_units([(a, b) for a, b in scored if a and b], common, first.metric)
        if by_units is None:
            return pair
        items = stats.student_interval(difference.mean, [variance, by_units], looks.level, f"{METHOD} and units")
        return replace(pair, items=items, from_items=share_of(by_units, variance))

    def _scored(self, configuration: Configuration, rounds: Sequence[int]) -> ScoredRounds | None:
        """A configuration's single test items in these rounds; None unless those of all are stored."""
        result, label = configuration
        scores = self._scores.get(result.id)
        of_label = {} if scores is None else scores.by_label.get(label, {})
        return of_label if set(rounds) <= of_label.keys() else None

    def _common_rounds(self, configurations: Sequence[Configuration]) -> tuple[list[int], Looks]:
        """The numbers of the rounds that all of them have, on the same test items, and that count; and their looks.

        As in the pairs over rounds: those beyond the declared looks do not count, and what is equal in every test item
        on all sides counts once.
        """
        finals = [_final(configuration) for configuration in configurations]
        looks = _looks([result for result, _ in configurations], min(final.planned for final in finals))
        tested_on = [
            dict(zip(final.round_numbers, zip(final.units, final.items, strict=True), strict=True)) for final in finals
        ]
        shared = sorted(set.intersection(*(set(of) for of in tested_on)))
        fingerprints = [evidence(result, label, self._scores) for result, label in configurations]
        seen: set[tuple[str | None, ...]] = set()
        common = []
        for number in shared:
            shown = tuple(of.get(number) for of in fingerprints)
            if (
                number < looks.now
                and len({of[number] for of in tested_on}) == 1
                and (None in shown or shown not in seen)
            ):
                seen.add(shown)
                common.append(number)
        return common, looks


def _added(members: Sequence[StudyResult]) -> tuple[str, ...]:
    ended = [run.finished_at for result in members for run in result.final_runs if run.finished_at is not None]
    return tuple(result.name for result in members if result.created_at > min(ended, default=math.inf))


def _looks(results: Sequence[StudyResult], asked: int) -> Looks:
    declared = common_looks([result.spec.looks for result in results])
    return Looks(declared=declared, reached=max(1, sum(look <= asked for look in declared)))


def _final(configuration: Configuration) -> FinalResult:
    result, label = configuration
    final = result.final_of(label)
    assert final is not None  # only those that were measured are compared
    return final


def _values(configuration: Configuration, rounds: Sequence[int]) -> list[float]:
    """On test items, in these rounds."""
    final = _final(configuration)
    by_round = dict(zip(final.round_numbers, final.test_values, strict=True))
    return [by_round[number] for number in rounds]


def _repeat(result: StudyResult, tests: Sequence[float], common: Sequence[int]) -> Repeat:
    tuned, reference = result.tuned, result.final_of(result.reference_label)
    has_all = reference is not None and set(common) <= set(reference.round_numbers)
    return Repeat(
        study=result.name,
        number=_number(result),
        seed=result.seed,
        source=None if tuned is None else tuned.source,
        params=_final((result, TUNED)).params,
        search=None if result.best is None else result.best.value,
        confirm=None if tuned is None else tuned.confirm_mean,
        test=stats.mean(tests),
        reference=stats.mean(_values((result, result.reference_label), common)) if has_all else None,
    )
