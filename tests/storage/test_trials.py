"""Trials read for samplers and trials ended in one are those of Optuna's own reading and telling; both databases."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Engine

from hpo.storage.engine import begin_read, begin_write
from hpo.storage.optuna_storage import make_storage, open_lean, open_optuna
from hpo.storage.trials import TrialEnd, end_trial, read_curves, read_trials, write_curves

SPACE: dict[str, BaseDistribution] = {
    "rate": FloatDistribution(1e-4, 1e-1, log=True),
    "depth": IntDistribution(1, 9),
    "kind": CategoricalDistribution(["a", None, 3]),
}
MANY = 620  # more than a statement lists


def trials_of(number: int) -> FrozenTrial:
    """Every state, with values, curves and notes of every kind."""
    state = list(TrialState)[number % len(TrialState)]
    value = {0: math.inf, 1: -math.inf}.get(number % 97, number / 7)
    params = {"rate": 1e-4 + number / 1e5, "depth": 1 + number % 9, "kind": ["a", None, 3][number % 3]}
    known = {name: params[name] for name in list(SPACE)[: number % 4]}
    return create_trial(
        state=state,
        value=value if state == TrialState.COMPLETE or (state == TrialState.PRUNED and number % 2) else None,
        params=known,
        distributions={name: SPACE[name] for name in known},
        intermediate_values={1: 0.5, 2: math.nan if number % 5 == 0 else 0.25, 3: math.inf if number % 7 == 0 else 1.0},
        user_attrs={"loss_curve": [1.0] * 40},
        system_attrs={"tpe:relative_params:0": "{}", "completed_rung_0": number, "constraints:diverged": 0.0},
    )


def as_samplers_look(trial: FrozenTrial) -> tuple[Any, ...]:
    """What they see of it, NaN made comparable."""
    curve = {step: str(value) for step, value in trial.intermediate_values.items()}
    notes = {key: value for key, value in trial.system_attrs.items() if not key.startswith("tpe:")}
    return (
        trial._trial_id,
        trial.number,
        trial.state,
        trial.values,
        list(trial.params.items()),
        trial.distributions,
        curve if trial.state == TrialState.PRUNED else {},
        notes if trial.state.is_finished() else trial.system_attrs,
    )


@pytest.fixture
def filled(engine: Engine) -> optuna.Study:
    """Another study's trials before and between."""
    study, other = (optuna.create_study(study_name=name, storage=make_storage(engine)) for name in ("a", "b"))
    for number in range(40):
        study.add_trial(trials_of(number))
        if number % 10 == 0:
            other.add_trial(trials_of(number))
    return study


def test_trials_are_those_that_optuna_reads(engine: Engine, filled: optuna.Study) -> None:
    """All of them, those after one, those named beside; through the cache as well."""
    full = make_storage(engine).get_all_trials(filled._study_id)
    with begin_read(engine) as connection:
        lean = read_trials(connection, filled._study_id, newer_than=-1)
        some = read_trials(connection, filled._study_id, newer_than=full[30]._trial_id, beside={full[3]._trial_id})
    assert [as_samplers_look(trial) for trial in lean] == [as_samplers_look(trial) for trial in full]
    assert [trial.number for trial in some] == [3, *range(31, 40)]
    assert all(trial.user_attrs == {} and trial.datetime_start is None for trial in lean)
    cached = open_lean(engine).get_all_trials(filled._study_id)
    assert [as_samplers_look(trial) for trial in cached] == [as_samplers_look(trial) for trial in full]


def test_more_trials_than_a_statement_lists(sqlite_engine: Engine) -> None:
    storage = make_storage(sqlite_engine)
    study = optuna.create_study(study_name="many", storage=storage)
    optuna.create_study(study_name="other", storage=storage).add_trials([trials_of(number) for number in range(9)])
    study.add_trials([trials_of(number) for number in range(MANY)])
    full = storage.get_all_trials(study._study_id)
    complete = [trial._trial_id for trial in full if trial.state == TrialState.COMPLETE]
    with begin_read(sqlite_engine) as connection:
        lean = read_trials(connection, study._study_id, newer_than=-1)
        some = list(read_curves(connection, study._study_id, complete))
        every = list(read_curves(connection, study._study_id, [trial._trial_id for trial in full]))
    assert [as_samplers_look(trial) for trial in lean] == [as_samplers_look(trial) for trial in full]
    assert {trial_id for trial_id, _, _ in some} == set(complete)
    assert len(every) == 3 * MANY


