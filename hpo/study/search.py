"""How a study searches: the one module that knows Optuna's samplers, pruners, ask and tell.

The slot is the truth and Optuna's trial its projection: any worker may call `Search.tell`, any number of times, for a
slot that is finished but not yet told.
"""

import inspect
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from typing import Any, cast

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._constrained_optimization import _CONSTRAINTS_KEY
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection

from hpo.errors import LeaseLost, SpecError
from hpo.experiment.spaces import Choice, Float, Hyperparameter, Int, Space, Value
from hpo.storage import slots
from hpo.storage.optuna_storage import CachedHpoStorage
from hpo.storage.outcome import Outcome
from hpo.storage.slots import Slot
from hpo.storage.studies import StudyRow
from hpo.storage.trials import Proposal, TrialEnd, end_trial, write_proposal
from hpo.study.cma_es import SafeCmaEsSampler
from hpo.study.pruning import pruner_of
from hpo.study.search_view import SearchView
from hpo.study.spec import StudySpec, spec_of
from hpo.study.spec_errors import near, shown
from hpo.training.seeds import derive

optuna.logging.set_verbosity(optuna.logging.WARNING)


def distributions(spec: StudySpec) -> dict[str, BaseDistribution]:
    """The joint search space as Optuna has it, parents first; constants are not searched."""
    return {name: _distribution(parameter) for name, parameter in spec.parsed_space.parameters.items()}


def _distribution(parameter: Hyperparameter) -> BaseDistribution:
    match parameter:
        case Choice():
            return CategoricalDistribution(parameter.values)
        case Int():
            return IntDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)
        case Float():
            return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def fixed_trial(spec: StudySpec, params: Mapping[str, Value], label: str, round_number: int) -> FrozenTrial:
    """The running trial of one round of a fixed configuration, inside the space or not."""
    known = distributions(spec)
    holding = {name: _holding(known[name], value) for name, value in params.items() if name in known}
    space = {name: distribution for name, distribution in holding.items() if distribution is not None}
    beyond = {name: value for name, value in params.items() if name not in space}
    return create_trial(
        state=TrialState.RUNNING,
        params={name: params[name] for name in space},
        distributions=space,
        user_attrs={"configuration": label, "round": round_number, **beyond},
    )


def _holding(distribution: BaseDistribution, value: Value) -> BaseDistribution | None:
    """The distribution, widened so that it has the value; None where that is impossible.

    A logarithmic scale cannot hold 0, a study's scales must not change, and other choices would be another space.
    """
    if isinstance(distribution, CategoricalDistribution):
        return distribution if value in distribution.choices else None
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if not isinstance(value, int | float) or (distribution.log and value <= 0):
        return None
    low, high = min(distribution.low, value), max(distribution.high, value)
    if isinstance(distribution, FloatDistribution):
        return FloatDistribution(low, high, log=distribution.log)
    if not isinstance(value, int):
        return None
    step = math.gcd(distribution.step, value - distribution.low)
    return IntDistribution(int(low), int(high), log=distribution.log, step=step or 1)


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _adaptive_sampler(spec, _seed(slot))


def _adaptive_sampler(spec: StudySpec, seed: int) -> BaseSampler:
    few = max(1, min(spec.sampler.startup_trials, 10))  # finished trials a model needs before it is asked
    match spec.sampler.name:
        case "tpe" if _has_conditions(spec):
            return TPESampler(seed=seed, n_startup_trials=few, group=True)
        case "tpe":
            return TPESampler(seed=seed, n_startup_trials=few)
        case "gp":
            return GPSampler(seed=seed, n_startup_trials=few)
        case "cmaes":
            return SafeCmaEsSampler(seed=seed, n_startup_trials=few)
    kind: Callable[..., BaseSampler] = _OTHERS[spec.sampler.name]
    if kind is QMCSampler:  # its trials are places of one sequence
        return QMCSampler(seed=derive(spec.seed, "sampler") % 2**32, scramble=True)
    return kind(seed=seed)


