"""Searches of whole numbers, choices and conditions, as Optuna samples them: what a report makes of them."""

import math

import optuna
import pytest

from hpo.analysis.dependence import interactions
from hpo.analysis.dependence.interactions import dependence_of
from hpo.analysis.search_history import search_data
from hpo.analysis.tuning import tuning_of
from hpo.experiment.spaces import Choice, Int, Value
from hpo.report.charts.search import parallel_chart, slices_chart
from hpo.report.csv_tables import tables_of
from hpo.report.sections.dependence import dependence_parts, sentences
from hpo.results.records import StudyResult
from tests.support.described import RMSE, described_spec
from tests.support.measured import contents, trained
from tests.support.results import study

TRIALS = 40


@pytest.fixture(autouse=True)
def _few_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, repeats in (("CV_REPEATS", 2), ("CHECK_REPEATS", 2), ("PED_PERMUTATIONS", 10), ("NULL_REPEATS", 49)):
        monkeypatch.setattr(interactions, name, repeats)


def law(params: dict[str, Value]) -> float:
    """An error that depends on C and on the kernel, not on how the two go together."""
    return 3 + 0.4 * abs(math.log10(float(params["C"]))) + 2.0 * (params["kernel"] == "poly")


def suggested(trial: optuna.Trial, result: StudyResult | None = None) -> dict[str, Value]:
    """The active values of one trial, asked for as any user of Optuna would."""
    params: dict[str, Value] = {}
    for name, parameter in described_spec("svm").parsed_space.parameters.items():
        wanted = {parent: v if isinstance(v, tuple) else (v,) for parent, v in parameter.when.items()}
        if any(params.get(parent) not in values for parent, values in wanted.items()):
            continue
        if isinstance(parameter, Choice):
            chosen = trial.suggest_categorical(name, parameter.values)
            assert chosen is not None
            params[name] = chosen
        elif isinstance(parameter, Int):
            step = 1 if parameter.log else parameter.step
            params[name] = trial.suggest_int(name, parameter.low, parameter.high, log=parameter.log, step=step)
        else:
            params[name] = trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)
    return params


@pytest.fixture(scope="module")
def searched() -> StudyResult:
    """The results of a random search by Optuna over a conditional space, minimised."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.RandomSampler(seed=1)
    plain = optuna.create_study(sampler=sampler, direction="minimize")
    plain.optimize(lambda trial: law(suggested(trial)), n_trials=TRIALS)
    spec = described_spec("svm", metrics=(RMSE,), budget={"trials": TRIALS + 1}, sampler={"startup_trials": TRIALS + 1})
    runs = [trained("search", 0, (RMSE,), law(dict(spec.reference)), params=dict(spec.reference))]
    runs += [
        trained("search", t.number + 1, (RMSE,), float(t.value or 0.0), params=dict(t.params)) for t in plain.trials
    ]
    best = plain.best_trial
    tuned = {"params": dict(best.params), "source": best.number + 1, "confirm_mean": None}
    return study("svm", runs, spec=spec, tuned=tuned)


def test_an_inactive_hyperparameter_is_a_blank(searched: StudyResult) -> None:
    """In records, tables, CSV files and figures: neither a zero nor a default."""
    history = search_data(searched)
    gamma, kernel = history.names.index("gamma"), history.names.index("kernel")
    blank = [trial for trial in history.trials if trial.params[kernel] == "linear"]
    assert blank
    assert all(trial.params[gamma] is None for trial in blank)
    rows = tables_of(contents([searched]))["trials"]
    assert all((row["gamma"] is None) == (row["kernel"] == "linear") for row in rows)
    assert {type(row["degree"]) for row in rows} == {int, type(None)}
    (degree,) = (p for p in tuning_of(searched).parameters if p.name == "degree")
    assert (degree.reference, degree.range) == (None, "2 to 5")
    texts = [a["text"] for a in parallel_chart(history).to_plotly_json()["layout"]["annotations"]]
    assert texts.count("inactive") == 2  # gamma and degree
    slices = slices_chart(history).to_plotly_json()
    axis = f"x{gamma + 1}" if gamma else "x"
    points = sum(len(trace["x"]) for trace in slices["data"] if trace.get("xaxis", "x") == axis)
    assert points == sum(trial.params[gamma] is not None for trial in history.trials)


def test_the_best_of_a_minimised_search_is_optunas(searched: StudyResult) -> None:
    assert searched.best is not None
    assert searched.best.value == min(trial.value for trial in search_data(searched).trials)


def test_dependence_takes_choices_and_names_what_depends_by_definition(searched: StudyResult) -> None:
    dependence = dependence_of(searched)
    assert dict(dependence.conditional) == {
        "gamma": ("kernel",),
        "degree": ("kernel",),
    }
    assert "gamma" not in dependence.fitted
    assert {"C", "kernel", "width", "shrinking", "folds"} == set(dependence.fitted)
    answer = dependence.answer
    assert answer is not None
    assert answer.quality.good
    strongest = max(answer.importances, key=lambda importance: importance.main)
    assert strongest.name == "kernel"
    assert answer.coordinate_search is not None
    joint = answer.coordinate_search.joint.params
    assert joint["kernel"] in ("linear", "rbf")  # the error is minimised
    assert isinstance(joint["width"], int)
    lines = sentences(dependence)
    assert any("depend on kernel by definition" in line for line in lines)
    assert all(str(part) for part in dependence_parts([dependence]))
