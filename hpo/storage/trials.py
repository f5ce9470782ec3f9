"""Optuna's trials as a search looks at them, and all that is written of one at a time in one transaction.

Optuna builds each trial with its whole curve and everything that people wrote at it, object by object: 13 s for the
10,000 trials that a new worker has to know. Samplers look at states, parameters, values and their own attributes.
"""

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from optuna.distributions import BaseDistribution, distribution_to_json, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, Connection, Table, and_, func, or_, select, update

from hpo.storage.engine import MOST_LISTED, insert_if_absent, insert_or_replace, utc_now

_TRIALS: Table = models.TrialModel.__table__
_PARAMS: Table = models.TrialParamModel.__table__
_VALUES: Table = models.TrialValueModel.__table__
_CURVES: Table = models.TrialIntermediateValueModel.__table__
_USER_ATTRS: Table = models.TrialUserAttributeModel.__table__
_SYSTEM_ATTRS: Table = models.TrialSystemAttributeModel.__table__
_WHILE_RUNNING = ("tpe:relative_params", "gp:relative_params")  # begin what samplers read of running trials alone

_distribution = lru_cache(maxsize=1024)(json_to_distribution)


# --- Reading --------------------------------------------------------------------------------------------


def read_trials(
    connection: Connection, study_id: int, *, newer_than: int, beside: Collection[int] = ()
) -> list[FrozenTrial]:
    """Trials of Optuna's study by id: those with greater ids, and those `beside`.

    Without times, without what was written for people, and without curves but those of pruned trials. Raises KeyError
    where there is no such study.
    """
    columns = _TRIALS.c
    chosen = or_(columns.trial_id > newer_than, columns.trial_id.in_(list(beside)))
    query = select(columns.trial_id, columns.number, columns.state).where(columns.study_id == study_id, chosen)
    rows = connection.execute(query.order_by(columns.trial_id)).all()
    if not rows:
        _check_study(connection, study_id)
        return []
    ids = [row.trial_id for row in rows]
    finished = {row.trial_id for row in rows if row.state.is_finished()}
    values = _values(connection, study_id, ids)
    params, distributions = _params(connection, study_id, ids)
    system_attrs = _system_attrs(connection, study_id, ids, finished)
    curves: dict[int, dict[int, float]] = defaultdict(dict)
    for trial_id, epoch, value in read_curves(
        connection, study_id, [row.trial_id for row in rows if row.state == TrialState.PRUNED]
    ):
        curves[trial_id][epoch] = value
    return [
        FrozenTrial(
            number=row.number,
            state=row.state,
            value=None,
            values=[values[row.trial_id][place] for place in sorted(values[row.trial_id])] or None,
            datetime_start=None,
            datetime_complete=None,
            params=params[row.trial_id],
            distributions=distributions[row.trial_id],
            user_attrs={},
            system_attrs=system_attrs[row.trial_id],
            intermediate_values=curves[row.trial_id],
            trial_id=row.trial_id,
        )
        for row in rows
    ]


def read_curves(connection: Connection, study_id: int, trial_ids: Collection[int]) -> Iterator[tuple[int, int, float]]:
    """What these trials of Optuna's study have reported: trial, epoch, value; NaN and infinities too."""
    if not trial_ids:
        return
    columns, wanted = _CURVES.c, set(trial_ids)
    query = select(columns.trial_id, columns.step, columns.intermediate_value, columns.intermediate_value_type)
    value_of = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    finite = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
    for trial_id, epoch, stored, kind in connection.execute(query.where(_of(_CURVES, study_id, trial_ids))):
        if trial_id in wanted:
            yield trial_id, epoch, stored if kind is finite else value_of(stored, kind)


def _check_study(connection: Connection, study_id: int) -> None:
    column = models.StudyModel.__table__.c.study_id
    if connection.scalar(select(column).where(column == study_id)) is None:
        raise KeyError(models.NOT_FOUND_MSG)


def _of(table: Table, study_id: int, trial_ids: Collection[int]) -> ColumnElement[bool]:
    """The rows of these trials; where they are many, also of others of the study."""
    column = table.c.trial_id
    if len(trial_ids) <= MOST_LISTED:
        return column.in_(list(trial_ids))
    least = min(trial_ids)
    theirs = select(_TRIALS.c.trial_id).where(_TRIALS.c.study_id == study_id, _TRIALS.c.trial_id >= least)
    return and_(column.in_(theirs), column >= least)


def _values(connection: Connection, study_id: int, ids: Collection[int]) -> Mapping[int, dict[int, float]]:
    """By trial and objective."""
    columns = _VALUES.c
    query = select(columns.trial_id, columns.objective, columns.value, columns.value_type)
    there: dict[int, dict[int, float]] = defaultdict(dict)
    for trial_id, objective, stored, kind in connection.execute(query.where(_of(_VALUES, study_id, ids))):
        there[trial_id][objective] = models.TrialValueModel.stored_repr_to_value(stored, kind)
    return there