def _has_conditions(spec: StudySpec) -> bool:
    return any(parameter.when for parameter in spec.parsed_space.parameters.values())


_KNOWN = ("tpe", "gp", "cmaes", "random")
_OTHERS: Mapping[str, Any] = {  # Optuna's others by their classes' names: "qmc" is QMCSampler
    name.removesuffix("Sampler").lower(): kind
    for name, kind in vars(optuna.samplers).items()
    if isinstance(kind, type) and issubclass(kind, BaseSampler) and not inspect.isabstract(kind)
    if kind not in (BaseSampler, TPESampler, GPSampler, CmaEsSampler, RandomSampler)
}


def check_sampler(spec: StudySpec) -> None:
    """Raise SpecError, which says why, where the sampler cannot search the space."""
    name = spec.sampler.name
    choices = any(isinstance(parameter, Choice) for parameter in spec.parsed_space.parameters.values())
    problem = None
    if name not in (*_KNOWN, *_OTHERS):
        there = ", ".join((*_KNOWN, *sorted(_OTHERS)))
        problem = f"there is none of this name; there are {there}{near(name, (*_KNOWN, *_OTHERS))}"
    elif name in ("gp", "cmaes") and _has_conditions(spec):
        problem = "it cannot search a space with conditions (`when`); take tpe or random"
    elif name == "cmaes" and choices:
        problem = "it cannot search a space with choices; take tpe, gp or random"
    elif name == "cmaes" and len(spec.parsed_space.parameters) == 1:
        problem = "it cannot search one hyperparameter alone; take tpe, gp or random"
    elif name == "cmaes" and find_spec("cmaes") is None:
        problem = "it needs the package cmaes, which is not installed: `pip install cmaes`"
    elif name in _OTHERS:
        problem = _tried(spec)
    if problem is not None:
        raise SpecError(f"study {spec.name}: sampler {shown(name)}: {problem}")


def _tried(spec: StudySpec) -> str | None:
    """What is wrong with one of Optuna's other samplers: told by letting it search the space in memory."""
    direction = StudyDirection.MAXIMIZE if spec.metric.maximize else StudyDirection.MINIMIZE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(sampler=_adaptive_sampler(spec, 1), direction=direction)
            for number in range(3):
                trial = study.ask()
                _suggest(trial, spec.parsed_space)
                study.tell(trial, float(number))
    except Exception as error:  # whatever Optuna, or a package that it needs, raises
        return f"it cannot search this space ({' '.join(str(error).split())[:200]}); take tpe or random"
    return None


def _suggest(trial: optuna.Trial, space: Space) -> dict[str, Value]:
    """The active parameters of a trial: proposed now, or those that it has already."""
    values: dict[str, Value] = {}
    for name, parameter in space.parameters.items():
        if space.is_active(name, values):
            value = trial._suggest(name, _distribution(parameter))
            values[name] = (
                value if isinstance(parameter, Choice) else int(value) if isinstance(parameter, Int) else float(value)
            )
    return values


class _Asking(SearchView):
    """What the sampler of one trial sees; what it writes at the trial is kept, to be stored in one."""

    def __init__(self, storage: CachedHpoStorage, row: StudyRow, trial_id: int, *, adaptive: bool) -> None:
        super().__init__(storage, row)
        there = self.trials[trial_id] if adaptive else storage.get_trial(trial_id)
        self._trial = deepcopy(there)
        self.proposal = Proposal()

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """The trial in question."""
        return self._trial

    def get_trial_system_attrs(self, trial_id: int) -> dict[str, Any]:
        """With what has been written by now."""
        return self._trial.system_attrs

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """To be stored."""
        self._trial.system_attrs[key] = self.proposal.system_attrs[key] = value

    def set_trial_param(self, trial_id: int, name: str, stored: float, distribution: BaseDistribution) -> None:
        """To be stored."""
        self.proposal.params[name] = stored, distribution


