"""Tuning: what the search chose, how that holds up on other draws and on test items, and what it cost.

Values are in the unit of the metric (accuracies are fractions), durations seconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Literal

from hpo.analysis import stats
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Float, Hyperparameter, Int, Value
from hpo.results.records import StudyResult, TrainingRecord, mean
from hpo.study.labels import TUNED
from hpo.study.ranking import trial_label


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter:
    """One hyperparameter: its range, and the values chosen; a value that is not known, or inactive, is None."""

    name: str
    low: float | None  # of a range of numbers; None for a choice
    high: float | None
    log: bool
    range: str  # in words
    reference: Value | None
    best: Value | None  # of the search's best trial
    tuned: Value | None  # of the configuration that won the confirm phase


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One configuration through the phases: each value is measured on fresher data than the one before."""

    label: str  # the reference's, or "tuned"
    search: float | None  # of the one search trial, on validation items
    confirm: float | None  # mean on validation items over fresh seeds and draws from pool A
    test: float | None  # mean on test items of pool B
    sign: int = 1  # of the metric

    @property
    def optimism(self) -> float | None:
        """By how much the search was too favourable: its value minus the confirmed one, as an improvement."""
        if self.search is None or self.confirm is None:
            return None
        return self.sign * (self.search - self.confirm)


@dataclass(frozen=True, kw_only=True, slots=True)
class Confirmed:
    """One configuration that was confirmed; a lead is by how much it is better than the reference."""

    label: str  # the reference's, or "trial N"
    is_best: bool  # whether it is the search's best trial
    rounds: int
    search: float | None  # of its one search trial
    confirm: float
    confirm_error: float | None  # standard error of that mean
    search_lead: float | None
    confirm_lead: float | None  # over the rounds that both have
    confirm_lead_error: float | None

    @property
    def lost(self) -> float | None:
        """How much of its lead fresh draws took: what the search's one draw gave to both of them cancels."""
        return None if self.search_lead is None or self.confirm_lead is None else self.search_lead - self.confirm_lead


@dataclass(frozen=True, kw_only=True, slots=True)
class Overtuning:
    """Whether the search went on to what is worse: its incumbents by the confirm phase (Schneider et al., 2025)."""

    incumbents: int  # configurations that were the best so far, in the order in which their trials finished
    confirmed: int  # of these
    last: str  # the search's best: the reference's label, or "trial N"
    best: str  # that of the confirmed incumbents which the confirm phase found the best
    lost: float  # by how much `best` is better in confirm than `last`, round by round: 0 where the last is the best
    lost_error: float | None  # standard error of that mean
    p: float  # of the sign-flip test of "nothing was lost", times the incumbents of which the best was taken

    @property
    def is_clear(self) -> bool:
        """Whether something was lost beyond the luck of the confirm phase's rounds."""
        return self.lost > 0 and self.p < 1 - stats.LEVEL


@dataclass(frozen=True, kw_only=True, slots=True)
class Spend:
    """What one phase cost, without failed and lost attempts, whose durations are unknown."""

    phase: Literal["search", "confirm", "final"]
    runs: int  # with an outcome
    epochs: int  # trained in them
    seconds: float  # of a lane: lanes of one device run side by side
    device_seconds: Mapping[str, float]  # the devices' own, by kind of device ("cpu", "cuda")
    untimed: int  # runs without them, made by a version that did not measure them


@dataclass(frozen=True, kw_only=True, slots=True)
class Reported:
    """What the trainings of one configuration's final rounds were like, unjudged: means over the rounds that say so."""

    label: str
    rounds: int
    seconds: float | None  # in the training function
    memory: float | None  # bytes that its process had at the training's end
    numbers: Mapping[str, float]  # the last that were reported, by name


