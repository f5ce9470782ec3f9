"""Splits of rows: the pools never meet, more rows move none, and draws are what they promise."""

import datetime
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # ships no types
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA  # type: ignore[import-untyped]  # ships no types
from sklearn.preprocessing import MinMaxScaler, StandardScaler  # type: ignore[import-untyped]  # ships no types

from hpo.errors import ExperimentError
from hpo.experiment.items import Draw, Items
from hpo.experiment.rows import SAME_VALIDATION, Rows, rows
from hpo.experiment.tables import row_hashes

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
    """What is trained on ends, with a gap, before what validates begins, and that, with a gap, before the test."""
    x, y = table()
    data = data_of(x, y, time="day", gap=20)
    split = data.split()
    a, b = split.a.time, split.b.time
    assert a is not None
    assert b is not None
    assert len(b) == round(0.3 * N)
    assert b.min() - a.max() == 21
    assert split.remarks == ("20 rows within the gap are in neither pool", SAME_VALIDATION)
    training, validation = data.draw(split.a, Draw(seed=1))
    assert len(validation) == 65  # a quarter of 260
    assert training.x["a"].tolist() == x["a"][: len(training)].tolist()
    assert validation.x["a"].tolist() == x["a"][len(training) + 20 : len(training) + 20 + len(validation)].tolist()


@pytest.mark.parametrize(
    ("days", "gap"),
    [
        (np.arange("2020-01-01", "2021-02-04", dtype="datetime64[D]"), 20),
        (np.arange("2020-01-01", "2021-02-04", dtype="datetime64[D]").astype("datetime64[ns]"), 20),
        (np.arange("2020-01-01", "2021-02-04", dtype="datetime64[D]").astype(str), 20),
        (np.arange("2020-01-01", "2021-02-04", dtype="datetime64[D]").astype(str), datetime.timedelta(days=20)),
        (pd.Series(pd.date_range("2020-01-01", periods=N)), np.timedelta64(20, "D")),
    ],
)
def test_dates_are_times_and_gaps_days(days: Any, gap: Any) -> None:
    """Whatever holds them: the split is that of day numbers."""
    x, y = table()
    numbers = data_of(x, y, time="day", gap=20).split()
    dates = data_of({**x, "day": days}, y, time="day", gap=gap).split()
    assert contents(dates.a.items) == contents(numbers.a.items)
    assert contents(dates.b.items) == contents(numbers.b.items)


def test_equal_times_are_not_parted() -> None:
    """Rows of a day would else stand on both sides of the split."""
    x, y = table()
    x["day"] = np.arange(N) // 50
    data = data_of(x, y, time="day", group="patient")
    split = data.split()
    assert split.a.time is not None
    assert split.b.time is not None
    assert set(split.a.time).isdisjoint(split.b.time)
    assert split.a.items.unit is not None, "groups are what intervals sample, on both sides of the split"
    training, validation = data.draw(split.a, Draw(seed=1))
    assert len(training) + len(validation) == len(split.a.items)
    assert len(training) % 50 == 0


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
    assert contents(first[0]) == contents(split.a.items) - contents(first[1]), "all other rows train"
    assert split.remarks == (SAME_VALIDATION,)
    with pytest.raises(
        ExperimentError, match="there are no folds where a column says which rows validate; set folds = 1"
    ):
        data.draw(split.a, Draw(seed=1, fold=0, folds=5))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(2, 6), st.sampled_from(["", "patient"]))
def test_folds_are_a_partition(seed: int, folds: int, group: str) -> None:
    """Each row of A validates in exactly one fold."""
    x, y = table(120)
    data = data_of(x, y, group=group)
    pool = data.split().a
    parts = [data.draw(pool, Draw(seed=seed, fold=fold, folds=folds)) for fold in range(folds)]
    assert sorted(value for _, held in parts for value in held.x["a"]) == sorted(pool.items.x["a"])
    assert all(len(training) + len(held) == len(pool.items) for training, held in parts)


