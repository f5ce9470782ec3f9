"""Searching spaces of all kinds, in both directions, on both databases: what Optuna keeps is what the slot holds."""

import math
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import replace
from statistics import fmean
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState
from sqlalchemy import Engine

from hpo.errors import HpoError, SpecError
from hpo.experiment.spaces import Choice, Value
from hpo.storage import claims, slots, studies
from hpo.storage.optuna_storage import open_optuna
from hpo.storage.slots import Slot
from hpo.storage.studies import StudyRow
from hpo.study import operations
from hpo.study.cma_es import read_state
from hpo.study.operations import Planned
from hpo.study.projection import project
from hpo.study.requests import DescribedData
from hpo.study.search import Search, _adaptive_sampler, check_sampler, distributions, fixed_trial, template_of
from hpo.study.spec import StudySpec
from tests.support.described import ACCURACY, REFERENCE, RMSE, described, described_spec
from tests.support.outcomes import outcome

BEST: Mapping[str, float] = {"linear": 3.0, "rbf": 1.0, "poly": 2.0}  # of each kernel


def loss(params: Mapping[str, Value]) -> float:
    """A law with a best place, lower is better."""
    value = BEST[str(params["kernel"])] + 0.1 * abs(math.log10(float(params["C"])))
    return value + (0.1 * abs(math.log10(float(params["gamma"])) + 1) if "gamma" in params else 0.0)


def make(engine: Engine, spec: StudySpec) -> StudyRow:
    """As `hpo study create` makes it."""
    operations.create(engine, [Planned(spec=spec, data=DescribedData(described()))])
    return studies.get_study(engine, spec.name)


def take(engine: Engine, search: Search) -> tuple[Slot, dict[str, Value]]:
    """The next slot, bound to its trial, and what is to be trained."""
    (slot,) = claims.claim(engine, 1, worker="w", lease_seconds=600, model=search.row.model, study_ids=[search.row.id])
    bound = open_optuna(engine).bind_trial(slot.id, slot.token or "", template_of(search.spec, slot))
    slot = replace(slot, trial_id=bound.trial_id, trial_number=bound.number)
    params = search.ask(slot) if slot.kind == "search" else dict(slot.params or {})
    assert slots.record_params(engine, slot.id, slot.token or "", params)
    return slot, params


def end(engine: Engine, search: Search, slot: Slot, value: float, state: str = "complete", **more: Any) -> None:
    result = outcome(state, value, attempt=slot.attempt, **more)
    assert slots.finish(engine, slot.id, slot.token or "", result)
    project(engine, search)


def check_kinds(spec: StudySpec, params: Mapping[str, Value]) -> None:
    """A configuration inside the space, active parameters alone, each of its kind."""
    spec.parsed_space.check(params, "what was proposed")
    for name, value in params.items():
        parameter = spec.parsed_space.parameters[name]
        kinds = {type(v) for v in parameter.values} if isinstance(parameter, Choice) else {type(parameter.low)}
        assert type(value) in kinds, (name, value)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_conditional_space(engine: Engine, sampler: str) -> None:
    """Proposals are configurations; slots and Optuna's trials hold them unchanged; the first is the reference."""
    spec = described_spec("svm", sampler={"name": sampler}, budget={"trials": 24})
    row = make(engine, spec)
    search = Search(open_optuna(engine), row)
    proposed = []
    for _ in range(24):
        slot, params = take(engine, search)
        check_kinds(spec, params)
        assert Search(open_optuna(engine), row).ask(slot) == params, "asked again, as after a crash"
        end(engine, search, slot, loss(params))
        proposed.append(params)
    assert proposed[0] == {**REFERENCE, "C": 1.0}
    stored = slots.list_slots(engine, row.id, "search")
    trials = open_optuna(engine).get_all_trials(row.search_study_id)
    for params, slot, trial in zip(proposed, stored, trials, strict=True):
        for kept in (slot.params or {}, trial.params):
            assert {name: (type(v), v) for name, v in kept.items()} == {n: (type(v), v) for n, v in params.items()}
    assert {str(params["kernel"]) for params in proposed} == set(BEST)


