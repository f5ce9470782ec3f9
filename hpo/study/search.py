"""How a study searches: the one module that knows Optuna's samplers, pruners, ask and tell.

The slot is the truth and Optuna's trial its projection: any worker may call `Search.tell`, any number of times, for a
slot that is finished but not yet told.
"""

import math
import warnings
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import FrozenTrial, TrialState, create_trial

from hpo.storage.outcome import Outcome
from hpo.storage.slots import Slot
from hpo.storage.studies import StudyRow
from hpo.study.spec import HYPERPARAMETERS, StudySpec, spec_of
from hpo.training.seeds import derive

CHANCE = 0.5  # the validation accuracy that Optuna is told for a diverged trial

optuna.logging.set_verbosity(optuna.logging.WARNING)


def distributions(spec: StudySpec) -> dict[str, BaseDistribution]:
    """The joint search space as Optuna has it, in the order of the model's table."""
    return {
        name: FloatDistribution(spec.space[name].low, spec.space[name].high, log=spec.space[name].log)
        for name in HYPERPARAMETERS[spec.model]
    }


def fixed_trial(spec: StudySpec, params: Mapping[str, float], label: str, round_number: int) -> FrozenTrial:
    """The running trial of one round of a fixed configuration, inside the space or not."""
    space: dict[str, BaseDistribution] = {}
    beyond: dict[str, float] = {}  # a log scale cannot hold 0, and a study's scales must not change
    for name, d in distributions(spec).items():
        assert isinstance(d, FloatDistribution)
        value = params[name]
        if d.log and value <= 0:
            beyond[name] = value
        else:
            space[name] = FloatDistribution(min(d.low, value), max(d.high, value), log=d.log)
    return create_trial(
        state=TrialState.RUNNING,
        params={name: params[name] for name in space},
        distributions=space,
        user_attrs={"configuration": label, "round": round_number, **beyond},
    )


def template_of(spec: StudySpec, slot: Slot) -> FrozenTrial | None:
    """What a new trial of the slot is made from; None where the sampler is still to propose its parameters."""
    params = slot.params
    if slot.kind != "search":
        return fixed_trial(spec, params or {}, slot.label or "", slot.round or 0)
    if params is None:
        return None
    # Proposed once; its first trial failed, and the slot was queued again.
    return create_trial(state=TrialState.RUNNING, system_attrs={"fixed_params": dict(params)})


