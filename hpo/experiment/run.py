"""What a training function gets: its parameters, its training items, its seed, and the loop that hpo counts."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpo.errors import ExperimentError
from hpo.experiment.checkpoint import TrainingState
from hpo.experiment.items import Items
from hpo.experiment.randomness import generator, kept_state, seed_all
from hpo.experiment.spaces import Value

SEED_BITS = 31  # what every library takes as a seed


class Diverged(Exception):
    """Raise it in train or predict: this configuration is no good. A result, as a loss of NaN is, and no failure."""


class Stopped(BaseException):
    """The training is to end here: it was pruned, or its worker gives it back. No `except Exception` catches it."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a training says at the end of an epoch."""

    epoch: int  # from 1
    predictor: Any  # None: numbers alone
    numbers: Mapping[str, float]  # shown, never judged


class Run:
    """One training. It cannot tell what it is for: search, confirmation and final rounds look alike.

    `params` has the active hyperparameters and the constants; `training` unpacks to (x, y); `seed` is below 2**31;
    `device` is "cpu" or "cuda"; `threads` is how many it may use; `max_epochs` how many epochs it gets.
    """

    def __init__(
        self,
        *,
        params: Mapping[str, Value],
        training: Items,
        seed: int,
        device: str,
        threads: int,
        max_epochs: int,
        on_report: Callable[[Report], bool],
        state: TrainingState | None = None,
        given_back: Callable[[], bool] = lambda: False,
    ) -> None:
        """`on_report` deals with a report and returns whether the training is to stop.

        `state` keeps checkpoints; `given_back` says at an epoch's end whether the worker gives the training back.
        """
        self.params, self.training = dict(params), training
        self.seed, self.device, self.threads, self.max_epochs = seed % 2**SEED_BITS, device, threads, max_epochs
        self.epochs_trained = 0  # as far as they were asked for or reported
        self.last_numbers: dict[str, float] = {}
        self.key, self._on_report = seed, on_report  # all that is random is keyed by the whole seed
        self._state, self._given_back = state, given_back
        self._epoch, self._stop, self._loops = 0, False, False
        self._folder: Path | None = None

    def epochs(self) -> Iterator[int]:
        """The epochs to train, from 0 or after the last checkpoint; ends by itself when the training is to stop.

        At each one's beginning `random`, numpy's and torch's global generators are seeded anew.
        """
        self._loops = True
        for epoch in range(self._epoch, self.max_epochs):
            if self._stop:
                return
            seed_all(self.key, "epoch", epoch)
            yield epoch
            self._end_epoch(epoch + 1)

    def report(self, predictor: Any = None, *, epoch: int | None = None, **numbers: float) -> bool:
        """Say how far the training is: hpo measures the predictor for the curve and for pruning.

        The numbers stand in the tables, unjudged. `epoch` counts from 1, where another library owns the loop. Returns
        whether the training is to stop, for callbacks; `epochs` ends by itself.
        """
        now = self._epoch + 1 if epoch is None else epoch
        self.epochs_trained = max(self.epochs_trained, now)
        for name, value in numbers.items():
            if not isinstance(value, int | float | np.floating | np.integer) and not hasattr(value, "item"):
                raise ExperimentError(f"report: {name} must be a number, not {value!r}")
        self.last_numbers = {name: float(value) for name, value in numbers.items()}
        with kept_state():
            self._stop = self._on_report(Report(epoch=now, predictor=predictor, numbers=self.last_numbers))
        if not self._loops:
            self._end_epoch(now)
        return self._stop

    def checkpoint(self, *stateful: Any) -> None:
        """Keep the state of these, which have `state_dict` and `load_state_dict`, at epochs' ends.

        Where an earlier attempt of this training got further, that state is loaded now, and `epochs` goes on after it.
        """
        if self._state is not None:
            self._state.register(stateful)
            self._resumed(self._state.epoch)

    @property
    def checkpoint_folder(self) -> Path:
        """A folder for a library's own files: what lies there at an epoch's end is kept with it, copied whole.

        Where an earlier attempt of this training got further, its files are there.
        """
        if self._state is None:
            return self.folder
        folder = self._state.folder
        self._resumed(self._state.epoch)
        return folder

    def _resumed(self, epoch: int) -> None:
        self._epoch = max(self._epoch, epoch)
        self.epochs_trained = max(self.epochs_trained, epoch)

    def _end_epoch(self, epoch: int) -> None:
        """So many epochs are trained: keep the state if it is time; end here where the worker wants it back."""
        self._epoch = epoch
        self.epochs_trained = max(self.epochs_trained, epoch)
        given_back = self._given_back()
        if self._state is not None and (given_back or self._state.is_due):
            with kept_state():
                self._state.save(epoch)
        if given_back:
            raise Stopped

    def rng(self, purpose: str) -> np.random.Generator:
        """A generator for one purpose, another in each epoch, the same in each training with this seed."""
        return generator(self.key, "run", purpose, self._epoch)

    @property
    def folder(self) -> Path:
        """An empty folder, deleted when hpo has done with the predictor."""
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="hpo-run-"))
        return self._folder

    def close(self) -> None:
        """Delete the folder."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def early_stopping_split(self, share: float) -> tuple[Items, Items]:
        """The training items in two parts, for what must not look at hpo's validation items: the rest, and `share`.

        Of `rows` the second part has each class's share, or the latest rows where they are in the order of a time.
        Whole units where items have one each; the same at every call.
        """
        from hpo.experiment.early_stopping import split

        return split(self.training, share, generator(self.key, "early stopping"))
