"""Checkpoints on disk: whole or absent, this database's, and fit for the training that goes on from them."""

import json
import os
import shutil
import threading
import time
import tracemalloc
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpo.worker.arrays import array_chunks
from hpo.worker.checkpoints import SHARE, Checkpointer
from hpo.worker.manifests import MOST_BYTES, SignedFolders
from hpo.worker.signing import Damaged, Signer
from hpo.worker.stores import CHUNK, Folder
from tests.support.checkpoints import (
    EXPECTED,
    ON_DISK,
    SIGNER,
    checkpoint,
    files_in,
    kept_in,
    manifest_in,
    same,
)

NAME = SIGNER.name("training")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- Whole or absent ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("validated", [True, False])
def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path, validated: bool) -> None:
    """State, record and curves, in search and final rounds; a later one takes its place; removed, there is none."""
    kept = kept_in(tmp_path)
    expected = EXPECTED if validated else EXPECTED.__class__(parameters=7, epochs=4, validated=False)
    assert kept.load("training", expected) is None
    kept.save("training", checkpoint(1, validated=validated))
    last = checkpoint(2, validated=validated)
    kept.save("training", last)
    assert same(last, kept_in(tmp_path).load("training", expected))
    assert len(names(tmp_path)) == 2  # a manifest and a folder: nothing is left beside them
    kept.remove("training")
    kept.remove("training")
    assert kept.load("training", expected) is None
    assert names(tmp_path) == []


class Interrupted(BaseException):
    """The writer is killed."""