@dataclass(frozen=True, kw_only=True, slots=True)
class Tuning:
    """What tuning did to one model."""

    study: str
    experiment: str
    model: str
    metric: MetricInfo
    reference_label: str
    trials: int  # of the search; 0: nothing is searched
    failed: int  # of these
    is_inconclusive: bool  # too many failed for conclusions
    source: str | int | None  # of the tuned configuration; None before confirmation
    parameters: tuple[Parameter, ...]
    stages: tuple[Stage, ...]  # the reference's, then the tuned one where it differs
    confirmed: tuple[Confirmed, ...]  # the best of the confirm phase first
    overtuning: Overtuning | None  # None: the search's best has not been confirmed
    spend: tuple[Spend, ...]  # search, confirm, final
    by_user: bool = False  # whether the user's code trained, in processes of its own
    reported: tuple[Reported, ...] = ()  # by configuration; empty where hpo's own code trained


def tuning_of(result: StudyResult) -> Tuning:
    """What tuning did, as far as is known."""
    return Tuning(
        study=result.name,
        experiment=result.experiment,
        model=result.model,
        metric=result.metric,
        reference_label=result.reference_label,
        trials=result.trials.total,
        failed=result.trials.failed,
        is_inconclusive=result.is_inconclusive,
        source=None if result.tuned is None else result.tuned.source,
        parameters=tuple(_parameters(result)),
        stages=tuple(_stages(result)),
        confirmed=tuple(_confirmed(result)),
        overtuning=_overtuning(result),
        spend=tuple(_spend(result)),
        by_user=not result.is_shipped,
        reported=() if result.is_shipped else tuple(_reported(result)),
    )


def _parameters(result: StudyResult) -> Iterable[Parameter]:
    best: Mapping[str, Value] = {} if result.best is None else result.best.params
    tuned: Mapping[str, Value] = {} if result.tuned is None else result.tuned.params
    for name, parameter in result.spec.parsed_space.parameters.items():
        low, high, log = _bounds(parameter)
        yield Parameter(
            name=name,
            low=low,
            high=high,
            log=log,
            range=str(parameter),
            reference=result.spec.reference.get(name),
            best=best.get(name),
            tuned=tuned.get(name),
        )


def _bounds(parameter: Hyperparameter) -> tuple[float | None, float | None, bool]:
    if isinstance(parameter, Float | Int):
        return parameter.low, parameter.high, parameter.log
    return None, None, False


def _stages(result: StudyResult) -> Iterable[Stage]:
    reference, sign = result.reference_label, result.metric.sign
    confirmed = {ranked.label: ranked.mean for ranked in result.ranking if ranked.whole}
    by_number = {run.number: run.value for run in result.search if run.state == "complete"}
    first = next((run.value for run in result.search if run.idx == 0 and run.state == "complete"), None)
    yield Stage(
        label=reference, search=first, confirm=confirmed.get(reference), test=_test(result, reference), sign=sign
    )
    if result.tuned is not None and result.tuned.source != reference:
        yield Stage(
            label=TUNED,
            search=by_number.get(int(result.tuned.source)),
            confirm=result.tuned.confirm_mean,
            test=_test(result, TUNED),
            sign=sign,
        )
    elif result.tuned is None and result.final_of(TUNED) is not None:  # found in another study, measured here
        yield Stage(label=TUNED, search=None, confirm=None, test=_test(result, TUNED), sign=sign)


def _confirmed(result: StudyResult) -> Iterable[Confirmed]:
    label, metric = result.reference_label, result.metric
    complete = [run for run in result.search if run.state == "complete"]
    searched = {label if run.idx == 0 else trial_label(run.number): run.value for run in complete}
    whole = [ranked for ranked in result.ranking if ranked.whole]
    reference = next((ranked for ranked in whole if ranked.label == label), None)
    for ranked in whole:
        search, lead, over_rounds = searched.get(ranked.label), None, []
        if reference is not None and ranked is not reference:
            given = searched.get(label)
            lead = None if search is None or given is None else float(metric.improvement(search, given))
            pairs = zip(ranked.values, reference.values, strict=False)
            over_rounds = [float(metric.improvement(a, b)) for a, b in pairs]
        yield Confirmed(
            label=ranked.label,
            is_best=result.best is not None and ranked.label == trial_label(result.best.number),
            rounds=ranked.rounds,
            search=search,
            confirm=fmean(ranked.values),
            confirm_error=_error(ranked.values),
            search_lead=lead,
            confirm_lead=fmean(over_rounds) if over_rounds else None,
            confirm_lead_error=_error(over_rounds),
        )


