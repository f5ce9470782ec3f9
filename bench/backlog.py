"""Databases with much behind them: finished slots and finished trials, put there in bulk."""

import json
from typing import Any

import numpy as np
from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import Connection, Engine, bindparam, insert, select, text, update

from bench.databases import run_apart
from bench.outcomes import outcome
from hpo.storage.engine import begin_read, begin_write, now
from hpo.storage.schema import slots
from hpo.storage.studies import StudyRow
from hpo.study.search import distributions
from hpo.study.spec import StudySpec

OUTCOME_LENGTH = 1000  # characters of JSON; 930 to 1,020 in the study of bench/records
PRUNED_FROM = 30  # trials before this one are never pruned, of those after it every third is
_STARTED = 1.7e9  # seconds since 1970

# Row n of so many belongs to study n modulo their number; half are trials, a quarter each are confirm and final rounds.
_NUMBERS = "WITH RECURSIVE n(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM n WHERE n + 1 < :count) "
_FINISHED = text(
    "INSERT INTO hpo_slots (study_id, model, kind, idx, adaptive, seed, priority, state, result, trial_id,"
    " trial_number, attempt, expiries, failures, epoch, lease_epoch, worker, token, outcome, told,"
    " started_at, finished_at) "
    + _NUMBERS
    + "SELECT s.id, s.model, CASE n.n / :studies % 4 WHEN 1 THEN 'confirm' WHEN 3 THEN 'final' ELSE 'search' END,"
    " n.n / :studies, n.n / :studies % 2 = 0, 4611686018427387904 + n.n,"
    " CASE n.n / :studies % 4 WHEN 1 THEN 1 WHEN 3 THEN 0 ELSE 2 END, 'done', 'complete', n.n + 1, n.n / :studies,"
    " 1, 0, 0, 40, 0, 'bench', '0123456789abcdef0123456789abcdef', :outcome, true, 1.7e9, 1.7e9 + n.n"
    " FROM n JOIN hpo_studies s ON s.id = :first + n.n % :studies"
)
_WAITING = text(
    "INSERT INTO hpo_slots (study_id, model, kind, idx, adaptive, seed, priority, state,"
    " attempt, expiries, failures, epoch, lease_epoch, told) "
    + _NUMBERS
    + "SELECT s.id, s.model, CAST(:kind AS varchar(8)), 1000000 + n.n / :studies, CAST(:adaptive AS boolean),"
    " 4611686018427387904 + n.n, CAST(:priority AS integer), 'waiting', 0, 0, 0, 0, 0, false"
    " FROM n JOIN hpo_studies s ON s.id = :first + n.n % :studies"
)


def finish_slots(engine: Engine, count: int, studies: int) -> None:
    """Add so many done and told slots, spread over the first so many studies; PostgreSQL then knows its tables."""
    missing = OUTCOME_LENGTH - len(outcome(worker="").to_json())
    padded = outcome(worker="x" * missing).to_json()
    with begin_write(engine) as connection:
        _untimed(connection)
        connection.execute(_FINISHED, {"count": count, "studies": studies, "first": 1, "outcome": padded})
    tidy(engine)


def wait_slots(engine: Engine, count: int, studies: int, *, adaptive: bool) -> None:
    """So many waiting slots, of the first so many studies, and no other open or newly finished ones.

    Adaptive ones are search trials, the others rounds of confirm.
    """
    kind, priority = ("search", 2) if adaptive else ("confirm", 1)
    given = {"count": count, "studies": studies, "first": 1, "adaptive": adaptive, "kind": kind, "priority": priority}
    with begin_write(engine) as connection:
        _untimed(connection)
        connection.execute(text("DELETE FROM hpo_slots WHERE idx >= 1000000"))
        connection.execute(_WAITING, given)
    tidy(engine)


def tidy(engine: Engine) -> None:
    """What PostgreSQL's autovacuum does to the slots sooner or later, done now; SQLite has nothing of the kind."""
    if engine.dialect.name == "postgresql":
        run_apart(engine.url.render_as_string(hide_password=False), "VACUUM ANALYZE hpo_slots")


