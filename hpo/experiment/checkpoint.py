"""Checkpoints as a training makes them, in its own process: state dicts, and files of libraries, at epochs' ends.

A checkpoint is a folder of files, handed to the worker, which keeps it whole or not at all and deletes the folder.
Nothing is pickled but what torch reads back with `weights_only`.
"""

import json
import math
import secrets
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpo.errors import ExperimentError

SHARE = 0.05  # of a training's time, for writing at the most: where that takes long it is done less often
MOMENT = 0.1  # seconds: the state after the last epoch is kept however short the training was, if that takes no longer
WRITE_SPEED = 250e6  # bytes a second, of a first checkpoint: what the next takes is known from the last
_TENSORS, _PLAIN, _ARRAY, _FILES = "state.pt", "state.json", "array-{}.npy", "files.tar"
_SIMPLE = (str, int, float, bool, type(None))


class TrainingState:
    """What of a training is kept, and when; nothing, until the training says what its state is."""

    def __init__(
        self,
        place: Path,
        *,
        resume: tuple[int, Path] | None,
        seconds: float,
        on_begin: Callable[[], None],
        on_save: Callable[[int, Path], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`place` is a folder for checkpoints, of which one is written at a time, `seconds` apart at least.

        `resume` is an earlier attempt's, with the epochs trained by then. `on_begin` is called where there is a state
        to keep, `on_save` with the epochs trained and a checkpoint's folder, which is deleted once it is kept.
        """
        self.epoch = 0  # epochs that the state which was loaded has seen
        self.is_loading = False  # still so where that has failed
        self._place, self._resume, self._seconds, self._clock = place, resume, seconds, clock
        self._on_begin, self._on_save = on_begin, on_save
        self._objects: Sequence[Any] = ()
        self._files: Path | None = None
        self._written: Path | None = None
        self._saved, self._checked = 0, False
        self._begun = clock()
        self._due = self._begun + seconds
        self._spent, self._cost = 0.0, math.nan  # seconds in writing so far; that the next takes

    @property
    def is_kept(self) -> bool:
        """Whether the training has said what its state is."""
        return bool(self._objects) or self._files is not None

    def register(self, objects: Sequence[Any]) -> None:
        """These hold the training's state: loaded now where an earlier attempt got further."""
        for thing in objects:
            if not hasattr(thing, "state_dict") or not hasattr(thing, "load_state_dict"):
                raise ExperimentError(
                    f"checkpoint: a {type(thing).__name__} has no state_dict and load_state_dict; files of a library "
                    "go into run.checkpoint_folder"
                )
        if self._objects or not objects:
            raise ExperimentError("checkpoint: call it once, with all that has a state")
        self._objects = list(objects)
        if self._resume is not None:
            epoch, folder = self._resume
            self.is_loading = True
            _load(self._objects, folder)
            self.is_loading, self.epoch, self._saved = False, epoch, epoch
        self._on_begin()

    @property
    def folder(self) -> Path:
        """For a library's own files; it holds those of an earlier attempt that got further."""
        if self._files is None:
            self._files = self._place / "files"
            self._files.mkdir(parents=True, exist_ok=True)
            if self._resume is not None:
                epoch, folder = self._resume
                self.is_loading = True
                with tarfile.open(folder / _FILES) as archive:
                    archive.extractall(self._files, filter="data")
                self.is_loading, self.epoch, self._saved = False, epoch, epoch
            self._on_begin()
        return self._files

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next: not before the last is kept, nor before its training pays for it."""
        busy = self._written is not None and self._written.exists()
        return self.is_kept and not busy and self._clock() >= self._due and self._is_paid_for()

    def save_last(self, epoch: int) -> None:
        """Write the state after the last epoch where that is paid for, or takes a moment.

        Else a test that fails goes on from the checkpoint before it, and trains the few epochs after that again.
        """
        if self.is_kept and (self._is_paid_for() or self._cost <= MOMENT):
            self.save(epoch)

    def _is_paid_for(self) -> bool:
        """Whether with the next one, too, writing takes no more than its share of the training."""
        if math.isnan(self._cost):
            self._cost = self._bytes() / WRITE_SPEED
        training = self._clock() - self._begun - self._spent
        return self._spent + self._cost <= SHARE * training

    def _bytes(self) -> int:
        """How much there is to write."""
        held = sum(getattr(leaf, "nbytes", 0) for leaf in _leaves([thing.state_dict() for thing in self._objects]))
        files = [] if self._files is None else [path for path in self._files.rglob("*") if path.is_file()]
        return int(held) + sum(path.stat().st_size for path in files)

    def save(self, epoch: int) -> None:
        """Write the state after so many epochs, unless that is kept already."""
        if not self.is_kept or epoch <= self._saved:
            return
        begun = self._clock()
        folder = self._place / f"{epoch}-{secrets.token_hex(4)}"
        folder.mkdir(parents=True)
        if self._objects:
            _save([thing.state_dict() for thing in self._objects], folder, check=not self._checked)
            self._checked = True
        if self._files is not None:
            with tarfile.open(folder / _FILES, "w") as archive:
                archive.add(self._files, arcname=".")
        self._saved, self._written = epoch, folder
        self._on_save(epoch, folder)
        now = self._clock()
        self._due, self._cost = now + self._seconds, now - begun
        self._spent += self._cost


def _save(states: Sequence[Any], folder: Path, *, check: bool) -> None:
    torch: Any = sys.modules.get("torch")
    if torch is None or not any(isinstance(value, torch.Tensor) for value in _leaves(list(states))):
        arrays: list[Any] = []
        plain = [_plain(state, arrays) for state in states]
        (folder / _PLAIN).write_text(json.dumps(plain))
        for number, array in enumerate(arrays):
            np.save(folder / _ARRAY.format(number), array, allow_pickle=False)
        return
    torch.save(list(states), folder / _TENSORS)
    if check:
        _read_tensors(folder / _TENSORS)


def _load(objects: Sequence[Any], folder: Path) -> None:
    if (folder / _TENSORS).exists():
        states = _read_tensors(folder / _TENSORS)
    else:
        states = [_value(state, folder) for state in json.loads((folder / _PLAIN).read_text())]
    if len(states) != len(objects):
        raise ExperimentError(
            f"checkpoint: {len(objects)} objects have a state here, in an earlier attempt {len(states)}"
        )
    for thing, state in zip(objects, states, strict=True):
        thing.load_state_dict(state)


def _read_tensors(path: Path) -> list[Any]:
    import torch

    try:
        states: list[Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch names what it does not read in several ways
        why = " ".join(str(error).split())[:300]
        raise ExperimentError(
            f"checkpoint: a state holds more than tensors, numbers and texts, which would not be read back: {why}"
        ) from error
    return states


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _leaves(inner)
    else:
        yield value


def _plain(value: Any, arrays: list[Any]) -> Any:
    """A state for JSON; its arrays are put aside."""
    if isinstance(value, dict):
        return {"dict": [[_plain(key, arrays), _plain(inner, arrays)] for key, inner in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_plain(inner, arrays) for inner in value]}
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind != "O":
        arrays.append(value)
        return {"array" if isinstance(value, np.ndarray) else "number": len(arrays) - 1}
    if type(value) in _SIMPLE:
        return value
    raise ExperimentError(f"checkpoint: a state holds a {type(value).__name__}, which could not be read back")


def _value(plain: Any, folder: Path) -> Any:
    if not isinstance(plain, dict):
        return plain
    ((kind, inner),) = plain.items()
    if kind == "dict":
        return {_value(key, folder): _value(value, folder) for key, value in inner}
    if kind in ("list", "tuple"):
        values = [_value(value, folder) for value in inner]
        return tuple(values) if kind == "tuple" else values
    array = np.load(folder / _ARRAY.format(int(inner)), allow_pickle=False)
    return array if kind == "array" else array[()]