@settings(max_examples=20, deadline=None)
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
        ({"gap": 3}, "rows: a gap needs time=COLUMN"),
        ({"gap": "3d", "time": "day"}, "rows: gap must be a number or a timedelta, not '3d'"),
        (
            {"gap": datetime.timedelta(days=3), "time": "day"},
            "rows: column 'day' has numbers, so the gap must be one too, not datetime.timedelta(days=3)",
        ),
        ({"validation": 0}, "rows: validation must be a share between 0 and 1, or a column's name, not 0"),
        ({"target": "day", "time": "day"}, "rows: the target 'day' cannot be what the rows are split by"),
        (
            {"validation": "is_test", "test": "is_test"},
            "rows: column 'is_test' holds for 0 of the 320 rows of pool A; some must validate, and some must train",
        ),
        ({"test": 1e-12}, "rows: pool B is empty (0 of 400 rows are for the test)"),
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


def test_a_validation_mask_that_parts_groups_is_refused() -> None:
    x, y = table()
    x["held"] = np.arange(N) % 3 == 0
    with pytest.raises(ExperimentError, match="groups of 'patient' stand in training and validation, for example"):
        data_of(x, y, validation="held", group="patient").split()


def test_what_cannot_be_split_by_is_refused() -> None:
    """Missing values, and texts that are no times; the first row that is wrong is named."""
    x, y = table()
    missing = {**x, "patient": np.where(np.arange(N) == 7, np.nan, x["patient"].astype(float))}
    with pytest.raises(ExperimentError, match="rows: 'patient' is missing in 1 rows, the first is row 8"):
        data_of(missing, y, group="patient").split()
    with pytest.raises(ExperimentError, match=r"column 'when' has no times: numbers or dates like .* not 'soon'"):
        data_of({**x, "when": np.array(["soon"] * N)}, y, time="when").split()
    with pytest.raises(ExperimentError, match="load must give \\(x, y\\), not a dict; or name a target=COLUMN"):
        rows(lambda: x, test=0.3).split()
    with pytest.raises(ExperimentError, match="without day x has no column left"):
        rows(lambda: {"a": x["a"], "day": x["day"]}, target="a", time="day", test=0.3).split()
    with pytest.raises(ExperimentError, match=r"rows: load must be a function or a CSV file's name, not \[1\]"):
        rows([1], test=0.3)  # type: ignore[arg-type]  # what is tested


def test_a_target_may_be_a_column() -> None:
    x, y = table()
    of_pair, of_column = data_of(x, y).split(), rows(lambda: {**x, "y": y}, target="y", test=0.3).split()
    assert of_pair.digest == of_column.digest
    assert "y" not in of_column.a.items.x


def test_a_class_that_cannot_be_trained_is_refused() -> None:
    """A text names a class; a number that few rows have may be a quantity, and is told."""
    x, y = table()
    only_in_b = np.where(x["is_test"] & (np.arange(N) < 10), "odd", y)
    with pytest.raises(ExperimentError, match="rows: no row of pool A has the class 'odd', which the test has; leave"):
        data_of(x, only_in_b, test="is_test").split()
    assert data_of(x, np.where(only_in_b == "odd", 2, 1), test="is_test").split().remarks[0] == (
        "no row of pool A has the class 2, which the test has"
    )
    only_in_a = np.where(~x["is_test"] & (np.arange(N) < 10), "odd", y)
    assert data_of(x, only_in_a, test="is_test").split().remarks == (
        "no row of pool B has the class 'odd': it is not tested",
    )


def test_more_folds_than_groups_are_refused() -> None:
    x, y = table(80)
    data = data_of(x, y, group="patient")
    with pytest.raises(ExperimentError, match=r"rows: 50 folds of \d groups; set fewer"):
        data.draw(data.split().a, Draw(seed=1, folds=50))


# --- What is suspect ------------------------------------------------------------------------------------------


def suspected(x: Any, y: Any) -> list[str]:
    return [remark for remark in data_of(x, y).split().remarks if "pool" not in remark]


