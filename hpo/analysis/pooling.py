"""Pooling: the rounds of one configuration, whichever studies have measured them, and those that two have in common.

A round is known by the protocol's seed and its number. Studies that differ in nothing else measure the same, so their
rounds are pooled; what two studies have both trained is one round, not two. Looks are counted over all of them, as the
ledger has them: a pair's looks are those that had been declared for both of its configurations before these could
first be compared. A further seed's follow those of the seed before it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import NamedTuple

from hpo.analysis.items import ItemScores, ScoredRound
from hpo.analysis.looks import Looks, common_looks
from hpo.experiment.spaces import Value
from hpo.results.records import FinalResult, StudyResult
from hpo.storage.ledger import LedgerEntry
from hpo.study.measurements import Sighting, configuration_of, declared_before, epochs_of, measurement_of, sightings_of

ScoresOf = Mapping[int, ItemScores]  # by study id


class RoundId(NamedTuple):
    """Which round it is."""

    seed: int  # the protocol's
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class PooledRound:
    """One round of a configuration."""

    value: float  # on test items
    tested_on: tuple[str | None, int | None]  # digest of the units of its test items in order, and how many they are
    evidence: str | None  # what tells whether another one is equal to it; None: no two are
    scored: ScoredRound | None  # its single test items, where they are stored


@dataclass(frozen=True, kw_only=True, slots=True)
class PooledRounds:
    """All rounds of a configuration; of one that several studies have trained, the result of the study asked for."""

    rounds: Mapping[RoundId, PooledRound]
    asked: Mapping[int, int]  # by seed how many rounds were asked for at most
    sightings: Sequence[Sighting]  # of studies that are gone too
    seen: frozenset[int]  # seeds with which its configuration was tested at all, by whatever code
    gone: Sequence[int]  # those of them with which a study tested it that is not shown, once for each code
    at_hand: bool  # whether the scores of that study's single test items are

    def opened_at(self, seed: int) -> float:
        """When the first of a seed's rounds was tested; infinite where that is not known."""
        return min((s.opened_at for s in self.sightings if s.seed == seed), default=math.inf)


class Pooling:
    """The pooled rounds of all configurations of some studies."""

    def __init__(self, results: Sequence[StudyResult], scores: ScoresOf, ledger: Sequence[LedgerEntry]) -> None:
        """`scores` are by study id, `ledger` the openings of the test pools."""
        without_epochs = {(result.experiment, result.model) for result in results if result.epochs is None}
        self._sightings = sightings_of(ledger, without_epochs)
        self._by_configuration: dict[str, list[Sighting]] = {}
        for sighting in chain.from_iterable(self._sightings.values()):
            self._by_configuration.setdefault(sighting.configuration, []).append(sighting)
        self._shown = {result.id for result in results}
        self._scores = scores
        self._finals: dict[str, list[tuple[StudyResult, FinalResult]]] = {}
        for result in results:
            for final in result.final:
                self._finals.setdefault(measurement_in(result, final), []).append((result, final))

    def measurement(self, result: StudyResult, label: str) -> str:
        """What a study's configuration is a measurement of; empty where it has no such label."""
        final = result.final_of(label)
        return "" if final is None else measurement_in(result, final)

    def of(self, result: StudyResult, label: str) -> PooledRounds:
        """Those of a study's configuration, none where it has no such label."""
        final, measurement = result.final_of(label), self.measurement(result, label)
        finals = sorted(
            self._finals.get(measurement, ()), key=lambda pair: (pair[0] is not result, pair[1] is not final)
        )
        rounds: dict[RoundId, PooledRound] = {}
        asked: dict[int, int] = {}
        sightings = list(self._sightings.get(measurement, ()))
        for other, tested in finals:
            seed = other.spec.protocol.seed
            rounds = dict(self._rounds(other, tested)) | rounds
            asked[seed] = max(tested.planned, asked.get(seed, 0))
            if all(sighting.study_id != other.id for sighting in sightings):
                sightings.append(_unopened(other, measurement, tested.params))
        alike = self._by_configuration.get(sightings[0].configuration, ()) if sightings else ()
        return PooledRounds(
            rounds=rounds,
            asked=asked,
            sightings=sightings,
            seen=frozenset(sighting.seed for sighting in alike),
            gone=self._gone(alike),
            at_hand=result.id in self._scores,
        )

    def _gone(self, alike: Iterable[Sighting]) -> list[int]:
        """Of the sightings of a configuration, by whatever code, the seeds of measurements that are not shown."""
        unseen = {(s.seed, s.measurement) for s in alike if s.study_id not in self._shown}
        for measurement in {measurement for _, measurement in unseen}:
            seeds = {result.spec.protocol.seed for result, _ in self._finals.get(measurement, ())}
            unseen -= {(seed, measurement) for seed in seeds}
        return sorted(seed for seed, _ in unseen)

    def _rounds(self, result: StudyResult, final: FinalResult) -> Iterable[tuple[RoundId, PooledRound]]:
        fingerprints = evidence(result, final.label, self._scores)
        scores = self._scores[result.id].by_label.get(final.label, {}) if result.id in self._scores else {}
        tested = zip(final.round_numbers, final.test_values, final.units, final.items, strict=True)
        for number, value, units, items in tested:
            yield (
                RoundId(result.spec.protocol.seed, number),
                PooledRound(
                    value=value,
                    tested_on=(units, items),
                    evidence=fingerprints.get(number),
                    scored=scores.get(number),
                ),
            )


