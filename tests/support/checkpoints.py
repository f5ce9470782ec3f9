"""Checkpoints to test with: of a training of seven parameters, two epochs of four done."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from hpo.training.population import LaneState
from hpo.worker.checkpoints import Checkpoints, Expected
from hpo.worker.job import Checkpoint, CheckpointRecord
from hpo.worker.signing import Signer
from hpo.worker.stores import Folder, Store

KEY = bytes(range(32))
SIGNER = Signer(KEY)
EXPECTED = Expected(parameters=7, epochs=4, validated=True)
STATE = ("parameters", "first_moment", "second_moment")


def checkpoint(epoch: int = 2, *, validated: bool = True) -> Checkpoint:
    """One with numbers of its own."""
    parameters, first, second = torch.rand(3, 7)
    return Checkpoint(
        state=LaneState(epoch=epoch, parameters=parameters, first_moment=first, second_moment=second),
        record=CheckpointRecord(epoch=epoch, seconds=1.5, device_seconds=0.5, resumed_at=(1,)),
        train_loss=[0.5 / turn for turn in range(1, epoch + 1)],
        validation_accuracy=[1 - 0.5 / turn for turn in range(1, epoch + 1)] if validated else [],
    )


def kept_in(place: Path | Store, key: bytes = KEY) -> Checkpoints:
    """The checkpoints in a folder or a store, for a database with this key."""
    return Checkpoints(Folder(place) if isinstance(place, Path) else place, Signer(key))


def same(left: Checkpoint, right: Checkpoint | None) -> bool:
    """Whether two are equal bit for bit."""
    if right is None:
        return False
    return (
        left.record == right.record
        and (list(left.train_loss), list(left.validation_accuracy))
        == (list(right.train_loss), list(right.validation_accuracy))
        and left.state.epoch == right.state.epoch
        and all(torch.equal(getattr(left.state, name), getattr(right.state, name)) for name in STATE)
    )


def manifest_in(folder: Path) -> Path:
    """The only manifest."""
    (path,) = folder.glob("*.manifest")
    return path


def files_in(folder: Path) -> dict[str, Path]:
    """What makes the only checkpoint there: its manifest, its folder's files, its folder."""
    (content,) = (path for path in folder.iterdir() if path.is_dir())
    return {"manifest": manifest_in(folder), "folder": content, **{path.name: path for path in content.iterdir()}}


def _put(write: Callable[[Path], object]) -> Callable[[Path], None]:
    """Put something else in the place of a file or folder."""

    def spoil(path: Path) -> None:
        path.rename(path.with_name(f"{path.name}.before"))
        write(path)

    return spoil


def _flip(at: int) -> Callable[[Path], None]:
    """Turn one bit of a file."""

    def spoil(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[at % len(content)] ^= 1 << at % 8
        path.write_bytes(content)

    return spoil


ON_DISK: Mapping[str, Callable[[Path], object]] = {  # what may happen to a file, past any signature
    "cut short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 1),
    "a terabyte": lambda path: os.truncate(path, 1 << 40),
    "first bit": _flip(0),
    "a bit in the middle": _flip(100),
    "last bit": _flip(-1),
    "{}": lambda path: path.write_bytes(b"{}"),
    "not text": lambda path: path.write_bytes(bytes(range(256))),
    "a folder": _put(Path.mkdir),
    "a pipe": _put(os.mkfifo),
    "a link to itself": _put(lambda path: path.symlink_to(path)),
    "a link to nowhere": _put(lambda path: path.symlink_to("nowhere")),
    "a link without end": _put(lambda path: path.symlink_to("/dev/zero")),
    "a link to the same": _put(lambda path: path.symlink_to(f"{path.name}.before")),
}