class _StartUp(BaseSampler):
    """Draws each parameter independently, so that one stored by an attempt that crashed does not shift the others."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: Any, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        return {}

    def sample_independent(self, study: Any, trial: FrozenTrial, name: str, distribution: BaseDistribution) -> Any:
        sampler = RandomSampler(seed=derive(self._slot.seed, "sampler", name) % 2**32)
        return sampler.sample_independent(study, trial, name, distribution)


def _seed(slot: Slot) -> int:
    return derive(slot.seed, "sampler") % 2**32


def _sampler(spec: StudySpec, slot: Slot) -> BaseSampler:
    """The slot's sampler: random for the start-up slots, seeded by the slot alone.

    A common seed would give every worker the same start-up points.
    """
    if not slot.adaptive:
        return _StartUp(slot)
    few = max(1, min(spec.sampler.startup_trials, 10))  # finished trials a model needs before it is asked
    if spec.sampler.name == "gp":
        return GPSampler(seed=_seed(slot), n_startup_trials=few)
    return TPESampler(seed=_seed(slot), n_startup_trials=few)


def _pruner(spec: StudySpec) -> BasePruner:
    if spec.pruner.name == "median":
        return MedianPruner(n_startup_trials=spec.sampler.startup_trials, n_warmup_steps=spec.warmup_epochs)
    if spec.pruner.name == "hyperband":
        return HyperbandPruner(
            min_resource=spec.min_resource_epochs,
            max_resource=spec.budget.epochs,
            reduction_factor=spec.pruner.reduction_factor,
        )
    return NopPruner()


def _first_pruned(spec: StudySpec) -> float:
    """The first epoch at which the pruner may stop a trial."""
    first = {"median": spec.warmup_epochs, "hyperband": spec.min_resource_epochs, "none": math.inf}
    return first[spec.pruner.name]


class Search:
    """A study of hpo as Optuna sees it."""

    def __init__(self, storage: BaseStorage, row: StudyRow) -> None:
        self.row, self.spec = row, spec_of(row)
        self._storage = storage
        self._space = distributions(self.spec)
        self._pruner = _pruner(self.spec)
        self._first_pruned = _first_pruned(self.spec)

    def _study(self, slot: Slot, sampler: BaseSampler | None = None) -> optuna.Study:
        suffix = "" if slot.kind == "search" else f":{slot.kind}"
        return optuna.load_study(
            study_name=self.row.name + suffix,
            storage=self._storage,
            sampler=sampler or RandomSampler(seed=0),
            pruner=self._pruner if slot.kind == "search" else NopPruner(),
        )

    def ask(self, slot: Slot) -> dict[str, float]:
        """The parameters of a bound search slot's trial: proposed now, or those that it has already."""
        assert slot.trial_id is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a paper's value outside the space is allowed, and kept
            trial = optuna.Trial(self._study(slot, _sampler(self.spec, slot)), slot.trial_id)
            return {name: float(trial._suggest(name, space)) for name, space in self._space.items()}

    def should_prune(self, slot: Slot, epoch: int) -> bool:
        """Whether the values that a search slot's trial has stored up to an epoch are so poor that it should stop."""
        if slot.kind != "search" or slot.idx < self.spec.sampler.startup_trials or slot.trial_id is None:
            return False
        if epoch < self._first_pruned:  # the pruner would decide the same, but only after reading all trials
            return False
        study = self._study(slot)
        trial = self._storage.get_trial(slot.trial_id)
        with suppress(
            UpdateFinishedTrialError
        ):  # this worker was frozen and another has finished the slot: the lease is lost
            return self._pruner.prune(optuna.pruners._filter_study(study, trial), trial)
        return False

    def tell(self, slot: Slot) -> None:
        """Project a finished slot on its Optuna trial: attributes first, then the state; repeatable."""
        if slot.trial_id is None:
            return
        frozen = self._storage.get_trial(slot.trial_id)
        if frozen.state.is_finished():
            return
        with suppress(UpdateFinishedTrialError):  # another worker told it at the same time
            if frozen.state == TrialState.WAITING:  # the slot failed before its trial ever ran
                self._storage.set_trial_state_values(slot.trial_id, TrialState.RUNNING)
            self._tell(slot, slot.trial_id, frozen)

    def _tell(self, slot: Slot, trial_id: int, frozen: FrozenTrial) -> None:
        number, outcome = frozen.number, slot.outcome
        for epoch, value in ({} if outcome is None else _values(outcome)).items():
            if epoch not in frozen.intermediate_values:
                self._storage.set_trial_intermediate_value(trial_id, epoch, value)
        for name, value in (_error(slot) if outcome is None else _attributes(outcome)).items():
            self._storage.set_trial_user_attr(trial_id, name, value)
        study = self._study(slot)
        if outcome is None:  # the slot failed
            study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
            return
        diverged = outcome.state == "diverged"
        # As Trial.set_constraint does, which warns where a teller that broke off has set it already.
        self._storage.set_trial_system_attr(trial_id, f"{_CONSTRAINTS_KEY}:diverged", 1.0 if diverged else 0.0)
        if outcome.state == "pruned":
            study.tell(number, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            study.tell(number, outcome.value, skip_if_finished=True)


def _values(outcome: Outcome) -> dict[int, float]:
    """The values of a trial by epoch; the epoch in which it diverged has none.

    A worker that dies may leave an epoch on disk (in a checkpoint, in a result) that it has not reported.
    """
    values = outcome.validation_accuracy
    shown = outcome.epochs - 1 if values and outcome.state == "diverged" else len(values)
    return dict(enumerate(values[:shown], start=1))


def _error(slot: Slot) -> dict[str, Any]:
    """The attributes of a failed slot's trial."""
    return {"error": (slot.error or "")[-2000:], "attempt": slot.attempt}


def _attributes(outcome: Outcome) -> dict[str, Any]:
    """What people look for in the dashboard, in few JSON attributes because each costs a write."""
    numbers = {"state", "loss", "train_accuracy", "epochs", "seconds", "attempt", "worker", "device"}
    record = {"seeds", "versions", "git_commit", "spec_digest", "data_digest"}
    return {
        "result": outcome.model_dump(mode="json", include=numbers),
        "train_accuracy": outcome.train_accuracy,
        "loss_curve": list(outcome.train_loss),
        "record": outcome.model_dump(mode="json", include=record),
    }