def test_a_target_among_the_inputs_is_told() -> None:
    """Under another name, as a number for each class, or up to a scale; what merely helps is not told."""
    x, y = table()
    sizes = np.random.default_rng(2).normal(size=N)
    inputs = {"a": x["a"], "b": x["b"]}
    for leak, target in (((y == "rare").astype(int), y), (y, y), (3 * sizes + 1, sizes)):
        (remark,) = suspected({**inputs, "leak": leak}, target)
        assert remark == "column leak among the inputs tells the target exactly: is it the target itself?"
    assert suspected(np.stack([x["a"], sizes], 1), sizes)[0].startswith("column 1 of x among the inputs tells")
    assert suspected({**inputs, "helps": sizes + 0.01 * x["a"]}, sizes) == []
    assert suspected({**inputs, "number": np.arange(N)}, y) == []


def test_columns_that_were_scaled_before_the_split_are_told() -> None:
    """Standardised, whitened, or ranged over all rows; fitted to A alone is right and not told."""
    x = np.random.default_rng(3).gamma(2.0, size=(N, 3)).astype(np.float32)
    y = np.arange(N) % 2
    assert suspected(x, y) == []
    for scaler in (StandardScaler(), PCA(2)):
        (remark,) = suspected(scaler.fit_transform(x), y)
        assert "has mean 0 over all rows: what centred it has seen the test; fit it to the training items" in remark
    (remark,) = suspected(MinMaxScaler().fit_transform(x.astype(np.float64)), y)
    assert remark.startswith("every column ends at 0 and 1: what scaled them has seen the test")
    assert suspected(StandardScaler().fit(x[:200]).transform(x), y) == []


# --- CSV files ------------------------------------------------------------------------------------------------

CSV = "a,kind,y\n" + "".join(f"{i / 7},{'pq'[i % 2]},{i % 3}\n" for i in range(60))


def test_a_csv_file_is_found_beside_the_file_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the process runs."""
    (tmp_path / "data.csv").write_text(CSV)
    (tmp_path / "data.tsv").write_text(CSV.replace(",", "\t"))
    monkeypatch.chdir("/")
    scope: dict[str, Any] = {"__file__": str(tmp_path / "mine.py")}
    exec("import hpo\ndata = hpo.rows('data.csv', target='y', test=0.3)", scope)
    exec("import hpo\nother = hpo.rows('data.tsv', target='y', test=0.3)", scope)
    split = scope["data"].split()
    assert scope["data"].files == (tmp_path / "data.csv",)
    assert list(split.a.items.x.columns) == ["a", "kind"]
    assert set(split.a.items.y) == {0, 1, 2}
    assert scope["other"].split().digest == split.digest


@pytest.mark.parametrize(
    ("content", "target", "message"),
    [
        (None, "y", "rows: there is no file {file}"),
        ("", "y", "rows: {file} cannot be read: No columns to parse from file"),
        ("a,y\n", "y", "rows: {file} has no rows"),
        (CSV, "z", "rows: there is no column 'z'; there are a, kind, y"),
        (CSV, "", "rows: say which column of data.csv is the target: target=COLUMN"),
        (CSV.replace(",1\n", ",\n", 2), "y", "rows: 'y' is missing in 2 rows, the first is row 2"),
    ],
)
def test_a_wrong_csv_file_is_one_line(tmp_path: Path, content: str | None, target: str, message: str) -> None:
    file = tmp_path / "data.csv"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ExperimentError) as error:
        rows(file, target=target, test=0.3).split()
    assert str(error.value) == message.format(file=file)


def test_without_pandas_a_csv_file_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # is as if it were not installed
    (tmp_path / "data.csv").write_text(CSV)
    with pytest.raises(
        ExperimentError, match=r"reading data\.csv needs pandas: `pip install pandas`, or give rows a func"
    ):
        rows(tmp_path / "data.csv", target="y", test=0.3).split()


def test_targets_of_another_length_are_refused() -> None:
    x, y = table()
    with pytest.raises(ExperimentError, match="rows: 399 targets for 400 rows"):
        data_of(x, y[:-1]).split()
    with pytest.raises(ExperimentError, match="equally long arrays"):
        data_of({**x, "a": x["a"][:-1]}, y).split()
