"""Which trials are so poor that they should stop: asked once for all lanes of a worker, answered from rows it holds.

A worker asks after every epoch, most of the time about one of thousands of trials. So what has been reported is read
once, what ended since is added, and a median is taken once for an epoch; the decisions are Optuna's.
"""

import copy
import math
import time
from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, cast

import numpy as np
import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import HyperbandPruner
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from hpo.storage.optuna_storage import CachedHpoStorage
from hpo.storage.slots import Slot
from hpo.storage.studies import StudyRow
from hpo.study.search_view import SearchView
from hpo.study.spec import StudySpec

_REMEMBERED = 1_000  # trials: more than a worker has lanes
ReportedValues = Mapping[int, float]  # what a trial has reported so far, by epoch; not empty


class Stopping(Protocol):
    """Stops poor trials of one study."""

    @property
    def first(self) -> float:
        """The first epoch at which it may."""

    def poor(self, asked: Sequence[tuple[Slot, ReportedValues]], max_age: float) -> list[Slot]:
        """Those that should stop; what others have reported is not read again within `max_age` seconds."""


class _Never:
    first = math.inf

    def poor(self, asked: Sequence[tuple[Slot, ReportedValues]], max_age: float) -> list[Slot]:
        return []


class _Median:
    """A trial stops whose best value is worse than the median of the complete trials at its last epoch.

    As optuna.pruners.MedianPruner decides, which goes through all trials each time.
    """

    def __init__(self, storage: CachedHpoStorage, row: StudyRow, spec: StudySpec) -> None:
        self.first = spec.warmup_epochs
        self._storage, self._study_id = storage, row.search_study_id
        self._sign = 1 if spec.metric.maximize else -1
        self._least = max(1, spec.sampler.startup_trials)  # complete trials
        self._held: set[int] = set()  # the complete trials whose curves are held
        self._by_epoch: dict[int, array[float]] = defaultdict(lambda: array("d"))
        self._medians: dict[int, float] = {}  # by epoch, as far as they have been asked for
        self._read_at = -math.inf

    def poor(self, asked: Sequence[tuple[Slot, ReportedValues]], max_age: float) -> list[Slot]:
        if time.monotonic() - self._read_at >= max_age:
            self._read()
            self._read_at = time.monotonic()
        if len(self._held) < self._least:
            return []
        return [slot for slot, curve in asked if self._is_poor(curve)]

    def _read(self) -> None:
        complete = self._storage.get_all_trials(self._study_id, deepcopy=False, states=(TrialState.COMPLETE,))
        new = {trial._trial_id for trial in complete} - self._held
        for _, epoch, value in self._storage.curves(self._study_id, new) if new else ():
            self._by_epoch[epoch].append(value)
            self._medians.pop(epoch, None)
        self._held |= new

    def _is_poor(self, curve: ReportedValues) -> bool:
        numbers = [self._sign * value for value in curve.values() if not math.isnan(value)]
        if not numbers:
            return True
        return max(numbers) < self._sign * self._median(max(curve))  # nothing is worse than NaN

    def _median(self, epoch: int) -> float:
        """NaN where no complete trial has reported a number at this epoch."""
        if epoch not in self._medians:
            values = np.array(self._by_epoch[epoch])
            values = values[~np.isnan(values)]
            self._medians[epoch] = float(np.percentile(values, 50)) if values.size else math.nan
        return self._medians[epoch]


class _Hyperband:
    """Optuna's HyperbandPruner, which looks at other trials, and notes something at its own, where a rung ends."""

    def __init__(self, storage: CachedHpoStorage, row: StudyRow, spec: StudySpec) -> None:
        self.first = spec.min_resource_epochs
        self._storage, self._row = storage, row
        self._pruner = HyperbandPruner(
            min_resource=spec.min_resource_epochs,
            max_resource=spec.steps,
            reduction_factor=spec.pruner.reduction_factor,
        )
        self._asked: dict[str | None, FrozenTrial] = {}  # by lease, as they were when asked about; the latest last

    def poor(self, asked: Sequence[tuple[Slot, ReportedValues]], max_age: float) -> list[Slot]:
        seen = _Noted(self._storage, self._row)
        study = optuna.load_study(
            study_name=self._row.name,
            storage=cast("BaseStorage", seen),
            sampler=RandomSampler(seed=0),
            pruner=self._pruner,
        )
        poor = []
        for slot, curve in asked:
            trial = self._trial(slot, curve)
            # Where this worker was frozen and another has finished the slot, the lease is lost.
            with suppress(UpdateFinishedTrialError):
                if self._pruner.prune(optuna.pruners._filter_study(study, trial), trial):
                    poor.append(slot)
            seen.keep_notes(trial)
        return poor

    def _trial(self, slot: Slot, curve: ReportedValues) -> FrozenTrial:
        """A slot's trial as it is here: its last values may not be stored yet."""
        assert slot.trial_id is not None
        trial = self._asked.pop(slot.token, None) or copy.copy(self._storage.get_trial(slot.trial_id))
        trial.intermediate_values = dict(curve)
        self._asked[slot.token] = trial
        while len(self._asked) > _REMEMBERED:
            del self._asked[next(iter(self._asked))]
        return trial


class _Noted(SearchView):
    """Trials read once for all that are asked about together; each sees the notes of those before it."""

    def __init__(self, storage: CachedHpoStorage, row: StudyRow) -> None:
        super().__init__(storage, row)
        self._notes: dict[str, Any] = {}  # of the trial in question

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Hyperband's notes, for other workers too."""
        self.storage.set_trial_system_attr(trial_id, key, value)
        self._notes[key] = value

    def keep_notes(self, trial: FrozenTrial) -> None:
        """The next trial that is asked about sees what was noted at this one."""
        if self._notes:
            trial.system_attrs = trial.system_attrs | self._notes
            self.trials[trial._trial_id] = trial
            self._notes = {}


def pruner_of(storage: CachedHpoStorage, row: StudyRow, spec: StudySpec) -> Stopping:
    """What the spec asks for."""
    if spec.pruner.name == "median":
        return _Median(storage, row, spec)
    if spec.pruner.name == "hyperband":
        return _Hyperband(storage, row, spec)
    return _Never()
