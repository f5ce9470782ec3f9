"""Dependence between hyperparameters: what is said of functions whose answer is known; no database."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor  # type: ignore[import-untyped]  # ships no types
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel  # type: ignore[import-untyped]

from hpo.analysis.dependence import interactions, surrogate
from hpo.analysis.dependence.encoding import Coordinate, Link, Sample, sample_of
from hpo.analysis.dependence.interactions import Answer, Dependence, answer_of, dependence_of, ped_anova
from hpo.analysis.dependence.one_at_a_time import CoordinateSearch, best_of_grid, coordinate_search
from hpo.analysis.search_history import SearchHistory, Trial, search_data
from hpo.experiment.page import PageFigure
from hpo.report.charts import dependence
from hpo.report.sections.dependence import dependence_parts, sentences
from hpo.results.records import StudyResult, TrainingRecord
from hpo.study.digits_spec import METRICS, constant_answer
from hpo.study.spec import HYPERPARAMETERS, ModelName, builtin_spec
from tests.support.results import random_trial, run, study


@pytest.fixture(autouse=True)
def _few_repeats(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same questions, asked less often: 99 leave three pairs a corrected p of 0.03."""
    for name, repeats in (("CV_REPEATS", 2), ("CHECK_REPEATS", 2), ("PED_PERMUTATIONS", 20), ("NULL_REPEATS", 99)):
        monkeypatch.setattr(interactions, name, repeats)


Law = Callable[[surrogate.Floats], surrogate.Floats]  # points (T, K) to log-odds (T,)


LOG_ODDS = Link(metric=METRICS[0], items=2000)


def cube(n: int, k: int, seed: int = 1) -> surrogate.Floats:
    return np.random.default_rng(seed).random((n, k))


def coordinates(k: int, paper: float = 0.25) -> tuple[Coordinate, ...]:
    return tuple(Coordinate(name=name, low=0.0, high=1.0, log=False, reference=paper) for name in "abcd"[:k])


def sample(law: Law, n: int = 29, k: int = 3, noise: float = 0.1, seed: int = 1) -> Sample:
    points = cube(n, k, seed)
    noisy = law(points) + noise * np.random.default_rng(seed + 1000).standard_normal(n)
    return Sample(coordinates=coordinates(k), points=points, values=noisy, link=LOG_ODDS)


def answer(law: Law, **how: float) -> Answer:
    actual = answer_of(sample(law, **how), {})  # type: ignore[arg-type]
    assert actual is not None
    return actual


# --- The surrogate against scikit-learn and brute force ---------------------------------------------------


def test_the_likelihood_is_scikit_learns() -> None:
    x, theta = cube(20, 3), np.log([1.3, 0.4, 0.9, 2.0, 0.2])
    z = np.sin(5 * x[:, 0]) + x[:, 1]
    kernel = ConstantKernel(1.3) * RBF([0.4, 0.9, 2.0]) + WhiteKernel(0.2)
    oracle = GaussianProcessRegressor(kernel, alpha=1e-8, optimizer=None).fit(x, z)
    value, slope = oracle.log_marginal_likelihood(theta, eval_gradient=True)
    gaps = ((x[:, None] - x[None]) ** 2).transpose(2, 0, 1)
    computed, computed_slope = surrogate.minus_log_likelihood(theta, gaps, z)
    assert computed == pytest.approx(-value, rel=1e-9)
    assert computed_slope == pytest.approx(-slope, rel=1e-6)


def test_the_mean_is_scikit_learns() -> None:
    x = cube(25, 2)
    fitted = surrogate.fit(x, 3 + np.sin(4 * x[:, 0]) * x[:, 1])
    mean, std = fitted.process.predict(cube(7, 2, seed=3), return_std=True)
    assert fitted.predict(cube(7, 2, seed=3)) == pytest.approx(fitted.mean + fitted.unit * mean)
    a, far = cube(1, 2, seed=3)[0], np.array([1e6, 1e6])  # far away nothing is known: the variances add up
    computed = fitted.unit * math.sqrt(std[0] ** 2 - fitted.noise + fitted.process.kernel_.k1.k1.constant_value)
    assert fitted.spread_of_difference(a, far) == pytest.approx(computed)
    assert fitted.spread_of_difference(a, a) == pytest.approx(0, abs=1e-6)