def measurement_in(result: StudyResult, final: FinalResult) -> str:
    """What a study's configuration is a measurement of."""
    return _measurement(result, final.params)


def method_in(result: StudyResult) -> str:
    """What the measurements of a study's configurations have in common."""
    return _measurement(result, {})


def _measurement(result: StudyResult, params: Mapping[str, Value]) -> str:
    return measurement_of(
        result.spec,
        params,
        data_digest=result.data_digest,
        code_digest=result.code_digest,
        epochs=_epochs(result),
    )


def _configuration(result: StudyResult, params: Mapping[str, Value]) -> str:
    return configuration_of(result.spec, params, data_digest=result.data_digest, epochs=_epochs(result))


def _epochs(result: StudyResult) -> int | None:
    return None if result.epochs is None else epochs_of(result.spec)


def _unopened(result: StudyResult, measurement: str, params: Mapping[str, Value]) -> Sighting:
    """A study's part in a measurement as long as nothing was opened for it, as far as the ledger knows."""
    return Sighting(
        study_id=result.id,
        study=result.name,
        measurement=measurement,
        configuration=_configuration(result, params),
        seed=result.spec.protocol.seed,
        declared=result.spec.looks,
        declared_at=result.created_at,
        opened_at=math.inf,
        looks={},
    )


def evidence(result: StudyResult, label: str, scores: ScoresOf) -> Mapping[int, str]:
    """For each round what tells whether another one is equal to it: its items' scores, else all its metrics."""
    final = result.final_of(label)
    if result.spec.traits.redraws_test or final is None:
        return {}
    if result.id in scores and label in scores[result.id].fingerprints:
        return scores[result.id].fingerprints[label]
    by_metric = list(final.metrics.values())
    return {r: repr([values[i] for values in by_metric]) for i, r in enumerate(final.round_numbers) if by_metric}


# --- What two have in common ------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class CommonRounds:
    """The rounds that two configurations have in common, in the order in which they could be compared."""

    rounds: tuple[RoundId, ...]  # those that count, without repeated ones
    beyond: tuple[RoundId, ...]  # those that no look was declared for, or whose look has not come yet
    repeated: int  # rounds that would count, were they not equal to an earlier one in every test item on both sides
    looks: Looks
    places: tuple[int, ...]  # of the rounds that count, among the rounds of the looks
    ends: tuple[int, ...]  # after how many of all these rounds the difference could be seen, ascending
    gone: tuple[int, ...]  # seeds of comparisons of the two, each once, by studies that are not shown

    @property
    def every(self) -> tuple[RoundId, ...]:
        """All of them."""
        return (*self.rounds, *self.beyond)


