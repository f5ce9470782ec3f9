"""Splits of rows: the pools never meet, more rows move none, and draws are what they promise."""

from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # ships no types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo.errors import ExperimentError
from hpo.experiment.items import Draw, Items
from hpo.experiment.rows import Rows, row_hashes, rows

N = 400


def table(n: int = N, seed: int = 0) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """Features with groups, times and an official mask beside them, and a class with unequal shares."""
    rng = np.random.default_rng(seed)
    x = {
        "a": rng.normal(size=n),
        "b": rng.integers(0, 5, n),
        "patient": rng.integers(0, n // 8, n),
        "day": np.arange(n),
        "is_test": np.arange(n) % 5 == 0,
    }
    return x, rng.choice(["common", "rare"], n, p=[0.8, 0.2])


def data_of(x: Any, y: Any, **how: Any) -> Rows:
    return rows(lambda: (x, y), **{"test": 0.3, **how})


def contents(items: Items) -> set[Any]:
    return set(row_hashes(items.x, items.y).tolist())


def test_pools_are_disjoint_and_about_as_large_as_asked() -> None:
    split = data_of(*table()).split()
    assert contents(split.a.items).isdisjoint(contents(split.b.items))
    assert len(split.a.items) + len(split.b.items) == N
    assert 0.2 < len(split.b.items) / N < 0.4
    assert split.remarks == ()


@pytest.mark.parametrize("group", ["", "patient"])
def test_more_rows_in_another_order_move_none(group: str) -> None:
    """What was in A stays there when the data set grows, whoever sorts it."""
    x, y = table()
    order = np.random.default_rng(1).permutation(N)
    shuffled = {name: values[order] for name, values in x.items()}
    few = data_of({name: values[:100] for name, values in shuffled.items()}, y[order][:100], group=group).split()
    all_of_them = data_of(x, y, group=group).split()
    assert contents(few.a.items) <= contents(all_of_them.a.items)
    assert contents(few.b.items) <= contents(all_of_them.b.items)
    assert data_of(shuffled, y[order], group=group).split().digest == all_of_them.digest != few.digest


def test_arrays_mappings_and_frames_are_split_alike() -> None:
    """The content decides, not how it is held; what comes back is of the kind that was given."""
    x, y = table()
    mapping = {"a": x["a"], "b": x["b"]}
    frame = pd.DataFrame(mapping)
    of_mapping, of_frame = data_of(mapping, y).split(), data_of(frame, y).split()
    assert of_mapping.digest == of_frame.digest
    assert isinstance(of_frame.a.items.x, pd.DataFrame)
    assert list(of_frame.a.items.x.dtypes) == list(frame.dtypes)
    of_array = data_of(np.stack([x["a"], x["b"]], 1), y).split()
    assert len(of_array.a.items) == len(of_array.a.items.x)
    mixed = pd.DataFrame({"text": ["x", None, "y"] * 40, "when": pd.date_range("2020", periods=120), "n": range(120)})
    mixed["kind"] = mixed["text"].astype("category")
    back = data_of(mixed, np.arange(120) % 2).split().b.items.x
    pd.testing.assert_series_equal(back.dtypes, mixed.dtypes)


def test_equal_rows_share_a_pool() -> None:
    """Copies of a row, with other types even, would let a test be learnt by heart."""
    x, y = table(100)
    doubled = {name: np.concatenate([values, values]) for name, values in x.items()}
    split = data_of({**doubled, "b": doubled["b"].astype(np.int8)}, np.concatenate([y, y])).split()
    assert contents(split.a.items).isdisjoint(contents(split.b.items))
    assert contents(split.a.items) == contents(data_of(x, y).split().a.items)


def test_groups_are_never_parted() -> None:
    """Neither between the pools nor between training and validation; they are what items are sampled from."""
    x, y = table()
    data = data_of(x, y, group="patient")
    split = data.split()
    assert "patient" not in split.a.items.x
    assert split.a.items.unit is not None
    assert split.b.items.unit is not None
    assert set(split.a.items.unit).isdisjoint(split.b.items.unit)
    training, validation = data.draw(split.a, Draw(seed=3))
    assert training.unit is not None
    assert validation.unit is not None
    assert set(training.unit).isdisjoint(validation.unit)
    assert len(training) + len(validation) == len(split.a.items)


def test_time_goes_forward_with_a_gap() -> None:
    """What is trained on ends before what validates begins, and that, with a gap, before the test."""
    x, y = table()
    data = data_of(x, y, time="day", gap=20)
    split = data.split()
    a, b = split.a.time, split.b.time
    assert a is not None
    assert b is not None
    assert len(b) == round(0.3 * N)
    assert b.min() - a.max() == 21
    assert split.remarks == ("20 rows within the gap are in neither pool",)
    training, validation = data.draw(split.a, Draw(seed=1))
    assert training.x["a"].tolist() == x["a"][: len(training)].tolist()
    assert validation.x["a"].tolist() == x["a"][len(training) : len(training) + len(validation)].tolist()


def test_an_official_mask_is_followed() -> None:
    """Whatever the hashes say; a row that stands in both pools is told."""
    x, y = table()
    split = data_of(x, y, test="is_test").split()
    assert len(split.b.items) == N // 5
    twice = {name: np.concatenate([values, values[:1]]) for name, values in x.items()}
    twice["is_test"] = np.concatenate([x["is_test"], ~x["is_test"][:1]])
    split = data_of(twice, np.concatenate([y, y[:1]]), test="is_test").split()
    assert split.remarks == ("1 different rows stand in both pools",)


def test_an_official_validation_is_the_same_in_every_draw() -> None:
    x, y = table()
    x["held"] = np.arange(N) % 3 == 0
    data = data_of(x, y, validation="held")
    split = data.split()
    first, second = (data.draw(split.a, Draw(seed=seed)) for seed in (1, 2))
    assert contents(first[1]) == contents(second[1])


@settings(max_examples=20)
@given(st.integers(0, 2**63 - 1), st.integers(2, 6), st.sampled_from(["", "patient"]))
def test_folds_are_a_partition(seed: int, folds: int, group: str) -> None:
    """Each row of A validates in exactly one fold."""
    x, y = table(120)
    data = data_of(x, y, group=group)
    pool = data.split().a
    parts = [data.draw(pool, Draw(seed=seed, fold=fold, folds=folds)) for fold in range(folds)]
    assert sorted(value for _, held in parts for value in held.x["a"]) == sorted(pool.items.x["a"])
    assert all(len(training) + len(held) == len(pool.items) for training, held in parts)


@settings(max_examples=20)
@given(st.integers(0, 2**63 - 1))
def test_draws_keep_the_shares_of_classes(seed: int) -> None:
    """To one row a class; another seed draws others, the same one the same."""
    data = data_of(*table())
    pool = data.split().a
    training, validation = data.draw(pool, Draw(seed=seed))
    for name in ("common", "rare"):
        assert abs((validation.y == name).sum() - 0.25 * (pool.items.y == name).sum()) <= 1
    again, other = data.draw(pool, Draw(seed=seed)), data.draw(pool, Draw(seed=seed ^ 1))
    assert contents(again[1]) == contents(validation) != contents(other[1])
    assert contents(training).isdisjoint(contents(validation))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"test": 1.5}, "rows: test must be a share between 0 and 1, or a column's name, not 1.5"),
        ({"test": "fold"}, "rows: there is no column 'fold'; there are a, b, patient, day, is_test"),
        ({"test": "b"}, "rows: column 'b' is no mask: it must be True or False in each row"),
        ({"group": "patients"}, "rows: there is no column 'patients'; there are a, b, patient, day, is_test"),
    ],
)
def test_a_wrong_split_is_one_line(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError) as error:
        data_of(*table(), **how).split()
    assert str(error.value) == message


def test_a_mask_that_parts_groups_is_refused() -> None:
    x, y = table()
    with pytest.raises(ExperimentError, match="groups of 'patient' stand in both pools, for example 1; the mask must"):
        data_of(x, y, test="is_test", group="patient").split()


def test_targets_of_another_length_are_refused() -> None:
    x, y = table()
    with pytest.raises(ExperimentError, match="rows: 399 targets for 400 rows"):
        data_of(x, y[:-1]).split()
    with pytest.raises(ExperimentError, match="equally long arrays"):
        data_of({**x, "a": x["a"][:-1]}, y).split()