class Breaking(Folder):
    """A folder whose writer is killed before its call number `left`."""

    left = 10**6

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Interrupted

    def create(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        self._count()
        super().create(path, chunks)

    def replace(self, name: str, body: bytes) -> None:
        self._count()
        super().replace(name, body)

    def delete(self, name: str) -> None:
        self._count()
        super().delete(name)


@pytest.mark.parametrize("calls", range(5))
def test_a_writer_that_is_killed_leaves_the_old_or_the_new(tmp_path: Path, calls: int) -> None:
    """Wherever it is; and what it has left goes when the training is over."""
    store = Breaking(tmp_path)
    kept, old, new = kept_in(store), checkpoint(1), checkpoint(2)
    kept.save("training", old)
    store.left = calls
    if calls < 4:  # two files, a manifest, the old folder
        with pytest.raises(Interrupted):
            kept.save("training", new)
    else:
        kept.save("training", new)
    loaded = kept_in(tmp_path).load("training", EXPECTED)
    assert same(old if calls < 3 else new, loaded)
    store.left = 10**6
    kept.remove("training")
    assert names(tmp_path) == []


def test_a_reader_meets_a_writer(tmp_path: Path) -> None:
    """It reads one checkpoint or the next, whole, however often the folder is exchanged under it."""
    kept, over = kept_in(tmp_path), threading.Event()
    states = {epoch: checkpoint(epoch) for epoch in (1, 2, 3, 4)}
    kept.save("training", states[1])

    def write() -> None:
        for turn in range(60):
            kept.save("training", states[1 + turn % 4])
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not over.is_set():
        loaded = kept_in(tmp_path).load("training", EXPECTED)
        assert loaded is not None
        assert same(states[loaded.state.epoch], loaded)
        seen.add(loaded.state.epoch)
    writer.join()
    assert len(seen) > 1


def test_a_reader_whose_folder_goes_takes_the_next(tmp_path: Path) -> None:
    """Another worker has written a checkpoint, and deleted the one before, between the manifest and its files."""
    other, new = kept_in(tmp_path), checkpoint(3)
    other.save("training", checkpoint(2))

    class Meanwhile(Folder):
        reads = 0

        def chunks(self, path: str, size: int) -> Iterator[bytes]:
            self.reads += 1
            if self.reads == 1:
                other.save("training", new)
            return super().chunks(path, size)

    assert same(new, kept_in(Meanwhile(tmp_path)).load("training", EXPECTED))


def test_any_files_are_kept_and_never_more_than_a_piece_is_in_memory(tmp_path: Path) -> None:
    """A hundred pieces go through a folder in the memory of a few; their digests are checked on the way."""
    folders = SignedFolders(Folder(tmp_path), SIGNER)
    pieces = 100

    def content() -> Iterable[bytes]:
        return (bytes([turn]) * CHUNK for turn in range(pieces))

    tracemalloc.start()
    folders.save(NAME, {"step": 3}, {"model.pt": content(), "notes.txt": [b"first"]})
    manifest = folders.find(NAME)
    assert manifest is not None
    assert manifest.record == {"step": 3}
    for mine, read in zip(content(), folders.chunks(manifest, "model.pt"), strict=True):
        assert mine == read
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * CHUNK
    assert b"".join(folders.chunks(manifest, "notes.txt")) == b"first"


def test_a_state_is_written_without_a_copy_of_it(tmp_path: Path) -> None:
    """Three rows become one array's file, and come back into one array."""
    rows = [np.full(CHUNK, number, np.float32) for number in range(3)]  # 4 MB each
    tracemalloc.start()
    Folder(tmp_path).create("folder/state.npy", array_chunks(rows))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * CHUNK
    assert np.array_equal(np.load(tmp_path / "folder" / "state.npy", allow_pickle=False), np.stack(rows))


def test_a_manifest_is_bounded(tmp_path: Path) -> None:
    """What would not be read is not written, and nothing is left of it."""
    folders = SignedFolders(Folder(tmp_path), SIGNER)
    with pytest.raises(ValueError, match="65,536 are the most"):
        folders.save(NAME, {"text": "x" * MOST_BYTES}, {"file": [b"content"]})
    assert names(tmp_path) == []


def test_what_is_not_finite_is_not_written(tmp_path: Path) -> None:
    """It would be refused when it is read."""
    broken = checkpoint()
    broken.state.second_moment[3] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        kept_in(tmp_path).save("training", broken)
    assert names(tmp_path) == []


def test_what_nobody_will_use_goes(tmp_path: Path) -> None:
    """After a day: a folder without its manifest, today's single files; after a month: any. Younger ones stay."""
    day, month = 86_400, 30 * 86_400
    kept = kept_in(tmp_path)
    for digest in ("fresh", "a week old", "old"):
        kept.save(digest, checkpoint())
    whole = {digest: SIGNER.name(digest) for digest in ("fresh", "a week old", "old")}
    orphan, young = f"{'a' * 40}.{'b' * 16}", f"{'c' * 40}.{'d' * 16}"
    for folder in (orphan, young):
        (tmp_path / folder).mkdir()
    for file in ("e" * 40, "f" * 40, f"{'a' * 40}.manifest.damaged", "README"):
        (tmp_path / file).write_text("")
    ages = {"fresh": 0, "a week old": 7 * day, "old": month + day}
    for path in tmp_path.iterdir():
        age = next((ages[digest] for digest, name in whole.items() if path.name.startswith(name)), 2 * day)
        age = {young: 0, "f" * 40: 0, "README": 2 * month, f"{'a' * 40}.manifest.damaged": 2 * month}.get(
            path.name, age
        )
        os.utime(path, (time.time() - age, time.time() - age))
    kept_in(tmp_path)
    kept_in(tmp_path)  # a folder goes after its manifest
    left = {name.partition(".")[0] for name in names(tmp_path)}
    assert left == {whole["fresh"], whole["a week old"], "c" * 40, "f" * 40, "README"}
    assert kept.load("a week old", EXPECTED) is not None


# --- Fit for the training -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        *((file, spoil) for file in ("manifest", "state.npy", "curves.npy") for spoil in ON_DISK),
        *(("folder", spoil) for spoil in ON_DISK if spoil.startswith(("a folder", "a pipe", "a link"))),
    ],
)
def test_what_may_happen_on_disk(tmp_path: Path, file: str, spoil: str) -> None:
    """Each of a checkpoint's files, changed in each way, is noticed at once and can be set aside for a new one."""
    kept = kept_in(tmp_path)
    kept.save("training", checkpoint())
    ON_DISK[spoil](files_in(tmp_path)[file])
    if (file, spoil) == ("folder", "a link to the same"):
        assert kept.load("training", EXPECTED) is not None  # under its signature, wherever it lies
        return
    with pytest.raises(Damaged):
        kept.load("training", EXPECTED)
    assert kept.set_aside("training") == f"{NAME}.manifest.damaged"
    assert kept.load("training", EXPECTED) is None
    anew = checkpoint(1)
    kept.save("training", anew)
    assert same(anew, kept_in(tmp_path).load("training", EXPECTED))
    kept.remove("training")
    assert kept.load("training", EXPECTED) is None