@dataclass(frozen=True, kw_only=True, slots=True)
class _OfSeed:
    """The common rounds of one protocol's seed."""

    seed: int
    declared: tuple[int, ...]  # the looks that count; empty: none was declared in time
    asked: int
    stops: frozenset[int]  # rounds at which they could be seen
    numbers: tuple[int, ...]  # ascending


def common_rounds(a: PooledRounds, b: PooledRounds) -> CommonRounds | None:
    """What both have; None where that is nothing."""
    of_seeds = _by_seed(a, b)
    if not of_seeds:
        return None
    looks = _looks(of_seeds)
    offsets = accumulate((s.declared[-1] if s.declared else 0 for s in of_seeds), initial=0)
    seen: set[tuple[str, str]] = set()
    counted: dict[RoundId, int] = {}
    beyond: list[RoundId] = []
    ends: set[int] = set()
    repeated = so_far = 0
    for of_seed, offset in zip(of_seeds, offsets, strict=False):
        distinct: list[int] = []
        for number in of_seed.numbers:
            this = RoundId(of_seed.seed, number)
            counts = number < (of_seed.declared or (0,))[-1] and offset + number < looks.now
            both = a.rounds[this].evidence, b.rounds[this].evidence
            if None not in both and both in seen:
                repeated += counts
                continue
            seen.add(both)  # type: ignore[arg-type]  # None is never compared
            distinct.append(number)
            if counts:
                counted[this] = offset + number
            else:
                beyond.append(this)
        ends |= {so_far + sum(number < stop for number in distinct) for stop in of_seed.stops}
        so_far += len(distinct)
    return CommonRounds(
        rounds=tuple(counted),
        beyond=tuple(beyond),
        repeated=repeated,
        looks=looks,
        places=tuple(counted.values()),
        ends=tuple(sorted(ends - {0})),
        gone=tuple(_gone_before(a, b)),
    )


def _gone_before(a: PooledRounds, b: PooledRounds) -> Iterable[int]:
    """The seeds of comparisons that are not shown: neither a new seed nor new code is a first look."""
    for seed in sorted(a.seen & b.seen):
        yield from [seed] * max(a.gone.count(seed), b.gone.count(seed))


def _by_seed(a: PooledRounds, b: PooledRounds) -> list[_OfSeed]:
    """Seed by seed, in the order in which the two could first be compared."""
    opened = {seed: max(a.opened_at(seed), b.opened_at(seed)) for seed in a.asked if seed in b.asked}
    first = min(opened.values(), default=math.inf)
    of_seeds = []
    for place, seed in enumerate(sorted(opened, key=lambda seed: opened[seed])):
        declared = [declared_before(side.sightings, seed, first) for side in (a, b)]
        if place == 0:  # where the ledger does not know, what they declare at all
            declared = [
                timely or declared_before(side.sightings, seed, math.inf)
                for side, timely in zip((a, b), declared, strict=True)
            ]
        asked = min(a.asked[seed], b.asked[seed])
        since = {
            look
            for side in (a, b)
            for sighting in side.sightings
            if sighting.seed == seed
            for look, time in sighting.looks.items()
            if time >= first
        }
        common = common_looks(declared) if all(declared) else ()
        of_seeds.append(
            _OfSeed(
                seed=seed,
                declared=common,
                asked=asked,
                stops=frozenset({asked, *since, *(look for look in common if look <= asked)}),
                numbers=tuple(sorted(r.number for r in a.rounds if r.seed == seed and _same_items(a, b, r))),
            )
        )
    return of_seeds


def _same_items(a: PooledRounds, b: PooledRounds, which: RoundId) -> bool:
    return which in b.rounds and a.rounds[which].tested_on == b.rounds[which].tested_on


def _looks(of_seeds: Sequence[_OfSeed]) -> Looks:
    """Those of all seeds, one behind the other, as far as the rounds asked for have come."""
    declared: list[int] = []
    reached, under_way = 0, True
    for of_seed in of_seeds:
        offset = declared[-1] if declared else 0
        for look in of_seed.declared:
            declared.append(offset + look)
            under_way = under_way and look <= of_seed.asked
            reached += under_way
    return Looks(declared=tuple(declared), reached=max(1, reached))