class Search:
    """A study of hpo as Optuna sees it."""

    def __init__(self, storage: CachedHpoStorage, row: StudyRow) -> None:
        self.row, self.spec = row, spec_of(row)
        self._storage = storage
        self._pruner = pruner_of(storage, row, self.spec)

    def ask(self, slot: Slot) -> dict[str, Value]:
        """The active parameters of a bound search slot's trial: proposed and stored now, or those that it has already.

        Raises LeaseLost where the slot is another's by then; nothing is stored then.
        """
        assert slot.trial_id is not None
        assert slot.token is not None
        seen = _Asking(self._storage, self.row, slot.trial_id, adaptive=slot.adaptive)
        study = optuna.load_study(
            study_name=self.row.name,
            storage=cast("BaseStorage", seen),
            sampler=_sampler(self.spec, slot),
            pruner=NopPruner(),  # a sampler learns from all of Hyperband's brackets
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a reference's value outside the space is kept, where it is allowed
            params = _suggest(optuna.Trial(study, slot.trial_id), self.spec.parsed_space)
        if slot.params is None or seen.proposal.params:
            written = partial(write_proposal, trial_id=slot.trial_id, proposal=seen.proposal)
            if not slots.record_params(self._storage.engine, slot.id, slot.token, params, written):
                raise LeaseLost(f"slot {slot.id}: the lease was lost before its training began")
        return params

    def to_prune(self, reached: Sequence[tuple[Slot, Mapping[int, float]]], *, max_age: float = 0.0) -> list[Slot]:
        """Those of the slots that should stop, each given with all values that its trial has reported, by epoch.

        What other trials have reported is not read again within `max_age` seconds.
        """
        asked = [(slot, curve) for slot, curve in reached if self._may_prune(slot, curve)]
        return self._pruner.poor(asked, max_age) if asked else []

    def _may_prune(self, slot: Slot, curve: Mapping[int, float]) -> bool:
        adaptive = slot.kind == "search" and slot.idx >= self.spec.sampler.startup_trials
        return adaptive and slot.trial_id is not None and max(curve, default=0) >= self._pruner.first

    def curve(self, slot: Slot) -> dict[int, float]:
        """What a search slot's trial has reported so far, by epoch, as far as it is stored."""
        if slot.trial_id is None or not slot.epoch:
            return {}
        return {epoch: value for _, epoch, value in self._storage.curves(self.row.search_study_id, [slot.trial_id])}

    def tell(self, slot: Slot) -> bool:
        """Project a slot that is done or has failed on its Optuna trial, and mark it told; all of it or nothing.

        False where the slot is told already or has moved on; then nothing is done.
        """
        ending = _ending(slot)

        def end(connection: Connection) -> None:
            if slot.trial_id is not None:
                end_trial(connection, slot.trial_id, ending)

        return slots.mark_told(self._storage.engine, slot, end)


def _ending(slot: Slot) -> TrialEnd:
    """How a slot's trial ends."""
    outcome = slot.outcome
    if outcome is None:  # the slot failed
        return TrialEnd(state=TrialState.FAIL, user_attrs=_error(slot))
    pruned = outcome.state == "pruned"
    return TrialEnd(
        state=TrialState.PRUNED if pruned else TrialState.COMPLETE,
        value=None if pruned else outcome.value,
        curve=curve_of(outcome),
        user_attrs=_attributes(outcome),
        # As Trial.set_constraint does.
        system_attrs={f"{_CONSTRAINTS_KEY}:diverged": 1.0 if outcome.state == "diverged" else 0.0},
    )


def curve_of(outcome: Outcome) -> dict[int, float]:
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
        **({"metrics": dict(outcome.metrics)} if outcome.metrics else {}),
        "train_accuracy": outcome.train_accuracy,
        "loss_curve": list(outcome.train_loss),
        "record": outcome.model_dump(mode="json", include=record),
    }