@given(file=st.sampled_from(["manifest", "state.npy", "curves.npy"]), data=st.data())
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_change_of_bytes_is_believed(tmp_path: Path, file: str, data: st.DataObject) -> None:
    """Bits turned, parts cut out, doubled or written over, anywhere: what comes back is what was kept, or nothing."""
    shutil.rmtree(tmp_path / "c", ignore_errors=True)
    kept, original = kept_in(tmp_path / "c"), checkpoint()
    kept.save("training", original)
    path = files_in(tmp_path / "c")[file]
    content = path.read_bytes()
    start, stop = sorted(data.draw(st.tuples(*2 * [st.integers(0, len(content))])))
    change = data.draw(st.one_of(st.binary(max_size=40), st.just(2 * content[start:stop])))
    path.write_bytes(content[:start] + change + content[stop:])
    if path.read_bytes() == content:
        assert same(original, kept.load("training", EXPECTED))
        return
    with pytest.raises(Damaged):
        kept.load("training", EXPECTED)


RECORD: dict[str, Any] = {"epoch": 2, "seconds": 1.5, "device_seconds": 0.5, "resumed_at": [1]}
STATE, CURVES = np.ones((3, 7), np.float32), np.array([[0.5, 0.25], [0.5, 0.75]])


def with_value(array: np.ndarray, value: float, at: int = -1) -> np.ndarray:
    changed = array.copy()
    changed.flat[at] = value
    return changed


UNFIT: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], str]] = {  # record, files, what is wrong
    "no epoch": ({"epoch": ...}, {}, "epoch: Field required"),
    "no seconds": ({"seconds": ...}, {}, "seconds: Field required"),
    "a key more": ({"more": 1}, {}, "more: Extra inputs"),
    "an old record": ({"record": {}, "seconds": ..., "device_seconds": ..., "resumed_at": ...}, {}, "record"),
    "epoch 0": ({"epoch": 0}, {}, "epoch"),
    "epoch -1": ({"epoch": -1}, {}, "epoch"),
    "epoch as text": ({"epoch": "2"}, {}, "epoch"),
    "epoch as truth": ({"epoch": True}, {}, "epoch"),
    "epoch as fraction": ({"epoch": 2.5}, {}, "epoch"),
    "epoch beyond the budget": ({"epoch": 5}, {}, "after epoch 5 of 4"),
    "epoch without end": ({"epoch": 10**18}, {}, "of 4"),
    "another epoch": ({"epoch": 3}, {}, "after 3 epochs"),
    "seconds below zero": ({"seconds": -1.0}, {}, "seconds"),
    "seconds as text": ({"seconds": "1"}, {}, "seconds"),
    "resumed later": ({"resumed_at": [3]}, {}, "resumed"),
    "resumed backwards": ({"resumed_at": [2, 1]}, {}, "resumed"),
    "resumed at zero": ({"resumed_at": [0]}, {}, "resumed_at"),
    "resumed as text": ({"resumed_at": "12"}, {}, "resumed_at"),
    "no state": ({}, {"state.npy": None}, "files"),
    "no curves": ({}, {"curves.npy": None}, "files"),
    "a file more": ({}, {"more.npy": STATE}, "files"),
    "fewer parameters": ({}, {"state.npy": STATE[:, 1:]}, "7 parameters"),
    "more parameters": ({}, {"state.npy": np.ones((3, 8), np.float32)}, "7 parameters"),
    "two rows": ({}, {"state.npy": STATE[1:]}, "files"),
    "as doubles": ({}, {"state.npy": STATE.astype(np.float64)}, "files"),
    "as whole numbers": ({}, {"state.npy": STATE.astype(np.int32)}, "not float32 of shape"),
    "other ends of its bytes": ({}, {"state.npy": STATE.astype(">f4")}, "not float32 of shape"),
    "another shape of this size": ({}, {"state.npy": STATE.reshape(7, 3)}, "not float32 of shape"),
    "columns first": ({}, {"state.npy": np.asfortranarray(STATE)}, "not float32 of shape"),
    "NaN": ({}, {"state.npy": with_value(STATE, np.nan)}, "not finite"),
    "infinite": ({}, {"state.npy": with_value(STATE, -np.inf, 0)}, "not finite"),
    "a loss is NaN": ({}, {"curves.npy": with_value(CURVES, np.nan, 0)}, "not finite"),
    "a loss below zero": ({}, {"curves.npy": with_value(CURVES, -0.1, 1)}, "no sense"),
    "an accuracy of 150%": ({}, {"curves.npy": with_value(CURVES, 1.5)}, "no sense"),
    "fewer epochs": ({}, {"curves.npy": CURVES[:, 1:]}, "files"),
    "no accuracies": ({}, {"curves.npy": CURVES[:1]}, "files"),
    "objects": ({}, {"state.npy": STATE.astype(object)}, "files"),
}