def test_the_parts_are_those_of_brute_force() -> None:
    """Partial dependences, H, Sobol shares and the best of the grid from all G^3 values of the surrogate."""
    x = cube(30, 3)
    fitted = surrogate.fit(x, np.sin(3 * x[:, 0]) + 2 * x[:, 1] * x[:, 2])
    parts = surrogate.take_apart(fitted)
    grid = parts.grids[0]
    g = len(grid)
    whole = fitted.predict(np.array(list(product(grid, repeat=3)))).reshape(g, g, g)
    assert parts.mean == pytest.approx(whole.mean())
    centred = whole - whole.mean()
    mains = [centred.mean(axis=tuple({0, 1, 2} - {j})) for j in range(3)]
    for j in range(3):
        assert parts.mains[j] == pytest.approx(mains[j], abs=1e-9)
        assert parts.main_shares[j] == pytest.approx((mains[j] ** 2).mean() / whole.var())
        assert parts.total_shares[j] == pytest.approx(1 - whole.mean(axis=j).var() / whole.var(), abs=1e-9)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        both = centred.mean(axis=({0, 1, 2} - {a, b}).pop())
        computed = both - mains[a][:, None] - mains[b][None, :]
        assert parts.h[a, b] == pytest.approx(math.sqrt((computed**2).sum() / (both**2).sum()))
        assert surrogate.joint_effect(fitted, a, b, grid, grid) == pytest.approx(both + whole.mean())
        at = [int(x[7, j] * g) for j in (a, b)]  # the cell that a trial lies in
        assert surrogate.pair_effect(fitted, a, b)[7] == pytest.approx(computed[at[0], at[1]], abs=0.03)
    best = grid[list(np.unravel_index(whole.argmax(), whole.shape))]
    assert best_of_grid(fitted, parts.grids) == pytest.approx(best)


def test_the_additive_fit_keeps_curves_and_no_product() -> None:
    x = cube(60, 2)
    curve = np.sin(3 * x[:, 0]) + x[:, 1] ** 2
    smooth, residuals = surrogate.additive_fit(x, curve)
    assert np.abs(smooth - curve).max() < 0.05
    bent = 4 * (x[:, 0] - 0.5) * (x[:, 1] - 0.5)
    smooth, residuals = surrogate.additive_fit(x, bent)
    assert residuals.std() > 0.7 * bent.std()


# --- What is declared -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_an_additive_function_has_no_interaction(seed: int) -> None:
    actual = answer(lambda x: np.sin(3 * x[:, 0]) - 3 * (x[:, 1] - 0.6) ** 2 + x[:, 2], seed=seed)
    assert actual.quality.good
    assert [pair for pair in actual.pairs if pair.clear] == []
    assert all(pair.h > 0 for pair in actual.pairs)  # never 0: without the null each would be one


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_product_is_found_and_nothing_else(seed: int) -> None:
    actual = answer(lambda x: 6 * (x[:, 0] - 0.5) * (x[:, 2] - 0.5) + x[:, 1], seed=seed)
    first, *others = actual.pairs
    assert (first.a, first.b, first.clear) == ("a", "c", True)
    assert first.h > 0.6
    assert not any(pair.clear for pair in others)
    assert actual.contour is not None
    assert (actual.contour.a, actual.contour.b) == ("a", "c")
    table = np.array(actual.contour.values)  # high where both are, and where neither is
    assert min(table[0, 0], table[-1, -1]) > max(table[0, -1], table[-1, 0])


def test_what_is_found_does_not_rub_off_on_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """d does nothing at all, yet beside an additive null alone a and d seem to interact."""
    monkeypatch.setattr(interactions, "NULL_REPEATS", 199)  # six pairs

    def clear() -> list[tuple[str, str]]:
        actual = answer(lambda x: 6 * (x[:, 0] - 0.5) * (x[:, 2] - 0.5) + x[:, 1], k=4)
        return [(pair.a, pair.b) for pair in actual.pairs if pair.clear]

    assert clear() == [("a", "c")]
    monkeypatch.setattr(interactions, "KNOWN_MOST", 0)
    assert ("a", "d") in clear()


def test_noise_gets_no_verdict() -> None:
    actual = answer(lambda x: 0 * x[:, 0], noise=1.0)
    assert not actual.quality.good
    assert (actual.coordinate_search, actual.contour) == (None, None)
    assert {(pair.p, pair.p_holm, pair.clear) for pair in actual.pairs} == {(None, None, False)}


