"""Search spaces: what they hold, which parameters are active, and what is said about a wrong one."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.errors import ExperimentError
from hpo.experiment.spaces import Choice, Float, Hyperparameter, Int, Space, Value

SVM = Space.of(
    {
        "degree": Int(2, 5, when={"kernel": "poly"}),  # before its parent, as a user may write it
        "C": Float(1e-3, 1e3, log=True),
        "kernel": Choice("linear", "rbf", "poly"),
        "gamma": Float(1e-4, 10.0, log=True, when={"kernel": ("rbf", "poly")}),
        "shrinking": True,
    }
)


def test_parents_come_first_and_constants_apart() -> None:
    assert list(SVM.parameters) == ["C", "kernel", "degree", "gamma"]
    assert SVM.constants == {"shrinking": True}
    assert SVM.complete({"C": 1.0, "kernel": "linear"}) == {"C": 1.0, "kernel": "linear", "shrinking": True}


@pytest.mark.parametrize(
    ("values", "active"),
    [
        ({"kernel": "linear"}, ["C", "kernel"]),
        ({"kernel": "rbf"}, ["C", "kernel", "gamma"]),
        ({"kernel": "poly"}, ["C", "kernel", "degree", "gamma"]),
    ],
)
def test_only_parameters_whose_conditions_hold_are_active(values: dict[str, Value], active: list[str]) -> None:
    assert SVM.active(values) == active


def test_a_grandchild_needs_its_parent_to_be_active() -> None:
    """Two conditions both hold, and a stale value of an inactive parent wakes nobody."""
    space = Space.of(
        {
            "optimizer": Choice("adam", "sgd"),
            "momentum": Choice("none", "classic", "nesterov", when={"optimizer": "sgd"}),
            "beta": Float(0.5, 0.99, when={"momentum": ("classic", "nesterov"), "optimizer": "sgd"}),
        }
    )
    assert space.active({"optimizer": "sgd", "momentum": "classic"}) == ["optimizer", "momentum", "beta"]
    assert space.active({"optimizer": "sgd", "momentum": "none"}) == ["optimizer", "momentum"]
    assert space.active({"optimizer": "adam", "momentum": "classic"}) == ["optimizer"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"C": 1.0, "kernel": "rbf"}, "reference: gamma is missing (0.0001 to 10 (log))"),
        ({"C": 1e4, "kernel": "linear"}, "reference: C = 10000.0 is outside its space (0.001 to 1000 (log))"),
        ({"C": 1.0, "kernel": "sigmoid"}, "reference: kernel = 'sigmoid' is outside its space (linear | rbf | poly)"),
        (
            {"C": 1.0, "kernel": "linear", "gamma": 1.0},
            "reference: gamma is inactive there (active where kernel is 'rbf' or 'poly')",
        ),
        (
            {"C": 1.0, "kernel": "poly", "gamma": 1.0, "degree": 2.0},
            "reference: degree = 2.0 is outside its space (2 to 5)",
        ),
        (
            {"C": 1.0, "kernel": "linear", "c": 1},
            "reference: c is no hyperparameter of this model; there are C, kernel, degree, gamma",
        ),
        ({"C": True, "kernel": "linear"}, "reference: C = True is outside its space (0.001 to 1000 (log))"),
        ({"C": float("nan"), "kernel": "linear"}, "reference: C = nan is outside its space (0.001 to 1000 (log))"),
    ],
)
def test_a_configuration_outside_the_space_is_named(values: dict[str, Value], message: str) -> None:
    with pytest.raises(ExperimentError) as error:
        SVM.check(values, "reference")
    assert str(error.value) == message


def entries(make: Any) -> Space:
    return Space.of(make())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: {"a": Float(1, 1)}, "Float: low must be below high, but low is 1 and high is 1"),
        (lambda: {"a": Float(0, 1, log=True)}, "Float: a logarithmic range needs low above 0, but low is 0"),
        (lambda: {"a": Float(0, float("inf"))}, "Float: high must be a finite number, not inf"),
        (
            lambda: {"a": Int(1, 2.5)},  # type: ignore[arg-type]
            "Int: high must be a whole number, not 2.5",
        ),
        (lambda: {"a": Int(1, 10, step=2)}, "Int: step 2 does not lead from 1 to 10"),
        (lambda: {"a": Int(1, 10, step=3, log=True)}, "Int: a logarithmic range has no step; leave out step or log"),
        (lambda: {"a": Choice("x")}, "Choice needs two values or more; a constant is written without Choice"),
        (lambda: {"a": Choice(1, True)}, "Choice: two of its values are equal: 1, True"),
        (
            lambda: {"a": Choice("x", None)},  # type: ignore[arg-type]
            "Choice: None is neither a text, a finite number, True nor False",
        ),
        (lambda: {"a": None}, "space: a: None is neither a text, a finite number, True nor False"),
        (lambda: {"a b": 1}, "space: 'a b' cannot be a hyperparameter's name; take a Python identifier"),
        (lambda: {"a": Float(0, 1, when={"b": 1})}, "space: a depends on b, which is not there"),
        (lambda: {"a": Float(0, 1, when={"b": 1}), "b": Int(0, 1)}, "space: a depends on b, which is no Choice"),
        (
            lambda: {"a": Float(0, 1, when={"b": "z"}), "b": Choice("x", "y")},
            "space: a depends on b = 'z', which is none of its values (x | y)",
        ),
        (
            lambda: {"a": Choice(1, 2, when={"b": 1}), "b": Choice(1, 2, when={"a": 1})},
            "space: a, b depend on each other in a circle",
        ),
    ],
)
def test_a_wrong_space_is_one_line(make: Any, message: str) -> None:
    with pytest.raises(ExperimentError) as error:
        entries(make)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"a": {"low": 1}}, "space: a: high is missing; Float has high, log, low, when"),
        (
            {"a": {"low": 1, "high": 2, "steps": 3}},
            "space: a: steps is no key of a range; Float has high, log, low, when",
        ),
        ({"a": {"values": ["x"]}}, "space: a: Choice needs two values or more; a constant is written without Choice"),
        (
            {"a": {"low": 2, "high": 1, "int": True}},
            "space: a: Int: low must be below high, but low is 2 and high is 1",
        ),
    ],
)
def test_a_wrong_plain_space_names_the_entry(plain: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError) as error:
        Space.from_plain(plain)
    assert str(error.value) == message


scalars = st.one_of(st.integers(-5, 5), st.floats(-5, 5), st.text(max_size=3))
floats = st.builds(
    lambda low, width, log: Float(low, low + width, log=log), st.floats(0.01, 10), st.floats(0.5, 10), st.booleans()
)
ints = st.builds(lambda low, n, step: Int(low, low + n * step, step=step), *[st.integers(1, 9)] * 3)
choices = st.lists(scalars, min_size=2, max_size=4, unique=True).map(lambda values: Choice(*values))


@given(
    st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), st.one_of(floats, ints, choices, scalars)), st.data()
)
def test_a_space_survives_json(entries: dict[str, Hyperparameter | Value], data: st.DataObject) -> None:
    """With conditions on what choices there are, and whatever values they have."""
    parents = {name: entry for name, entry in entries.items() if isinstance(entry, Choice)}
    if parents:
        parent = data.draw(st.sampled_from(sorted(parents)))
        allowed = tuple(data.draw(st.lists(st.sampled_from(parents[parent].values), min_size=1, unique=True)))
        entries = {**entries, "child": Int(1, 3, when={parent: allowed})} if parent != "child" else entries
    space = Space.of(entries)
    assert Space.from_plain(json.loads(json.dumps(space.to_plain()))) == space
