"""Columns: what was packed comes back, and nothing damaged or too large is taken for it."""

import json
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from hpo.storage import columns as module
from hpo.storage.columns import ColumnsRefused, has_columns, pack_columns, unpack_columns
from hpo.storage.outcome import UnreadableOutcome, pack_answers

SCORES = {
    "accuracy": np.array([1.0, 0.0, 1.0]),
    "perplexity": np.array([[3.5, 2.0], [1.0, 1.0], [np.nan, np.inf]]),
    "right": np.array([True, False, True]),
    "unit": np.array([[7, -8], [2**62, 0], [1, 1]]),
}


@given(
    n=st.integers(0, 20),
    kinds=st.lists(st.sampled_from([np.float64, np.float32, np.int64, np.bool_]), max_size=4),
    width=st.none() | st.integers(1, 3),
    data=st.data(),
)
def test_what_was_packed_comes_back(n: int, kinds: list[Any], width: int | None, data: st.DataObject) -> None:
    """Names in their order, types, shapes and every bit; equal columns are equal bytes."""
    shape = (n,) if width is None else (n, width)
    made = {f"c{i}": data.draw(arrays.arrays(kind, shape)) for i, kind in enumerate(kinds)}
    packed = pack_columns(made)
    read = unpack_columns(packed, "slot 1")
    assert list(read) == list(made)
    for name, array in made.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        assert read[name].tobytes() == array.tobytes()
    assert pack_columns(read) == packed
    assert has_columns(packed)


def test_small_whole_numbers_are_widened() -> None:
    """A user's units may be of any whole type."""
    read = unpack_columns(pack_columns({"unit": np.array([1, 2], dtype=np.int16)}), "slot 1")
    assert read["unit"].dtype == np.int64


def test_the_digits_answers_are_none() -> None:
    """The first format begins with a code below 200."""
    answers = pack_answers(np.ones(3), np.full((3, 2), 9))
    assert not has_columns(answers)
    with pytest.raises(UnreadableOutcome, match="slot 4: the scores of its test items are damaged"):
        unpack_columns(answers, "slot 4")


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"unit": np.array(["a", "b"])}, "column unit has the type <U1"),
        ({"a b": np.zeros(2)}, "column 'a b' is named twice, or by no identifier"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "column b has the shape"),
        ({"a": np.zeros((2, 2, 2))}, "column a has the shape"),
        ({"a": np.float64(1.0)}, "column a has the shape"),
        ({f"c{i}": np.zeros(1) for i in range(65)}, "there may be 64 columns at most"),
    ],
)
def test_what_cannot_be_stored_is_refused(columns: dict[str, Any], problem: str) -> None:
    """In one line, before it is written."""
    with pytest.raises(ColumnsRefused, match=problem):
        pack_columns(columns)


@pytest.mark.parametrize("place", range(0, len(pack_columns(SCORES)), 3))
def test_no_flipped_bit_changes_what_is_read(place: int) -> None:
    """The head has a checksum, zlib has its own; few bits of zlib's mean nothing."""
    packed = bytearray(pack_columns(SCORES))
    packed[place] ^= 0x10
    try:
        read = unpack_columns(bytes(packed), "slot 4")
    except UnreadableOutcome:
        return
    assert pack_columns(read) == pack_columns(SCORES)
    assert place > len(pack_columns({}))


@pytest.mark.parametrize("length", range(0, len(pack_columns(SCORES)), 7))
def test_what_is_cut_short_is_refused(length: int) -> None:
    """Wherever it was cut."""
    with pytest.raises(UnreadableOutcome, match="damaged"):
        unpack_columns(pack_columns(SCORES)[:length], "slot 4")


def test_what_goes_on_is_refused() -> None:
    """Bytes behind the end are not anybody's."""
    with pytest.raises(UnreadableOutcome, match="more or fewer"):
        unpack_columns(pack_columns(SCORES) + b"x", "slot 4")


def forged(described: Any, body: bytes) -> bytes:
    head = json.dumps(described).encode()
    return struct.pack("<8sII", module.MAGIC, len(head), zlib.crc32(head)) + head + zlib.compress(body)


@pytest.mark.parametrize(
    ("described", "problem"),
    [
        ([["a", "float64", [2**62]]], "more than"),
        ([["a", "float64", [2**40, 64]]], "more than"),
        ([["a", "float64", [-1]]], "shape"),
        ([["a", "float64", [True]]], "shape"),
        ([["a", "float64", []]], "shape"),
        ([["a", "object", [1]]], "type"),
        ([["a", ["float64"], [1]]], "type"),
        ([["a", "float64", [1]], ["a", "float64", [1]]], "named twice"),
        ([["a", "float64"]], "a name, a type and a shape"),
        ({"a": 1}, "columns at most"),
        ([["a", "float64", [3]]], "more or fewer"),
    ],
)
def test_a_forged_head_is_refused(described: Any, problem: str) -> None:
    """With a right checksum, and nothing allocated that it asks for."""
    with pytest.raises(UnreadableOutcome, match=problem):
        unpack_columns(forged(described, bytes(16)), "slot 4")


def test_a_bomb_is_not_unpacked() -> None:
    """A body that would be far larger than its head promises stops one byte after it."""
    import tracemalloc

    bomb = forged([["a", "float64", [2]]], bytes(200_000_000))
    tracemalloc.start()
    with pytest.raises(UnreadableOutcome, match="more or fewer"):
        unpack_columns(bomb, "slot 4")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10_000_000