def npy(array: np.ndarray, path: Path) -> bytes:
    np.save(path / "array.npy", array, allow_pickle=True)
    return (path / "array.npy").read_bytes()


def plant(folder: Path, record: Mapping[str, Any], files: Mapping[str, Any], name: str = NAME) -> None:
    """Keep something as a worker of this database would, signed with its key."""
    arrays = {"state.npy": STATE, "curves.npy": CURVES, **files}
    content = {file: [npy(array, folder)] for file, array in arrays.items() if array is not None}
    (folder / "array.npy").unlink()
    fields = {key: value for key, value in {**RECORD, **record}.items() if value is not ...}
    SignedFolders(Folder(folder), SIGNER).save(name, fields, content)


def test_what_fits_is_used(tmp_path: Path) -> None:
    """The table below changes one thing of this."""
    plant(tmp_path, {}, {})
    loaded = kept_in(tmp_path).load("training", EXPECTED)
    assert loaded is not None
    assert loaded.train_loss == [0.5, 0.25]
    assert loaded.record.resumed_at == (1,)


@pytest.mark.parametrize("what", UNFIT)
def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, what: str) -> None:
    """Whole and rightly signed, by a worker with a fault or of other code: it is still not believed."""
    record, files, wrong = UNFIT[what]
    plant(tmp_path, record, files)
    with pytest.raises(Damaged, match=wrong) as caught:
        kept_in(tmp_path).load("training", EXPECTED)
    assert "\n" not in str(caught.value)


def test_nothing_is_read_before_its_size_is_right(tmp_path: Path) -> None:
    """A terabyte signed by a worker with a fault: refused without opening it."""
    plant(tmp_path, {}, {"state.npy": STATE[:, 1:]})
    os.truncate(files_in(tmp_path)["state.npy"], 1 << 40)
    tracemalloc.start()
    with pytest.raises(Damaged, match="7 parameters"):
        kept_in(tmp_path).load("training", EXPECTED)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < CHUNK


# --- This database's ----------------------------------------------------------------------------------------


def test_another_key_forges_nothing(tmp_path: Path) -> None:
    """Databases have names of their own, and a manifest under this one's name with another's signature is refused."""
    kept_in(tmp_path, b"other").save("training", checkpoint())
    assert kept_in(tmp_path).load("training", EXPECTED) is None
    SignedFolders(Folder(tmp_path), Signer(b"other")).save(NAME, RECORD, {})
    with pytest.raises(Damaged, match="not signed by a worker of this database"):
        kept_in(tmp_path).load("training", EXPECTED)


