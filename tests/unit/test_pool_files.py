"""Pools as files: what comes back is what was written, of whatever type, and nothing is pickled."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]  # ships no types
import pytest

from hpo.errors import ExperimentError
from hpo.experiment import pool_files
from hpo.experiment.items import Items
from hpo.experiment.rows import RowPool, rows

N = 12
FRAME = pd.DataFrame(
    {
        "number": np.linspace(0, 1, N),
        "small": np.arange(N, dtype=np.int8),
        "flag": np.arange(N) % 2 == 0,
        "text": ["a", None, "c'\n"] * 4,
        "kind": pd.Categorical(["x", "y", None, "x"] * 3, categories=["y", "x", "z"], ordered=True),
        "day": pd.date_range("2020-01-01", periods=N),
        "maybe": pd.array([1, None, 3, 4] * 3, dtype="Int64"),
        "missing": [1.5, np.nan] * 6,
    }
)


@pytest.mark.parametrize(
    "x",
    [
        np.random.default_rng(0).normal(size=(N, 3, 2)).astype(np.float32),
        {
            "a": np.arange(N),
            "words": np.array(["x", "yy"] * 6),
            "mixed": np.array(["x", None, 1.5, True] * 3, dtype=object),
        },
        FRAME,
    ],
)
def test_a_pool_comes_back_as_it_was(x: Any, tmp_path: Path) -> None:
    pool = RowPool(items=Items(x, np.arange(N) % 3, unit=np.arange(N)), group=np.arange(N), official=np.arange(N) > 3)
    pool_files.save(pool, tmp_path / "a")
    again = pool_files.load(tmp_path / "a")
    if isinstance(x, pd.DataFrame):
        pd.testing.assert_frame_equal(again.items.x, x)
    else:
        np.testing.assert_equal(again.items.x, x)
        assert type(again.items.x) is type(x) or isinstance(again.items.x, np.memmap)
    for name in ("group", "time", "official", "stratum"):
        np.testing.assert_equal(getattr(again, name), getattr(pool, name))
    np.testing.assert_equal(again.items.y, pool.items.y)
    np.testing.assert_equal(again.items.unit, pool.items.unit)
    assert not list(tmp_path.rglob("*.pkl"))


def test_a_series_of_targets_comes_back(tmp_path: Path) -> None:
    """As `load_breast_cancer(as_frame=True)` gives them, with a shuffled index that means nothing."""
    y = pd.Series(["no", "yes"] * 6, index=np.random.default_rng(0).permutation(N))
    data = rows(lambda: (FRAME, y), test=0.4)
    split = data.split()
    pool_files.save(split.a, tmp_path / "a")
    assert list(pool_files.load(tmp_path / "a").items.y) == list(split.a.items.y)


def test_mapped_arrays_cannot_be_written_to(tmp_path: Path) -> None:
    """What one training changed would reach the next."""
    pool_files.save(RowPool(items=Items(np.zeros((N, 2)))), tmp_path / "a")
    with pytest.raises(ValueError, match="read-only"):
        pool_files.load(tmp_path / "a").items.x[0, 0] = 1


def test_values_without_a_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="a value of type PosixPath cannot be stored; take numbers, texts"):
        pool_files.save(RowPool(items=Items({"p": np.array([Path("x")] * N, dtype=object)})), tmp_path / "a")
