"""Checkpoints as a training makes them: what is saved is loaded, at the right time, and nothing is unpickled."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hpo.errors import ExperimentError
from hpo.experiment.checkpoint import MOMENT, SHARE, WRITE_SPEED, TrainingState


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Thing:
    """Has a state, as people write such classes."""

    def __init__(self, state: Any = None) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


Saved = list[tuple[int, Path]]
Make = Callable[..., tuple[TrainingState, Saved]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def made(
        resume: tuple[int, Path] | None = None, seconds: float = 0.0, clock: Clock | None = None
    ) -> tuple[TrainingState, Saved]:
        saved: Saved = []
        state = TrainingState(
            tmp_path / "place",
            resume=resume,
            seconds=seconds,
            on_begin=lambda: None,
            on_save=lambda epoch, folder: saved.append((epoch, folder)),
            clock=clock or Clock(),
        )
        return state, saved

    return made


def test_plain_states_come_back_as_they_were(make: Make) -> None:
    """Arrays with their types, tuples as tuples, numbers that are not finite, keys that are no texts."""
    weights = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    nested = {"weights": weights, 3: (1, 2.5, None, True), "deep": [{"loss": float("inf")}], "step": np.int64(7)}
    state, saved = make()
    state.register([Thing(nested), Thing(("a", "b"))])
    state.save(4)
    first, second = Thing(), Thing()
    resumed, _ = make(resume=saved[0])
    resumed.register([first, second])
    assert resumed.epoch == 4
    assert second.state == ("a", "b")
    assert first.state["weights"].dtype == np.float32
    assert (first.state.pop("weights") == weights).all()
    assert first.state == {key: value for key, value in nested.items() if key != "weights"}


def train(epochs: int, *, state: TrainingState, begin: int = 0) -> list[torch.Tensor]:
    """A little network with dropout, momentum and a schedule, its generator seeded in each epoch."""
    torch.manual_seed(1)
    net = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1)
    )
    optimizer = torch.optim.AdamW(net.parameters(), 0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    state.register([net, optimizer, schedule])
    for epoch in range(max(begin, state.epoch), epochs):
        torch.manual_seed(epoch)
        optimizer.zero_grad()
        net(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
        schedule.step()
        state.save(epoch + 1)
    return [value.clone() for value in net.state_dict().values()]


def test_a_network_goes_on_as_if_it_had_never_stopped(make: Make) -> None:
    undisturbed = train(6, state=make()[0])
    half, saved = make()
    train(3, state=half)
    resumed, _ = make(resume=saved[-1])
    assert all(torch.equal(a, b) for a, b in zip(train(6, state=resumed), undisturbed, strict=True))
    assert resumed.epoch == 3


def test_what_could_not_be_read_back_is_refused_when_it_is_saved(make: Make) -> None:
    """The line says what to do; a pickle put in the place of a state is not run."""
    with pytest.raises(ExperimentError, match=r"a int has no state_dict and load_state_dict; .*run\.checkpoint_folder"):
        make()[0].register([3])
    with pytest.raises(ExperimentError, match="call it once"):
        make()[0].register([])
    for odd in ({"call": Path("x")}, {"tensor": torch.zeros(1), "call": Thing()}):
        state, _ = make()
        state.register([Thing(odd)])
        with pytest.raises(ExperimentError, match="checkpoint: a state holds"):
            state.save(1)


def test_a_pickle_is_not_run(make: Make, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "run",)

    folder = tmp_path / "forged"
    folder.mkdir()
    (folder / "state.pt").write_bytes(pickle.dumps([Evil()]))
    state, _ = make(resume=(2, folder))
    with pytest.raises(ExperimentError):
        state.register([Thing()])
    assert state.is_loading, "so the worker knows that the checkpoint is of no use"
    assert not (tmp_path / "run").exists()


class LargeThing(Thing):
    """Has so many bytes, which take so many seconds to write."""

    def __init__(self, clock: Clock, size: int, seconds: float) -> None:
        super().__init__({"a": np.broadcast_to(np.uint8(0), (size,))})  # no memory
        self._clock, self._seconds = clock, seconds
        self.is_measured = False

    def state_dict(self) -> Any:
        if self.is_measured:  # asked for once to know the size, then to be written
            self._clock.now += self._seconds
            return {"a": np.zeros(3)}
        self.is_measured = True
        return self.state


def take(saved: Saved) -> None:
    """As the worker does with what is written."""
    for _, folder in saved:
        shutil.rmtree(folder, ignore_errors=True)


def test_the_next_waits_for_the_last_one(make: Make) -> None:
    """It is due after so many seconds, and not before the worker has taken the last; no epoch is kept twice."""
    clock = Clock()
    state, saved = make(seconds=10.0, clock=clock)
    state.register([Thing({"a": 1})])
    assert not state.is_due
    clock.now = 10.0
    assert state.is_due
    state.save(1)
    clock.now = 20.0
    assert not state.is_due, "the worker has not taken the last one"
    take(saved)
    assert state.is_due
    state.save(1)
    assert len(saved) == 1


@pytest.mark.parametrize(("size", "seconds"), [(10**9, 4.0), (10**9, 1.0), (10**6, 3.0), (1000, 0.001)])
@pytest.mark.parametrize("epochs", [1, 20, 120, 1000])
def test_writing_takes_a_small_share_of_the_time(make: Make, size: int, seconds: float, epochs: int) -> None:
    """The first and the last, too, are written once the training has paid for them; what takes a moment always is."""
    clock = Clock()
    state, saved = make(clock=clock)
    state.register([LargeThing(clock, size, seconds)])
    for epoch in range(epochs):
        clock.now += 1.0
        if state.is_due:
            state.save(epoch + 1)
            take(saved)
    state.save_last(epochs)
    written = seconds * len(saved)
    surprise = seconds if size / WRITE_SPEED < seconds else 0.0  # of a disk that is slower than was thought
    assert written <= max(SHARE * epochs + surprise, MOMENT)
    affordable = int((SHARE * epochs - surprise) / seconds)
    assert len(saved) >= min(affordable, epochs) - 1
    if seconds < MOMENT:
        assert saved[-1][0] == epochs


def test_a_librarys_files_are_kept_whole(make: Make) -> None:
    state, saved = make()
    (state.folder / "deep").mkdir()
    (state.folder / "deep" / "model.bin").write_bytes(b"x" * 1000)
    assert state.is_kept
    state.save(2)
    (state.folder / "deep" / "model.bin").unlink()
    resumed, _ = make(resume=saved[0])
    assert (resumed.folder / "deep" / "model.bin").read_bytes() == b"x" * 1000
    assert resumed.epoch == 2