def test_a_genuine_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    """Its manifest holds its name, so no copy passes under another one; nor does its content under another manifest."""
    kept = kept_in(tmp_path)
    kept.save("another", checkpoint(4))
    manifest_in(tmp_path).rename(tmp_path / f"{NAME}.manifest")
    with pytest.raises(Damaged, match="another training"):
        kept.load("training", EXPECTED)


def test_content_of_another_checkpoint_is_refused(tmp_path: Path) -> None:
    """An older state of the same size beside the manifest of the newer."""
    kept = kept_in(tmp_path)
    kept.save("training", checkpoint(2))
    older = files_in(tmp_path)["state.npy"].read_bytes()
    kept.save("training", checkpoint(2))
    files_in(tmp_path)["state.npy"].write_bytes(older)
    with pytest.raises(Damaged, match=r"state\.npy is damaged: its digest does not fit"):
        kept.load("training", EXPECTED)


def test_a_thing_of_another_kind_is_refused(tmp_path: Path) -> None:
    """The signature of a result is none of a manifest, whatever stands in it."""
    plant(tmp_path, {}, {})
    manifest = manifest_in(tmp_path)
    body = SIGNER.verified("manifest", manifest.read_bytes())
    manifest.write_bytes(SIGNER.signed("result", body))
    with pytest.raises(Damaged, match="not signed"):
        kept_in(tmp_path).load("training", EXPECTED)
    manifest.write_bytes(SIGNER.signed("manifest", json.dumps({**json.loads(body), "folder": "../elsewhere"}).encode()))
    with pytest.raises(Damaged, match="its manifest is invalid: folder"):
        kept_in(tmp_path).load("training", EXPECTED)


# --- Seldom enough ------------------------------------------------------------------------------------------


class Clock:
    """A clock that moves when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Slow(Folder):
    """A place where every file takes so many seconds of a clock."""

    clock = Clock()
    seconds = 0.0
    written = 0.0

    def create(self, path: str, chunks: Iterable[bytes | memoryview]) -> None:
        super().create(path, chunks)
        self.clock.now += self.seconds
        self.written += self.seconds


class Training:
    """As much of a job as a checkpointer asks for."""

    digest = "training"

    def checkpoint(self, state: Any) -> Any:
        return checkpoint()


@pytest.mark.parametrize(
    ("each", "seconds", "rounds"), [(0.001, 60.0, 166), (5.0, 60.0, 50), (100.0, 60.0, 3), (0.5, 0.0, 499)]
)
def test_a_slow_place_has_fewer_checkpoints(tmp_path: Path, each: float, seconds: float, rounds: int) -> None:
    """Ten thousand epochs of a second: never less than `seconds` apart, and at most 5% of the time for writing."""
    store = Slow(tmp_path)
    store.clock, store.seconds = Clock(), each
    checkpointer = Checkpointer(kept_in(store), seconds, store.clock)
    begun, made = store.clock.now, 0
    job: Any = Training()
    while store.clock.now - begun < 10_000:
        store.clock.now += 1
        if checkpointer.due:
            checkpointer.save([(job, checkpoint().state)])
            made += 1
    assert store.written <= SHARE * (store.clock.now - begun) + 2 * each
    assert rounds * 0.9 <= made <= rounds * 1.1


def test_while_checkpoints_are_written_there_are_no_others(tmp_path: Path) -> None:
    """Those that take too long are not waited for, and the time they take counts until they are on disk."""
    clock, go_on = Clock(), threading.Event()

    class Held(Folder):
        def replace(self, name: str, body: bytes) -> None:
            go_on.wait(60)
            super().replace(name, body)

    checkpointer = Checkpointer(kept_in(Held(tmp_path)), 10.0, clock)
    job: Any = Training()
    checkpointer.save([(job, checkpoint().state)], seconds=0.0)
    clock.now += 100
    assert not checkpointer.due
    go_on.set()
    wait(checkpointer._writes)
    clock.now += 100 * (1 / SHARE - 1) - 1
    assert not checkpointer.due
    clock.now += 1
    assert checkpointer.due
