"""Tallies: sums over the slots of studies, a few statements for all of them; what progress is worked out from."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from optuna.storages._rdb import models
from sqlalchemy import ColumnElement, Connection, Row, case, func, select, text

from hpo.storage.engine import now
from hpo.storage.schema import UNTOLD, slots, studies
from hpo.storage.slots import RUNNING, Kind, State

HOUR, DAY = 3600.0, 86400.0  # seconds

_values = models.TrialValueModel.__table__
_complete_search = (slots.c.kind == "search") & (slots.c.result == "complete")


class Tally(NamedTuple):
    """Slots of one study, kind and state; those that ended in the last day apart, by worker and hour."""

    study_id: int
    kind: Kind
    state: State
    period: Literal["hour", "day"] | None  # ended in the last hour, or else day; None: earlier, or not yet
    worker: str | None  # where there is a period
    slots: int
    claims: int  # of them so far
    claimed: int  # how many of them were claimed at least once
    expiries: int  # leases that expired without a new epoch
    epochs: int  # reported, of all of them together
    began: float | None  # the first of them, seconds since 1970


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A trial that may be the best of its search."""

    study_id: int
    idx: int
    number: int | None  # Optuna's
    value: float
    loss: float | None  # of the second metric
    params: Mapping[str, Any] | None


def tallies_of(connection: Connection, study_ids: Collection[int]) -> list[Tally]:
    """All slots of these studies, in one go."""
    is_recent = slots.c.finished_at > now() - DAY
    period = case((slots.c.finished_at > now() - HOUR, "hour"), (is_recent, "day"))
    worker = case((is_recent, slots.c.worker))
    query = (
        select(
            slots.c.study_id,
            slots.c.kind,
            slots.c.state,
            period,
            worker,
            func.count(),
            func.sum(slots.c.attempt),
            func.sum(case((slots.c.attempt > 0, 1), else_=0)),
            func.sum(slots.c.expiries),
            func.sum(slots.c.epoch),
            func.min(slots.c.started_at),
        )
        .where(slots.c.study_id.in_(study_ids))
        .group_by(slots.c.study_id, slots.c.kind, slots.c.state, period, worker)
    )
    return [Tally(*row) for row in connection.execute(query).all()]


def running_slots(connection: Connection) -> Sequence[Row[Any]]:
    """The slots that run under a lease that holds: the study's and worker's names, and how far each is."""
    of_study = (studies.c.name.label("study"), studies.c.experiment, studies.c.model)
    of_slot = ("id", "worker", "kind", "idx", "trial_number", "label", "round", "epoch", "started_at", "study_id")
    query = (
        select(*of_study, *(slots.c[name] for name in of_slot))
        .join_from(slots, studies, studies.c.id == slots.c.study_id)
        .where(RUNNING, slots.c.lease_expires >= now())
    )
    rows = connection.execute(query).all()
    return sorted(rows, key=lambda row: row.id)  # not by the database: SQLite would read all slots in that order


def best_candidates(connection: Connection, signs: Mapping[int, int]) -> list[Candidate]:
    """Of each of these studies (id: 1 where more is better, else -1) the complete trials with the best value.

    Values are Optuna's, who has them in a column; of what it has not been told yet, and of those few that the second
    metric must decide between, the outcome is read.
    """
    better = case((slots.c.study_id.in_([id_ for id_, sign in signs.items() if sign > 0]), 1), else_=-1)
    place = func.rank().over(partition_by=slots.c.study_id, order_by=(better * _values.c.value).desc())
    placed = (
        select(slots.c.id, place.label("place"))
        .join_from(slots, _values, _values.c.trial_id == slots.c.trial_id)
        .where(_complete_search, slots.c.study_id.in_(signs))
        .subquery()
    )
    best = slots.c.id.in_(select(placed.c.id).where(placed.c.place == 1))
    columns = [slots.c[name] for name in ("study_id", "idx", "trial_number", "params", "outcome")]
    rows = connection.execute(select(*columns).where(best)).all()
    # A sum, not the column: SQLite would take the index of all the studies' slots for the one of those untold.
    untold = select(*columns).where(_complete_search, text(UNTOLD), (slots.c.study_id + 0).in_(signs))
    return [_candidate(row) for row in [*rows, *connection.execute(untold)]]


def test_means(connection: Connection, study_ids: Collection[int]) -> dict[int, dict[str, float]]:
    """Mean value of the final rounds of these studies by label, as Optuna has them."""
    query = (
        select(slots.c.study_id, slots.c.label, func.avg(_values.c.value).label("mean"))
        .join_from(slots, _values, _values.c.trial_id == slots.c.trial_id)
        .where(_is_final_and_done(), slots.c.study_id.in_(study_ids))
        .group_by(slots.c.study_id, slots.c.label)
    )
    means: dict[int, dict[str, float]] = {}
    for row in connection.execute(query):
        means.setdefault(row.study_id, {})[row.label or ""] = row.mean
    return means


def _is_final_and_done() -> ColumnElement[bool]:
    return (slots.c.kind == "final") & (slots.c.state == "done")


def _candidate(row: Row[Any]) -> Candidate:
    outcome = json.loads(row.outcome)
    return Candidate(
        study_id=row.study_id,
        idx=row.idx,
        number=row.trial_number,
        value=outcome["value"],
        loss=outcome.get("loss"),
        params=None if row.params is None else json.loads(row.params),
    )
