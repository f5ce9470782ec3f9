"""Metrics for Prometheus, by its official client: what goes on, from the read model of `results/progress.py`."""

import time
from collections.abc import Iterable, Iterator
from typing import get_args

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine, select

from hpo.errors import DatabaseUnreachable
from hpo.results.progress import Overview, StudyProgress, overview
from hpo.results.progress_records import WorkerState
from hpo.storage.engine import begin_read
from hpo.storage.slots import State

STUDY = ("study", "experiment", "model")  # labels of whatever concerns a study
PHASE = (*STUDY, "kind")  # of its search, confirm and final slots


def exposition(engine: Engine) -> tuple[bytes, str]:
    """All metrics as Prometheus reads them, and their content type.

    Where the database does not answer `hpo_database_up` says so, and is all there is.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(engine))
    return generate_latest(registry), CONTENT_TYPE_LATEST


class _Collector(Collector):
    """What is read when Prometheus asks: a registry of its own for each time, nothing is kept."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("hpo_database_up", "Whether the database answers.")
        try:
            seen, seconds = overview(self._engine), _round_trip(self._engine)
        except DatabaseUnreachable:
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        latency = GaugeMetricFamily("hpo_database_round_trip_seconds", "A question to the database and its answer.")
        latency.add_metric([], seconds)
        return [up, latency, *_of_slots(seen.studies), *_of_studies(seen.studies), *_of_fleet(seen)]


def _round_trip(engine: Engine) -> float:
    """Seconds that the shortest question takes on a connection that is open."""
    with begin_read(engine) as connection:
        begun = time.perf_counter()
        connection.scalar(select(1))
        return time.perf_counter() - begun


def _of_slots(studies: Iterable[StudyProgress]) -> Iterator[Metric]:
    slots = GaugeMetricFamily("hpo_slots", "Slots by state.", labels=[*PHASE, "state"])
    claims = CounterMetricFamily("hpo_claims", "Claims of slots by workers.", labels=PHASE)
    reclaims = CounterMetricFamily("hpo_reclaims", "Claims beyond the first of a slot.", labels=PHASE)
    lost = CounterMetricFamily("hpo_lost_leases", "Leases that expired without a new epoch.", labels=PHASE)
    for study in studies:
        for phase in study.phases:
            labels = [study.name, study.experiment, study.model, phase.kind]
            for state in get_args(State):
                slots.add_metric([*labels, state], getattr(phase, state))
            claims.add_metric(labels, phase.claims)
            reclaims.add_metric(labels, phase.reclaims)
            lost.add_metric(labels, phase.lost_leases)
    yield from (slots, claims, reclaims, lost)


def _of_studies(studies: Iterable[StudyProgress]) -> Iterator[Metric]:
    trials = GaugeMetricFamily("hpo_trials_per_hour", "Trainings that ended, in the last hour.", labels=STUDY)
    epochs = GaugeMetricFamily("hpo_epochs_per_hour", "The step rate: epochs that they trained.", labels=STUDY)
    end = GaugeMetricFamily(
        "hpo_study_expected_end_timestamp_seconds", "When it will be done; missing where nobody knows.", labels=STUDY
    )
    for study in studies:
        labels = [study.name, study.experiment, study.model]
        trials.add_metric(labels, study.trials_per_hour)
        epochs.add_metric(labels, study.epochs_per_hour)
        if study.end is not None:
            end.add_metric(labels, study.end.expected)
    yield from (trials, epochs, end)


def _of_fleet(seen: Overview) -> Iterator[Metric]:
    workers = GaugeMetricFamily("hpo_workers", "Workers that live, or left or were lost lately.", labels=["state"])
    for state in get_args(WorkerState):
        workers.add_metric([state], sum(worker.state == state for worker in seen.workers))
    notes = GaugeMetricFamily("hpo_attention", "What does not mend itself; `hpo top` names it.", labels=["about"])
    for about in ("study", "worker"):
        notes.add_metric([about], sum(note.about == about for note in seen.attention))
    yield from (workers, notes)
