"""Checkpoints and results on disk: whole or noticed not to be."""

from pathlib import Path

import pytest
import torch

from hpo.artifacts import Checkpoint, Checkpoints, Damaged, Folder, NoArtifacts, Spool, default_folder
from hpo.storage.engine import open_engine
from hpo.training.population import LaneState

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


def test_databases_have_parts_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two files keep their results apart; one file is the same however it is written."""
    monkeypatch.chdir(tmp_path)
    engines = [open_engine(f"sqlite:///{name}") for name in ("a.db", "b.db", f"{tmp_path}/a.db")]
    folders = [Spool(tmp_path / "results", engine).folder for engine in engines]
    assert folders[0] == folders[2] != folders[1]
    assert default_folder(engines[0]).resolve() == tmp_path / "a.db.artifacts"
    for engine in engines:
        engine.dispose()