def _params(
    connection: Connection, study_id: int, ids: Collection[int]
) -> tuple[Mapping[int, dict[str, Any]], Mapping[int, dict[str, BaseDistribution]]]:
    """By trial and name, in the order in which they were suggested."""
    columns = _PARAMS.c
    query = select(columns.trial_id, columns.param_name, columns.param_value, columns.distribution_json)
    params: dict[int, dict[str, Any]] = defaultdict(dict)
    distributions: dict[int, dict[str, BaseDistribution]] = defaultdict(dict)
    rows = connection.execute(query.where(_of(_PARAMS, study_id, ids)).order_by(columns.param_id))
    for trial_id, name, stored, described in rows:
        distribution = _distribution(described)
        params[trial_id][name] = distribution.to_external_repr(stored)
        distributions[trial_id][name] = distribution
    return params, distributions


def _system_attrs(
    connection: Connection, study_id: int, ids: Collection[int], finished: Collection[int]
) -> Mapping[int, dict[str, Any]]:
    """By trial and key."""
    columns = _SYSTEM_ATTRS.c
    query = select(columns.trial_id, columns.key, columns.value_json)
    there: dict[int, dict[str, Any]] = defaultdict(dict)
    for trial_id, key, value in connection.execute(query.where(_of(_SYSTEM_ATTRS, study_id, ids))):
        if trial_id not in finished or not key.startswith(_WHILE_RUNNING):
            there[trial_id][key] = json.loads(value)
    return there


# --- Writing --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a sampler has written at a trial while it was asked."""

    params: dict[str, tuple[float, BaseDistribution]] = field(default_factory=dict)  # as Optuna stores them
    system_attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class TrialEnd:
    """How a trial has ended."""

    state: TrialState
    value: float | None = None  # None for a pruned one: its last reported value
    curve: Mapping[int, float] = field(default_factory=dict)  # by epoch; what was reported before stays
    user_attrs: Mapping[str, Any] = field(default_factory=dict)  # what people look for
    system_attrs: Mapping[str, Any] = field(default_factory=dict)


def write_proposal(connection: Connection, trial_id: int, proposal: Proposal) -> None:
    """Store what was proposed for a trial; parameters that it has already stay."""
    rows = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": stored,
            "distribution_json": distribution_to_json(distribution),
        }
        for name, (stored, distribution) in proposal.params.items()
    ]
    if rows:
        connection.execute(insert_if_absent(connection.dialect, _PARAMS), rows)
    _write_attrs(connection, _SYSTEM_ATTRS, trial_id, proposal.system_attrs)


def write_curves(connection: Connection, points: Collection[tuple[int, int, float]]) -> None:
    """Store reported values: trial, epoch, value. One that is there stays, and trials that are gone are left out."""
    if not points:
        return
    there = _existing(connection, {trial_id for trial_id, _, _ in points})
    rows = [_point(*point) for point in points if point[0] in there]
    if rows:
        connection.execute(insert_if_absent(connection.dialect, _CURVES), rows)


def end_trial(connection: Connection, trial_id: int, ending: TrialEnd) -> None:
    """Let a trial end; one that has ended stays as it is. Raises KeyError where it is gone."""
    columns = _TRIALS.c
    there = select(columns.state).where(columns.trial_id == trial_id).with_for_update()
    state = connection.scalar(there)
    if state is None:
        raise KeyError(models.NOT_FOUND_MSG)
    if state.is_finished():
        return
    write_curves(connection, [(trial_id, epoch, value) for epoch, value in ending.curve.items()])
    _write_attrs(connection, _USER_ATTRS, trial_id, ending.user_attrs)
    _write_attrs(connection, _SYSTEM_ATTRS, trial_id, ending.system_attrs)
    value = ending.value
    if value is None and ending.state == TrialState.PRUNED:
        value = _last_value(connection, trial_id)
    if value is not None:
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        row = {"trial_id": trial_id, "objective": 0, "value": stored, "value_type": kind}
        key, replaced = ("trial_id", "objective"), ("value", "value_type")
        connection.execute(insert_or_replace(connection.dialect, _VALUES, key, replaced), [row])
    now = utc_now(connection.dialect)
    connection.execute(
        update(_TRIALS)
        .where(columns.trial_id == trial_id)
        .values(
            state=ending.state,
            datetime_start=func.coalesce(columns.datetime_start, now),  # it may have failed before it ran
            datetime_complete=now,
        )
    )


def _last_value(connection: Connection, trial_id: int) -> float | None:
    """What a trial reported last, unless that is no number."""
    columns = _CURVES.c
    query = select(columns.intermediate_value, columns.intermediate_value_type).where(columns.trial_id == trial_id)
    last = connection.execute(query.order_by(columns.step.desc()).limit(1)).one_or_none()
    if last is None:
        return None
    value = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value(*last)
    return None if math.isnan(value) else value


def _write_attrs(connection: Connection, table: Table, trial_id: int, attrs: Mapping[str, Any]) -> None:
    rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attrs.items()]
    if rows:
        connection.execute(insert_or_replace(connection.dialect, table, ("trial_id", "key"), ("value_json",)), rows)


def _existing(connection: Connection, trial_ids: Collection[int]) -> set[int]:
    """Those of the trials that exist, and will until the transaction ends."""
    column = _TRIALS.c.trial_id
    query = select(column).where(column.in_(trial_ids)).order_by(column)
    return set(connection.scalars(query.with_for_update(key_share=True, read=True)))


def _point(trial_id: int, epoch: int, value: float) -> dict[str, Any]:
    stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
    return {"trial_id": trial_id, "step": epoch, "intermediate_value": stored, "intermediate_value_type": kind}