def test_tpe_learns_to_minimise_a_conditional_space(sqlite_engine: Engine) -> None:
    """The adaptive trials are better than the random ones: Optuna knows the direction."""
    spec = described_spec("svm", budget={"trials": 60})
    search = Search(open_optuna(sqlite_engine), make(sqlite_engine, spec))
    values: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(60):
        slot, params = take(sqlite_engine, search)
        end(sqlite_engine, search, slot, loss(params))
        values[slot.adaptive].append(loss(params))
    assert (len(values[True]), len(values[False])) == (30, 30)
    assert sum(values[True]) / 30 < sum(values[False]) / 30 - 0.3


@pytest.mark.parametrize(
    ("metric", "direction"), [(RMSE, StudyDirection.MINIMIZE), (ACCURACY, StudyDirection.MAXIMIZE)]
)
def test_optunas_studies_have_the_metrics_direction(engine: Engine, metric: Any, direction: StudyDirection) -> None:
    row = make(engine, described_spec("flat", metrics=(metric,)))
    for study_id in (row.search_study_id, row.confirm_study_id, row.final_study_id):
        assert open_optuna(engine).get_study_directions(study_id) == [direction]


def test_a_diverged_training_is_told_as_its_metric_says(engine: Engine) -> None:
    spec = described_spec("flat")
    search = Search(open_optuna(engine), make(engine, spec))
    slot, _ = take(engine, search)
    end(engine, search, slot, RMSE.diverged, state="diverged")
    trial = open_optuna(engine).get_trial(slot.trial_id or 0)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 1e9)


def test_the_pruner_stops_what_is_worse_in_the_metrics_direction(sqlite_engine: Engine) -> None:
    """Median pruning, steps of folds: above the median of an error, not below it."""
    budget, protocol = {"trials": 12}, {"folds": 4}
    spec = described_spec("flat", budget=budget, protocol=protocol, pruner={"name": "median", "warmup": 0.5})
    search = Search(open_optuna(sqlite_engine), make(sqlite_engine, spec))
    for number in range(6):
        slot, _ = take(sqlite_engine, search)
        end(sqlite_engine, search, slot, 1.0 + number, epochs=4, validation_accuracy=[1.0 + number] * 4)
    worse, _ = take(sqlite_engine, search)
    better, _ = take(sqlite_engine, search)
    assert not search.to_prune([(worse, {1: 5.0})]), "half of the folds are a warm-up"
    assert search.to_prune([(worse, {1: 5.0, 2: 5.0}), (better, {1: 2.0, 2: 2.0})]) == [worse]


def test_gp_searches_choices_and_whole_numbers(sqlite_engine: Engine) -> None:
    space = {"gamma": 0.1, "degree": 3}
    reference = {name: value for name, value in REFERENCE.items() if name != "gamma"}
    spec = described_spec("svm", space=space, reference=reference, sampler={"name": "gp"}, budget={"trials": 6})
    search = Search(open_optuna(sqlite_engine), make(sqlite_engine, spec))
    for _ in range(6):
        slot, params = take(sqlite_engine, search)
        check_kinds(spec, params)
        end(sqlite_engine, search, slot, loss(params))


@pytest.mark.parametrize(
    ("model", "sampler", "told"),
    [
        ("svm", "gp", "it cannot search a space with conditions"),
        ("svm", "cmaes", "it cannot search a space with conditions"),
        ("flat", "tep", "there is none of this name; there are tpe, gp, cmaes, random, bruteforce"),
        ("flat", "grid", "it cannot search this space (GridSampler"),
        ("flat", "bruteforce", "it cannot search this space ("),
    ],
)
def test_a_sampler_that_cannot_serve_is_refused(model: str, sampler: str, told: str) -> None:
    """In one line, when the study is created."""
    spec = described_spec(model, sampler={"name": sampler})
    with pytest.raises(SpecError) as caught:
        check_sampler(spec)
    assert str(caught.value).startswith(f'study exp-{model}: sampler "{sampler}": {told}')
    assert "\n" not in str(caught.value)


def test_cmaes_cannot_search_choices() -> None:
    reference = {name: value for name, value in REFERENCE.items() if name != "gamma"}
    space = {"gamma": 0.1, "degree": 3}
    spec = described_spec("svm", space=space, reference=reference, sampler={"name": "cmaes"})
    with pytest.raises(SpecError, match="it cannot search a space with choices"):
        check_sampler(spec)


def test_cmaes_cannot_search_one_hyperparameter() -> None:
    spec = described_spec("flat", space={"depth": 3}, reference={"rate": 0.5}, sampler={"name": "cmaes"})
    with pytest.raises(SpecError, match="it cannot search one hyperparameter alone"):
        check_sampler(spec)


