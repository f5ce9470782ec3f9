"""Opened: how often a test pool has been looked at, by studies that are gone too, and what choosing by it would cost.

Of k configurations that are equally good the best looks better than it is: by the expected largest of k standard
normal numbers times the standard error of one configuration's mean (Blom, 1958, gives the first in closed form).
"""

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

from hpo.analysis.comparison import Comparison
from hpo.errors import SpecError
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Value
from hpo.results.records import StudyResult
from hpo.storage.ledger import LedgerEntry
from hpo.study.spec import StudySpec, parsed_spec

_BLOM = 0.375


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedPool:
    """What has been tested on one experiment's test items."""

    experiment: str
    items: str  # what they are called
    metric: MetricInfo
    configurations: int  # distinct: of a model, with these values
    openings: int
    gone: tuple[str, ...]  # names of studies that opened it and are there no more
    only_gone: int  # configurations that only those tested
    luck: float | None  # by how much the best of so many equally good ones looks better; None: not known
    opened_by: str  # the study that opened it first
    searched_after: tuple[tuple[str, int, int], ...]  # studies with trials begun after that: how many, of how many
    seeded: tuple[str, ...]  # studies that start from a configuration which had been tested there


def opened_pools(
    entries: Sequence[LedgerEntry], results: Sequence[StudyResult], comparison: Comparison
) -> list[OpenedPool]:
    """Each test pool of these studies that has been opened, in the order of the studies."""
    pools = dict.fromkeys((result.experiment, result.data_digest) for result in results)
    tested = []
    for experiment, digest in pools:
        opened = [entry for entry in entries if (entry.experiment, entry.data_digest) == (experiment, digest)]
        if not opened:
            continue
        of_pool = [r for r in results if (r.experiment, r.data_digest) == (experiment, digest)]
        result = of_pool[0]
        configurations = {_configuration(entry) for entry in opened}
        known = {_configuration(entry) for entry in opened if not entry.deleted}
        gone = [entry for entry in opened if entry.deleted]
        first = min(opened, key=lambda entry: entry.opened_at)
        tested.append(
            OpenedPool(
                experiment=experiment,
                items=result.spec.traits.items,
                metric=result.metric,
                configurations=len(configurations),
                openings=len(opened),
                gone=tuple(dict.fromkeys(entry.study for entry in gone)),
                only_gone=len(configurations - known),
                luck=_luck(len(configurations), digest, result.metric, comparison),
                opened_by=first.study,
                searched_after=tuple(_searched_after(of_pool, first.opened_at)),
                seeded=tuple(r.name for r in of_pool if _is_seeded(r, opened)),
            )
        )
    return tested


def _searched_after(results: Sequence[StudyResult], opened_at: float) -> Iterable[tuple[str, int, int]]:
    for result in results:
        after = sum(run.started_at is not None and run.started_at > opened_at for run in result.search)
        if after:
            yield result.name, after, result.trials.total


def _is_seeded(result: StudyResult, opened: Sequence[LedgerEntry]) -> bool:
    """Whether a search begins with what an earlier test had been made of, other than the experiment's reference."""
    earlier = [
        entry
        for entry in opened
        if entry.model == result.model and entry.opened_at < result.created_at and entry.study_id != result.id
    ]
    tested = {_configuration(entry)[1] for entry in earlier} - _shipped_reference([result.spec, *_specs(earlier)])
    begins = {_in_order(result.spec.reference), _in_order(result.spec.tuned)}
    return bool(result.trials.total) and not tested.isdisjoint(begins)


def _shipped_reference(specs: Iterable[StudySpec]) -> set[str]:
    """The reference that comes with a model; nothing where studies know several: whoever changes it, chooses."""
    by_origin: dict[bool, set[str]] = {True: set(), False: set()}
    for spec in specs:
        by_origin[spec.has_shipped_reference].add(_in_order(spec.reference))
    shipped = by_origin[True]
    return shipped - by_origin[False] if len(shipped) == 1 else set()


def _specs(entries: Iterable[LedgerEntry]) -> Iterable[StudySpec]:
    """Of the studies that opened the pool, as far as they can be read."""
    for text in dict.fromkeys(entry.spec for entry in entries):
        if text is not None:
            with contextlib.suppress(SpecError):  # of a version that knew other specs
                yield parsed_spec(text)


def _configuration(entry: LedgerEntry) -> tuple[str, str]:
    return entry.model, _in_order(entry.params)


def _in_order(params: Mapping[str, Value] | None) -> str:
    """The one text of a configuration."""
    return json.dumps(params, sort_keys=True)


def _luck(configurations: int, digest: str, metric: MetricInfo, comparison: Comparison) -> float | None:
    """An improvement of the metric, from the pairs on these data: rounds that share their draws share their luck."""
    errors = [
        pair.difference.std / (2 * pair.test.n) ** 0.5
        for pair in comparison.pairs
        if comparison.settings[pair.setting].data_digest == digest and pair.metric == metric
        if pair.difference.std is not None
    ]
    return expected_largest(configurations) * median(errors) if errors and configurations > 1 else None


def expected_largest(k: int) -> float:
    """The expected largest of k standard normal numbers, after Blom."""
    return NormalDist().inv_cdf((k - _BLOM) / (k + 1 - 2 * _BLOM))
