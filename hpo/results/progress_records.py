"""Records of what goes on: how far studies are, what workers do, what needs somebody; `progress.py` fills them.

Times are seconds since 1970 by the database's clock; values are in the unit of the study's first metric.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hpo.experiment.metric_info import MetricInfo
from hpo.results.records import Best, Tuned
from hpo.storage.claims import Trained
from hpo.storage.slots import Kind
from hpo.storage.studies import Phase
from hpo.storage.workers import RegisteredWorker


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseProgress:
    """The trainings of one phase by state."""

    kind: Kind
    waiting: int
    running: int
    done: int
    failed: int
    total: int  # with those that are planned, where the phase has not begun
    claims: int  # of its slots so far, by workers
    reclaims: int  # claims beyond the first of a slot: after a failure, a release or a lost lease
    lost_leases: int  # that expired without a new epoch, since the slot was queued last

    @property
    def open(self) -> int:
        """Those that are not at their end, planned ones too."""
        return self.total - self.done - self.failed


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimatedEnd:
    """When a study will be done, if the rate of the last hour (or, of long trainings, day) lasts."""

    earliest: float  # about one time in twenty it ends before
    expected: float
    latest: float  # about one time in twenty it ends after


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningTraining:
    """A training that goes on, under a lease that holds."""

    worker: str  # its name
    study: str
    experiment: str
    model: str
    kind: Kind
    idx: int  # of the slot among those of its study and kind, from 0
    number: int | None  # Optuna's number of the trial; None: not made yet
    label: str | None  # confirm, final: which configuration
    round: int | None  # confirm, final: from 0
    epoch: int  # the furthest that was reported; 0 before the first, and of a method that has none
    epochs: int | None  # of the training, or its folds where it has some; None: the study's spec cannot be read
    started_at: float | None  # first claim


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyProgress:
    """How far a study is."""

    id: int
    name: str
    experiment: str
    model: str
    phase: Phase
    paused: bool
    is_blocked: bool  # it stands still until `hpo study resume` queues again what failed
    gone: tuple[str, ...]  # Optuna's studies that were deleted past hpo: this study cannot go on
    unreadable: str | None  # why its spec cannot be read, with what to do; then metric and best are not known
    waits_for: tuple[str, ...]  # studies whose searches keep its test pool shut
    phases: tuple[PhaseProgress, ...]  # search, confirm, final
    metric: MetricInfo | None  # the one that judges
    best: Best | None  # the search's best complete trial
    tuned: Tuned | None  # the configuration that won the confirm phase
    tested: Mapping[str, float]  # of a study that is done: mean of the final rounds by label, on test items
    trials_per_hour: float  # trainings that ended, lately
    epochs_per_hour: float  # that they trained; 0 where the method has none
    end: EstimatedEnd | None  # None: done, or nothing ended lately, or it cannot go on
    running: tuple[RunningTraining, ...]
    workers: tuple[str, ...]  # names of the living workers that serve it
    repeat_group: str | None
    created_at: float

    def of(self, kind: Kind) -> PhaseProgress:
        """One of its phases."""
        return next(phase for phase in self.phases if phase.kind == kind)

    @property
    def states(self) -> tuple[str, ...]:
        """What keeps it from going on, the worst first."""
        states = {
            "broken": bool(self.gone) or self.unreadable is not None,
            "blocked": self.is_blocked,
            "paused": self.paused and self.phase != "done",
            f"waits for {', '.join(self.waits_for)}": bool(self.waits_for),
        }
        return tuple(state for state, holds in states.items() if holds)


WorkerState = Literal["alive", "left", "lost"]


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerProgress:
    """A worker that lives, or left in the last day."""

    worker: RegisteredWorker
    state: WorkerState  # lost: it showed no sign of life in time and said nothing of its end
    models: tuple[Trained, ...]  # that it trains right now
    running: tuple[RunningTraining, ...]  # at most one a lane
    trials_per_hour: float  # that ended in the last hour, or since it began


@dataclass(frozen=True, kw_only=True, slots=True)
class Attention:
    """Something that does not mend itself."""

    about: Literal["study", "worker"]
    name: str  # of that study or worker
    what: str  # is the matter: the rest of a sentence that begins with the name
    command: str  # that mends it, or shows more


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """All that goes on in a database."""

    now: float  # when it was read
    studies: tuple[StudyProgress, ...]  # as they were created
    workers: tuple[WorkerProgress, ...]  # living ones first, each group as they began
    attention: tuple[Attention, ...]  # the worst first