def test_the_cache_learns_what_changed(engine: Engine, filled: optuna.Study) -> None:
    """A trial that ends after it was read is read again; finished ones are not."""
    lean, full = open_lean(engine), make_storage(engine)
    lean.get_all_trials(filled._study_id)
    running = next(trial for trial in filled.trials if trial.state == TrialState.RUNNING)
    with begin_write(engine) as connection:
        end_trial(connection, running._trial_id, TrialEnd(state=TrialState.COMPLETE, value=0.5))
    new = filled.ask()
    there = {trial.number: trial for trial in lean.get_all_trials(filled._study_id)}
    assert (there[running.number].state, there[running.number].value) == (TrialState.COMPLETE, 0.5)
    assert as_samplers_look(there[new.number]) == as_samplers_look(full.get_trial(new._trial_id))


def test_a_study_that_is_gone_is_missed(engine: Engine) -> None:
    """As Optuna misses it: a study without trials is none."""
    study = optuna.create_study(study_name="empty", storage=make_storage(engine))
    with begin_read(engine) as connection:
        assert read_trials(connection, study._study_id, newer_than=-1) == []
        with pytest.raises(KeyError):
            read_trials(connection, 999, newer_than=-1)
    with begin_write(engine) as connection, pytest.raises(KeyError):
        end_trial(connection, 999, TrialEnd(state=TrialState.FAIL))


@pytest.mark.parametrize("state", [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
@pytest.mark.parametrize("last", [0.25, math.nan, math.inf])
def test_a_trial_ends_as_optuna_tells_it(engine: Engine, state: TrialState, last: float) -> None:
    """The same curve, value and attributes, set one by one and told by Optuna."""
    curve: Mapping[int, float] = {1: 0.5, 2: last}
    value = 0.75 if state == TrialState.COMPLETE else None
    study = optuna.create_study(study_name="told", storage=make_storage(engine))
    theirs, ours = study.ask(), study.ask()
    for trial in (theirs, ours):
        trial.report(0.5, 1)
    theirs.report(last, 2)
    theirs.set_user_attr("result", {"loss": 0.25})
    theirs.storage.set_trial_system_attr(theirs._trial_id, "constraints:diverged", 0.0)
    study.tell(theirs, value, state=state)
    ending = TrialEnd(
        state=state,
        value=value,
        curve={**curve, 1: 0.9},  # what was reported stays
        user_attrs={"result": {"loss": 0.25}},
        system_attrs={"constraints:diverged": 0.0},
    )
    for repeated in (ending, replace(ending, state=TrialState.FAIL, user_attrs={"error": "late"})):
        with begin_write(engine) as connection:
            end_trial(connection, ours._trial_id, repeated)
    expected, actual = (open_optuna(engine).get_trial(asked._trial_id) for asked in (theirs, ours))
    assert actual.datetime_start is not None
    assert actual.datetime_complete is not None
    assert [str(trial.intermediate_values.pop(2)) for trial in (expected, actual)] == [str(last)] * 2
    assert (actual.state, actual.values, actual.intermediate_values) == (
        expected.state,
        expected.values,
        expected.intermediate_values,
    )
    assert (actual.user_attrs, actual.system_attrs) == (expected.user_attrs, expected.system_attrs)


def test_values_of_trials_that_are_gone_are_left_out(engine: Engine, filled: optuna.Study) -> None:
    running = next(trial for trial in filled.trials if trial.state == TrialState.RUNNING)
    with begin_write(engine) as connection:
        write_curves(connection, [(running._trial_id, 9, 0.1), (12345, 9, 0.2)])
    assert make_storage(engine).get_trial(running._trial_id).intermediate_values[9] == 0.1
