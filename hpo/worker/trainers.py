"""Those who train: what the worker's loop asks of the lanes of a population and of child processes alike."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hpo.storage.outcome import Outcome, OutcomeState
from hpo.training.population import LaneState
from hpo.worker.fetcher import Group
from hpo.worker.job import Job


class TrainingFailed(Exception):
    """A training could not begin; the message is its traceback."""


@dataclass(frozen=True, kw_only=True)
class Conclusion:
    """What a training gave: the outcome to store, and a final round's scores of the single test items, packed."""

    outcome: Outcome
    outputs: bytes | None


@dataclass(frozen=True, kw_only=True)
class TrainingEvent:
    """What has happened to a training."""

    job: Job
    epoch: int | None = None  # this one is complete
    value: float | None = None  # of the first metric with it, for the trial's curve and for pruning
    ended: OutcomeState | None = None  # the training is over, and how; it waits for `end`
    conclusion: Conclusion | None = None  # of a test that `conclude` began
    error: str | None = None  # it has failed so, and has its place no more
    retry: bool = True  # where it failed: whether the same might go well another time


class Trainers(Protocol):
    """Trainings of a group of studies, side by side; the worker's loop has one kind at work at a time."""

    group: Group | None  # that is served, None: nothing is
    training_seconds: float  # of this worker's life in trainings

    @property
    def jobs(self) -> list[Job]:
        """The trainings that go on, with the tests that `conclude` began."""

    @property
    def free(self) -> int:
        """How many trainings more there is room for."""

    @property
    def width(self) -> int | None:
        """How many there is room for in all; None before that is known."""

    def serve(self, group: Group) -> None:
        """Be ready for a group; nothing may be in training. What raises concerns all its studies."""

    def leave(self) -> None:
        """Give up what is held for a group: the other kind is at work from now on."""

    def load(self, jobs: Sequence[Job]) -> None:
        """Let jobs go on where earlier attempts got to; on the thread that fetches them."""

    def start(self, job: Job) -> None:
        """Begin a training; TrainingFailed where its code raises at once."""

    def poll(self, stop: Callable[[], bool]) -> Sequence[TrainingEvent]:
        """Train on, or wait for those who train: what has happened by then; soon after `stop` holds, nothing."""

    def wake(self) -> None:
        """End a `poll` that waits; any thread may call it."""

    def states(self) -> Iterable[tuple[Job, LaneState]]:
        """Every training with its state after its last whole epoch, for the worker to keep."""

    def state_of(self, job: Job) -> LaneState | None:
        """That of a training which has ended and is not concluded; None where the worker has none to keep."""

    def end(self, job: Job) -> None:
        """A training that is over makes room, as far as its conclusion does not need it."""

    def settle(self, job: Job) -> None:
        """Wait, some seconds at most, until no checkpoint of it is on its way: a test that fails needs the last one.

        On a thread beside the training; must not raise.
        """

    def conclude(self, job: Job, how: OutcomeState) -> Conclusion | None:
        """What a training that has ended gave; None where an event will tell.

        A complete final round is tested: the opening of pool B is on record. Raises what its evaluation raises.
        """

    def drop(self, job: Job) -> None:
        """Forget a training, wherever it is: its lease is lost, it is given back, or it is stored."""

    def forget_checkpoint(self, job: Job) -> None:
        """Its outcome is kept; on a thread beside the training, must not raise."""

    def close(self, seconds: float) -> None:
        """The worker's life is over: keep in so many seconds what can be gone on with, and leave nothing running."""