def test_the_answer_is_the_same_again() -> None:
    def law(x: surrogate.Floats) -> surrogate.Floats:
        return np.asarray(x[:, 0] + x[:, 1])

    assert answer(law, n=20, k=2) == answer(law, n=20, k=2)


def test_too_few_or_equal_trials_give_no_answer() -> None:
    assert answer_of(sample(lambda x: x[:, 0], n=14), {}) is None
    assert answer_of(sample(lambda x: 0 * x[:, 0], noise=0.0), {}) is None


def test_ped_anova_finds_what_matters_and_tells_chance() -> None:
    x = cube(60, 3)
    actual, chance = ped_anova(["a", "b", "c"], x, -((x[:, 1] - 0.9) ** 2))
    assert sum(actual.values()) == pytest.approx(1)
    assert actual["b"] == max(actual.values())
    assert actual["b"] > chance["b"]
    assert actual["a"] < chance["a"]


# --- One at a time ----------------------------------------------------------------------------------------


def walked(law: Law, k: int = 2, paper: float = 0.25) -> CoordinateSearch:
    x = cube(80, k)
    sampled = Sample(coordinates=coordinates(k, paper), points=x, values=law(x), link=LOG_ODDS)
    return coordinate_search(surrogate.fit(x, law(x)), sampled)


def test_one_at_a_time_fails_on_a_rotated_ridge() -> None:
    """From the ridge's foot each single step is down, the summit lies along the diagonal."""
    actual = walked(lambda x: -60 * (x[:, 0] - x[:, 1]) ** 2 - 3 * (x[:, 0] + x[:, 1] - 1.7) ** 2 + 2)
    assert actual.lost_once > 0.1
    assert actual.lost_repeated < actual.lost_once
    assert actual.joint.params == pytest.approx({"a": 0.85, "b": 0.85}, abs=0.05)
    assert actual.reference.value <= actual.once.value <= actual.repeated.value <= actual.joint.value
    assert actual.passes > 2


def test_one_at_a_time_succeeds_on_a_separable_bowl() -> None:
    actual = walked(lambda x: 2 - 5 * (x[:, 0] - 0.7) ** 2 - 3 * (x[:, 1] - 0.4) ** 2 - (x[:, 2] - 0.5) ** 2, k=3)
    assert actual.lost_once < 1e-3
    assert actual.once.params == pytest.approx({"a": 0.7, "b": 0.4, "c": 0.5}, abs=0.05)
    assert actual.edges == ()


def test_a_paper_outside_the_range_is_moved_and_said() -> None:
    actual = walked(lambda x: x[:, 0] + x[:, 1], paper=1.5)
    assert actual.moved
    assert actual.reference.params == {"a": 1.0, "b": 1.0}
    assert actual.edges == ("a", "b")


# --- Trials -----------------------------------------------------------------------------------------------


def search_of(trials: list[dict[str, float]]) -> tuple[SearchHistory, list[Trial]]:
    names, spec = HYPERPARAMETERS["ws-aux"], builtin_spec("ws-aux")
    made = [random_trial(i, 0.7 + 0.01 * i, tuple(values[name] for name in names)) for i, values in enumerate(trials)]
    search = replace(search_data(study("ws-aux", [], spec)), trials=tuple(made))
    return search, made


def test_loss_weights_enter_as_ratios_alone() -> None:
    """A common factor on both weights and the decay is the same training, and the same point."""
    names, rng = HYPERPARAMETERS["ws-aux"], np.random.default_rng(0)
    trials = [{name: float(x) for name, x in zip(names, rng.random(5), strict=True)} for _ in range(6)]
    scaled = [
        {n: x * (10.0 ** (i - 3) if "weight" in n else 1.0) for n, x in one.items()} for i, one in enumerate(trials)
    ]
    paper = builtin_spec("ws-aux").paper
    (search, first), (_, second) = search_of(trials), search_of(scaled)
    a, b = (
        sample_of(first, search, paper, LOG_ODDS, ratios=True),
        sample_of(second, search, paper, LOG_ODDS, ratios=True),
    )
    assert a.points == pytest.approx(b.points)
    assert [c.name for c in a.coordinates] == ["learning_rate", "relative_decay", "dropout", "weight_ratio"]
    assert [c.reference for c in a.coordinates] == pytest.approx([3e-3, 2.5e-5 / 2.5, 0.15, 0.5])
    ratio = a.coordinates[3]
    assert ratio.from_unit(float(a.points[2, 3])) == pytest.approx(trials[2]["main_weight"] / trials[2]["aux_weight"])
    moved = [{**one, "main_weight": one["main_weight"] * (1 + i)} for i, one in enumerate(trials)]
    assert sample_of(search_of(moved)[1], search, paper, LOG_ODDS, ratios=True).points != pytest.approx(a.points)