def _untimed(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SET LOCAL statement_timeout = 0"))


def finish_trials(engine: Engine, row: StudyRow, last: int) -> None:
    """End the study's waiting search slots below index `last` with trials as the search would have left them.

    Values follow a smooth function of the parameters, epochs rise towards them.
    """
    spec = StudySpec.from_canonical(row.spec)
    waiting = select(slots.c.id, slots.c.idx).where(
        slots.c.study_id == row.id, slots.c.kind == "search", slots.c.state == "waiting", slots.c.idx < last
    )
    with begin_read(engine) as connection:
        open_slots = connection.execute(waiting.order_by(slots.c.idx)).all()
    rng = np.random.default_rng(row.seed)
    for start in range(0, len(open_slots), 1000):
        with begin_write(engine) as connection:
            _finish_some(connection, row, spec, open_slots[start : start + 1000], rng)
    if engine.dialect.name == "postgresql":
        run_apart(engine.url.render_as_string(hide_password=False), "VACUUM ANALYZE")


def _finish_some(connection: Connection, row: StudyRow, spec: StudySpec, some: Any, rng: np.random.Generator) -> None:
    tables = models.BaseModel.metadata.tables
    trials = tables["trials"]
    drawn = [_trial(spec, slot.idx, rng) for slot in some]
    new = [
        {"number": s.idx, "study_id": row.search_study_id, "state": _state(trial), **_times(s.idx)}
        for s, trial in zip(some, drawn, strict=True)
    ]
    inserted = insert(trials).returning(trials.c.trial_id, sort_by_parameter_order=True)
    ids = list(connection.scalars(inserted, new))
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _PARTS}
    for trial_id, trial in zip(ids, drawn, strict=True):
        for name in _PARTS:
            rows[name] += [{"trial_id": trial_id, **part} for part in trial[name]]
    for name in _PARTS:
        connection.execute(insert(tables[name]), rows[name])
    ended = update(slots).where(slots.c.id == bindparam("slot"))
    ended = ended.values(
        state="done",
        result=bindparam("how"),
        attempt=1,
        epoch=bindparam("last_epoch"),
        trial_id=bindparam("trial"),
        trial_number=bindparam("number"),
        params=bindparam("values"),
        outcome=bindparam("whole"),
        told=True,
        started_at=now(),
        finished_at=now(),
    )
    connection.execute(
        ended,
        [
            {
                "slot": s.id,
                "how": trial["how"],
                "last_epoch": len(trial["trial_intermediate_values"]),
                "trial": trial_id,
                "number": s.idx,
                "values": json.dumps(trial["params"], sort_keys=True),
                "whole": trial["outcome"],
            }
            for s, trial, trial_id in zip(some, drawn, ids, strict=True)
        ],
    )


_PARTS = (
    "trial_values",
    "trial_params",
    "trial_intermediate_values",
    "trial_user_attributes",
    "trial_system_attributes",
)


def _state(trial: dict[str, Any]) -> TrialState:
    return TrialState.PRUNED if trial["how"] == "pruned" else TrialState.COMPLETE


def _times(index: int) -> dict[str, Any]:
    start = np.datetime64(int(_STARTED) + index, "s").item()
    return {"datetime_start": start, "datetime_complete": start}


def _trial(spec: StudySpec, index: int, rng: np.random.Generator) -> dict[str, Any]:
    """The rows of one finished trial, by table, and what its slot says."""
    space = distributions(spec)
    shares = rng.random(len(space))
    params = {}
    for name, share in zip(space, shares, strict=True):
        bounds = spec.space[name]
        low, high = (np.log(bounds.low), np.log(bounds.high)) if bounds.log else (bounds.low, bounds.high)
        value = low + share * (high - low)
        params[name] = float(np.clip(np.exp(value) if bounds.log else value, bounds.low, bounds.high))
    how = "pruned" if index >= PRUNED_FROM and index % 3 == 0 else "complete"
    epochs = spec.budget.epochs // 2 if how == "pruned" else spec.budget.epochs
    final = 0.88 - 0.2 * float(np.mean((shares - 0.4) ** 2)) + 0.01 * rng.standard_normal()
    curve = [final - 0.3 * 0.8**epoch for epoch in range(1, epochs + 1)]
    ended = outcome(curve, state=how, seeds={"draw": 1, "slot": 2**62 + index}, spec_digest=spec.digest)
    fields = ended.model_dump(mode="json")
    numbers = ("state", "loss", "train_accuracy", "epochs", "seconds", "attempt", "worker", "device")
    record = ("seeds", "versions", "git_commit", "spec_digest", "data_digest")
    told = {
        "result": {name: fields[name] for name in numbers},
        "train_accuracy": ended.train_accuracy,
        "loss_curve": fields["train_loss"],
        "record": {name: fields[name] for name in record},
    }
    return {
        "how": how,
        "params": params,
        "outcome": ended.to_json(),
        "trial_values": [{"objective": 0, "value": curve[-1], "value_type": "FINITE"}],
        "trial_params": [
            {
                "param_name": name,
                "param_value": space[name].to_internal_repr(value),
                "distribution_json": distribution_to_json(space[name]),
            }
            for name, value in params.items()
        ],
        "trial_intermediate_values": [
            {"step": step, "intermediate_value": value, "intermediate_value_type": "FINITE"}
            for step, value in enumerate(curve, start=1)
        ],
        "trial_user_attributes": [{"key": key, "value_json": json.dumps(value)} for key, value in told.items()],
        "trial_system_attributes": [{"key": "constraints:diverged", "value_json": "0.0"}],
    }