def _overtuning(result: StudyResult) -> Overtuning | None:
    metric, confirmed = result.metric, {ranked.label: ranked for ranked in result.ranking if ranked.whole}
    incumbents: list[str] = []
    best: float | None = None
    for run in sorted(result.search, key=lambda run: (run.finished_at or 0.0, run.idx)):
        if run.state != "complete" or run.value is None:
            continue
        if best is None or metric.sign * run.value > metric.sign * best:
            best = run.value
            incumbents.append(result.reference_label if run.idx == 0 else trial_label(run.number))
    known = [label for label in incumbents if label in confirmed]
    if not known or known[-1] != incumbents[-1]:
        return None
    last = confirmed[known[-1]]
    ahead = {
        label: [float(metric.improvement(a, b)) for a, b in zip(confirmed[label].values, last.values, strict=False)]
        for label in known
    }
    by_confirm = max(reversed(known), key=lambda label: fmean(ahead[label]))  # of equals the last
    lost = ahead[by_confirm]
    others = len(known) - 1
    return Overtuning(
        incumbents=len(incumbents),
        confirmed=len(known),
        last=last.label,
        best=by_confirm,
        lost=fmean(lost),
        lost_error=_error(lost),
        p=min(1.0, others * stats.sign_flip_test(lost).p) if by_confirm != last.label else 1.0,
    )


def _error(values: Sequence[float]) -> float | None:
    """The standard error of their mean."""
    return stdev(values) / len(values) ** 0.5 if len(values) > 1 else None


def _test(result: StudyResult, label: str) -> float | None:
    final = result.final_of(label)
    return None if final is None else final.test_mean


def _reported(result: StudyResult) -> Iterable[Reported]:
    for final in result.final:
        rounds = [run for run in result.final_runs if run.label == final.label and run.done]
        if not rounds:  # those of the reference, which won
            continue
        names = dict.fromkeys(name for run in rounds for name in sorted(run.numbers))
        means = {name: mean(run.numbers.get(name) for run in rounds) for name in names}
        yield Reported(
            label=final.label,
            rounds=len(rounds),
            seconds=mean(run.device_seconds for run in rounds),
            memory=mean(run.memory for run in rounds),
            numbers={name: value for name, value in means.items() if value is not None},
        )


def _spend(result: StudyResult) -> Iterable[Spend]:
    phases: tuple[tuple[Literal["search", "confirm", "final"], tuple[TrainingRecord, ...]], ...] = (
        ("search", result.search),
        ("confirm", result.confirm),
        ("final", result.final_runs),
    )
    for phase, runs in phases:
        done = [run for run in runs if run.done]
        yield Spend(
            phase=phase,
            runs=len(done),
            epochs=sum(run.epochs for run in done),
            seconds=sum(run.seconds or 0.0 for run in done),
            device_seconds=_by_device(done),
            untimed=sum(run.device_seconds is None for run in done),
        )


def _by_device(done: Iterable[TrainingRecord]) -> dict[str, float]:
    """Seconds by kind of device, the beginning of its name: "cpu x86_64, ...", "cuda:0 NVIDIA ..."."""
    seconds: dict[str, float] = {}
    for run in done:
        if run.device_seconds is not None:
            kind = (run.device or "cpu").split()[0].partition(":")[0]
            seconds[kind] = seconds.get(kind, 0.0) + run.device_seconds
    return seconds