def test_a_weight_of_zero_has_no_ratio() -> None:
    names = HYPERPARAMETERS["ws-aux"]
    trials = [dict.fromkeys(names, x) for x in (0.1, 0.2, 0.3)]
    trials[1]["aux_weight"] = 0.0
    search, made = search_of(trials)
    assert len(sample_of(made, search, builtin_spec("ws-aux").paper, LOG_ODDS, ratios=True).values) == 2


def searched(model: ModelName = "ws", random: int = 26) -> StudyResult:
    """A study whose accuracy falls with dropout and learning rate times decay; two diverged, three learned nothing."""
    rng, spec = np.random.default_rng(5), builtin_spec(model)
    runs: list[TrainingRecord] = [run("search", 0, params=dict(spec.paper), value=0.6)]
    for i in range(1, random + 11):
        computed, place = {}, {}
        for name in HYPERPARAMETERS[model]:
            bounds, place[name] = spec.space[name], float(rng.random())
            low, high = (math.log(x) if bounds.log else x for x in (bounds.low, bounds.high))
            x = low + place[name] * (high - low)
            computed[name] = math.exp(x) if bounds.log else x
        value = 0.9 - 0.1 * place["dropout"] - 0.05 * place["learning_rate"]
        state = "diverged" if i in (3, 4) else "pruned" if i > random + 8 else "complete"
        value = 0.5 if state == "diverged" else 0.55 if i in (5, 6, 7) else round(value, 4)
        late = i > random
        runs.append(run("search", i, params=computed, value=value, state=state, adaptive=late, finished_at=float(i)))
    return study(model, runs, spec=spec)


@cache
def usual() -> Dependence:
    return dependence_of(searched())


def test_only_random_trials_that_learned_are_fitted() -> None:
    actual = usual()
    assert actual.answer is not None
    counts = actual.counts
    assert (counts.random, counts.diverged, counts.blank, counts.learned) == (26, 2, 3, 21)
    assert actual.answer.quality.n == 21
    shown = [accuracy for _, accuracy in actual.answer.effects[0].trials]
    assert min(shown) > 0.7  # neither the paper's nor chance
    checks = {check.what: check.quality.n for check in actual.answer.sensitivity}
    assert checks == {"all complete trials": 1 + 21 + 8, "with those that learned nothing": 24}


def test_learning_nothing_is_what_one_answer_gives() -> None:
    assert 0.56 < constant_answer(2000) < 0.6
    assert constant_answer(200) > constant_answer(2000)


def test_the_sentences_say_what_was_found() -> None:
    good = usual()
    text = "\n".join(sentences(good))
    assert "ws: no dependence is shown" in text
    assert "finds the joint optimum" in text
    assert "2 of 26 random trials diverged and are left out." in text
    assert "3 of 26 random trials learned nothing" in text
    assert "redundant" not in text
    few = "\n".join(sentences(dependence_of(searched(random=12))))
    assert "ws: no answer, too few trials to fit a surrogate: 7 random trials learned something, 15 are needed." in few
    assert "common scale of the loss weights is redundant" in "\n".join(sentences(dependence_of(searched("ws-aux"))))


def test_charts_draw_every_part() -> None:
    actual = usual()
    assert actual.answer is not None
    assert actual.answer.contour is not None
    bars = dependence.importance_chart([actual, actual])
    assert sum(len(trace.x) for trace in bars.data if trace.type == "bar") == 2 * 3 * 3
    matrix = dependence.interactions_chart([actual])
    assert [row.count(None) for row in matrix.data[0].z] == [1, 1, 1]
    contours = dependence.contours_chart([actual])
    points = {trace.name: len(trace.x) for trace in contours.data if trace.type == "scatter"}
    assert points == {"random trials": 21, "the paper's values": 1, "one at a time, one pass": 1, "joint optimum": 1}
    names = [part.name for part in dependence_parts([actual]) if isinstance(part, PageFigure)]
    assert names == ["importance", "effects-0", "interactions", "contours"]
    assert list(dependence_parts([dependence_of(study("ws", []))])) == []
