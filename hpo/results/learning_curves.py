"""Learning curves as they grow: what a study's running trainings, and its best trial, have reported so far."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna.storages._rdb import models
from sqlalchemy import Engine, Row, select

from hpo.storage.engine import begin_read
from hpo.storage.schema import slots
from hpo.storage.slots import Kind

_VALUES = models.TrialIntermediateValueModel.__table__


@dataclass(frozen=True, kw_only=True, slots=True)
class LearningCurve:
    """The reported values of one training."""

    kind: Kind
    number: int  # Optuna's number of the trial
    is_running: bool
    steps: tuple[int, ...]  # epochs, from 1, or what the method counts; ascending
    values: tuple[float, ...]  # of the study's first metric; those that are finite


def learning_curves(engine: Engine, study_id: int, best: int | None) -> list[LearningCurve]:
    """The curves of a study's running trainings, and of the search's trial number `best`; those with values alone."""
    chosen = (slots.c.study_id == study_id) & (slots.c.state == "running")
    if best is not None:
        chosen |= (slots.c.study_id == study_id) & (slots.c.kind == "search") & (slots.c.trial_number == best)
    query = (
        select(slots.c.kind, slots.c.trial_number, slots.c.state, _VALUES.c.step, _VALUES.c.intermediate_value)
        .join(_VALUES, _VALUES.c.trial_id == slots.c.trial_id)
        .where(chosen, _VALUES.c.intermediate_value_type == "FINITE")
        .order_by(slots.c.kind, slots.c.trial_number, _VALUES.c.step)
    )
    with begin_read(engine) as connection:
        rows = connection.execute(query).all()
    by_training: dict[tuple[Any, ...], list[Row[*tuple[Any, ...]]]] = {}
    for row in rows:
        by_training.setdefault((row.kind, row.trial_number, row.state), []).append(row)
    return [_curve(key, points) for key, points in by_training.items()]


def _curve(key: tuple[Any, ...], points: Sequence[Row[*tuple[Any, ...]]]) -> LearningCurve:
    kind, number, state = key
    return LearningCurve(
        kind=kind,
        number=number,
        is_running=state == "running",
        steps=tuple(point.step for point in points),
        values=tuple(point.intermediate_value for point in points),
    )
