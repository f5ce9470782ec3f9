"""Checkpoints and results on disk: whole or noticed not to be."""

import os
from pathlib import Path

import boto3  # type: ignore[import-untyped]  # ships no types
import pytest
import torch

from hpo.storage.engine import open_engine
from hpo.training.population import LaneState
from hpo.worker.checkpoints import Checkpoint, Checkpoints
from hpo.worker.stores import Bucket, Damaged, Folder, NoArtifacts, default_folder

RECORD = {"train_loss": [0.5, 0.25], "validation_accuracy": [0.5, 0.75], "validation_loss": 0.3, "seconds": 1.5}


def checkpoint(epoch: int = 2) -> Checkpoint:
    state = LaneState(epoch=epoch, parameters=torch.randn(7), first_moment=torch.randn(7), second_moment=torch.rand(7))
    return Checkpoint(state=state, record=RECORD)


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    """Tensors, epoch and record; a later one takes its place; removed, there is none."""
    kept = Checkpoints(Folder(tmp_path))
    assert kept.load("one") is None
    kept.save("one", checkpoint(1))
    last = checkpoint(2)
    kept.save("one", last)
    found = kept.load("one")
    assert found is not None
    assert (found.state.epoch, found.record) == (2, RECORD)
    for name in ("parameters", "first_moment", "second_moment"):
        assert torch.equal(getattr(found.state, name), getattr(last.state, name))
    assert [path.name for path in tmp_path.iterdir()] == ["one"]  # nothing is left beside it
    kept.remove("one")
    kept.remove("one")
    assert kept.load("one") is None


@pytest.mark.parametrize("spoil", ["cut", "flip", "empty", "head"])
def test_a_damaged_checkpoint_is_noticed(tmp_path: Path, spoil: str) -> None:
    """Cut short, a bit turned, empty, or something else altogether."""
    kept = Checkpoints(Folder(tmp_path))
    kept.save("one", checkpoint())
    path = tmp_path / "one"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    changed = {"cut": path.read_bytes()[:-100], "flip": bytes(content), "empty": b"", "head": b"PK" + path.read_bytes()}
    path.write_bytes(changed[spoil])
    with pytest.raises(Damaged, match="checkpoint one: the file is damaged"):
        kept.load("one")


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    """One line that names the folder and the option."""
    (tmp_path / "file").write_text("")
    with pytest.raises(NoArtifacts, match="--artifacts"):
        Folder(tmp_path / "file" / "below")


def test_an_endpoint_with_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address of a bucket that does not answer is shown, who asks is not."""
    for name, value in {
        "AWS_ENDPOINT_URL": "http://me:secret@127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hidden",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NoArtifacts, match=r"http://\*\*\*@127\.0\.0\.1:9") as caught:
        Bucket("s3://bucket/x")
    assert "secret" not in str(caught.value)


def test_half_written_files_of_killed_writers_go(tmp_path: Path) -> None:
    """After a day; a younger one may still be renamed by its writer."""
    old, young = tmp_path / ".one.77", tmp_path / ".two.78"
    for half in (old, young):
        half.write_bytes(b"half")
    os.utime(old, (0, 0))
    Folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".two.78"]


def test_a_half_written_file_goes_with_its_checkpoint(tmp_path: Path) -> None:
    """At once, for its training is over; that of another training stays."""
    kept = Checkpoints(Folder(tmp_path))
    kept.save("one", checkpoint())
    for half in (".one.77.1", ".one.78.1", ".two.77.1"):
        (tmp_path / half).write_bytes(b"half")
    kept.remove("one")
    assert [path.name for path in tmp_path.iterdir()] == [".two.77.1"]


def test_checkpoints_in_a_bucket(bucket: str) -> None:
    """Written by one worker, read by another, replaced, removed; the prefix keeps others' objects apart."""
    kept, others = Checkpoints(Bucket(bucket)), Checkpoints(Bucket("s3://hpo"))
    assert kept.load("one") is None
    kept.save("one", checkpoint(1))
    last = checkpoint(2)
    kept.save("one", last)
    found = Checkpoints(Bucket(bucket)).load("one")
    assert found is not None
    assert found.state.epoch == 2
    assert torch.equal(found.state.parameters, last.state.parameters)
    assert others.load("one") is None
    assert others.load("team/a/one") is not None
    kept.remove("one")
    kept.remove("one")
    assert kept.load("one") is None
    assert "Contents" not in boto3.client("s3").list_objects_v2(Bucket="hpo")  # the probes are gone too


def test_a_bucket_that_is_not_there(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such bucket, nobody listening, no credentials: one line each, before any training."""
    with pytest.raises(NoArtifacts, match=r"--artifacts s3://other: .*NoSuchBucket.*check the bucket's name") as error:
        Bucket("s3://other")
    assert "\n" not in str(error.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(NoArtifacts, match="Could not connect"):
        Bucket(bucket)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(NoArtifacts, match="credentials"):
        Bucket(bucket)


def test_results_lie_beside_a_sqlite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is written."""
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///a.db", f"sqlite:///{tmp_path}/a.db"):
        engine = open_engine(url)
        assert default_folder(engine).resolve() == tmp_path / "a.db.artifacts"
        engine.dispose()