def test_cmaes_learns_and_believes_no_database(sqlite_engine: Engine) -> None:
    """Each ask goes on from the state that is stored; one that names anything else is refused."""
    spec = described_spec("flat", sampler={"name": "cmaes", "startup_trials": 4}, budget={"trials": 40})
    check_sampler(spec)
    search = Search(open_optuna(sqlite_engine), make(sqlite_engine, spec))
    values = []
    for _ in range(40):
        slot, params = take(sqlite_engine, search)
        check_kinds(spec, params)
        values.append(abs(math.log10(float(params["rate"])) + 1))
        end(sqlite_engine, search, slot, values[-1])
    assert fmean(values[-10:]) < 0.75 * fmean(values[:10])
    trials = open_optuna(sqlite_engine).get_all_trials(search.row.search_study_id)
    assert any(name.startswith("cma:optimizer") for trial in trials for name in trial.system_attrs)
    with pytest.raises(HpoError, match=r"CMA-ES in trial 3 cannot be read: it names builtins\.eval"):
        read_state(pickle.dumps(eval).hex(), 3)


@pytest.mark.parametrize("sampler", ["qmc", "nsgaii"])
def test_optunas_other_samplers_serve_by_name(sqlite_engine: Engine, sampler: str) -> None:
    spec = described_spec("flat", sampler={"name": sampler}, budget={"trials": 8})
    search = Search(open_optuna(sqlite_engine), make(sqlite_engine, spec))
    proposed = []
    for _ in range(8):
        slot, params = take(sqlite_engine, search)
        check_kinds(spec, params)
        end(sqlite_engine, search, slot, float(params["rate"]))
        proposed.append(tuple(params.values()))
    assert len(set(proposed)) == 8


def test_tpe_groups_where_there_are_conditions() -> None:
    """Parameters of one branch are modelled together."""
    for model, grouped in (("svm", True), ("flat", False)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna calls it experimental
            sampler = _adaptive_sampler(described_spec(model), 1)
        assert isinstance(sampler, optuna.samplers.TPESampler)
        assert sampler._group is grouped


def test_the_distributions_are_the_spaces() -> None:
    assert distributions(described_spec("svm")) == {
        "C": FloatDistribution(1e-3, 1e3, log=True),
        "kernel": CategoricalDistribution(("linear", "rbf", "poly")),
        "degree": IntDistribution(2, 5),
        "gamma": FloatDistribution(1e-4, 10, log=True),
        "shrinking": CategoricalDistribution((True, False)),
        "width": IntDistribution(8, 64, step=8),
        "folds": CategoricalDistribution((3, 5, 10)),
    }


@pytest.mark.parametrize(
    ("change", "beside"),
    [
        ({}, []),
        ({"C": 1e5, "width": 72}, []),  # beyond a range: widened
        ({"width": 5}, []),  # between its steps
        ({"C": 0.0}, ["C"]),  # a logarithm has no place for it
        ({"kernel": "sigmoid"}, ["kernel"]),  # another choice would be another space
        ({"width": 8.5}, ["width"]),
        ({"unknown": 1}, ["unknown"]),
    ],
)
def test_fixed_configurations_beyond_the_space_are_kept(change: dict[str, Value], beside: list[str]) -> None:
    """In the trial where its scales can hold them, else among its attributes."""
    params = {**REFERENCE, **change}
    trial = fixed_trial(described_spec("svm"), params, "colleague", 2)
    assert {**trial.params, **{name: trial.user_attrs[name] for name in beside}} == params
    assert [name for name in trial.user_attrs if name not in ("configuration", "round")] == beside


def test_a_study_with_nothing_to_search_tests_its_reference(engine: Engine) -> None:
    """Its final rounds are there from the start, and nothing else."""
    spec = described_spec("mean", protocol={"final_rounds": 3})
    row = make(engine, spec)
    assert row.phase == "final"
    search = Search(open_optuna(engine), row)
    for number in range(3):
        slot, params = take(engine, search)
        assert (slot.kind, slot.label, slot.round, params) == ("final", "reference", number, {})
        end(engine, search, slot, 1.0)
    row = studies.get_study(engine, row.name)
    assert (row.phase, row.tuned) == ("done", None)
    assert len(slots.list_slots(engine, row.id)) == 3
