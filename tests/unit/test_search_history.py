"""The search as it went: order, incumbent, and which trials are an unbiased sample."""

import math

import pytest

from hpo.analysis import search_history
from hpo.analysis.dependence.interactions import dependence_of
from hpo.study.spec import StudySpec, builtin_spec
from tests.support.results import run, searched, study


def test_search_data_is_in_the_order_of_finishing() -> None:
    search = search_history.search_data(searched())
    assert [trial.number for trial in search.trials] == [5, 4, 3, 2, 1, 0]
    assert [trial.order for trial in search.trials] == [1, 2, 3, 4, 5, 6]
    assert math.isnan(search.incumbent[0])  # a diverged trial is no incumbent
    assert search.incumbent[1:] == (0.9,) * 5
    assert [trial.random for trial in search.trials] == [False, False, False, True, True, False]
    assert search.trials[-1].reference


@pytest.mark.parametrize(("pruner", "sample"), [("median", (0.86, 0.87)), ("none", (0.86, 0.87, 0.91, 0.92))])
def test_trials_that_pruning_chose_are_no_sample(pruner: str, sample: tuple[float, ...]) -> None:
    """With the random sampler no trial is adaptive, but after the start-up ones only the best may end."""
    tree = builtin_spec("ws").model_dump()
    tree["sampler"].update(name="random", startup_trials=3)
    tree["pruner"]["name"] = pruner
    values = (0.8, 0.86, 0.87, 0.91, 0.92)
    result = study("ws", [run("search", i, value=v) for i, v in enumerate(values)], StudySpec.model_validate(tree))
    search = search_history.search_data(result)
    assert [trial.random for trial in search.trials] == [False, True, True, True, True]
    assert tuple(trial.value for trial in search.trials if trial.unbiased) == sample
    budget = search_history.budget_data(search)
    assert budget is not None
    assert len(budget.random) == len(sample)
    assert budget.random[-1] == pytest.approx(max(sample))
    assert dependence_of(result).counts.random == len(sample)
