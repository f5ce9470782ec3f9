"""The rankings of trials and of the confirm phase: they choose the tuned configuration, and the report shows them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from statistics import fmean

from hpo.experiment.spaces import Value
from hpo.study.study_spec import StudySpec

_NUMBERED = "trial "  # begins the label of a search's trial


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmRound:
    """One round of one configuration."""

    label: str  # the reference's, or "trial N"
    params: Mapping[str, Value]
    value: float | None  # of the first metric on validation items, where it diverged as that says; None: not done
    loss: float | None  # of the second metric; None where it is not known
    failed: bool
    diverged: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmResult:
    """All rounds of one configuration."""

    label: str  # the reference's, or "trial N"
    params: Mapping[str, Value]
    values: tuple[float, ...]  # of the first metric on validation items, of the rounds done, in the order given
    mean: float | None  # of the values; None before the first
    loss: float  # mean of the second metric, which breaks ties; where one is not known, the worst that there is
    rounds: int  # asked for
    failed: int  # rounds that failed: one drops the configuration

    @property
    def whole(self) -> bool:
        """Whether every round is done, so that the configuration may win."""
        return len(self.values) == self.rounds


def trial_label(number: int | None) -> str:
    """The label of a search's trial in the confirm phase."""
    return f"{_NUMBERED}{number}"


def trial_number(label: str) -> int:
    """The number in such a label."""
    return int(label.removeprefix(_NUMBERED))


def order(spec: StudySpec, value: float | None, second: float | None) -> tuple[float, float]:
    """What sorts results best first: by the first metric, ties by the second, each in its direction.

    What is not known comes last.
    """
    tie = spec.tie_breaker
    return (
        inf if value is None else -spec.metric.sign * value,
        inf if second is None or tie is None else -tie.sign * second,
    )


def ranking(rounds: Iterable[ConfirmRound], spec: StudySpec, *, reference: str) -> list[ConfirmResult]:
    """Configurations by their mean, best first; those that may not win come last.

    Ties go to the better second metric, then to the configuration labelled `reference`, then to the trial with the
    lower number.
    """
    by_label: dict[str, list[ConfirmRound]] = {}
    for confirm_round in rounds:
        by_label.setdefault(confirm_round.label, []).append(confirm_round)
    results = [_result(label, group, spec) for label, group in by_label.items()]
    return sorted(results, key=lambda result: _rank(result, spec, reference))


def _result(label: str, rounds: list[ConfirmRound], spec: StudySpec) -> ConfirmResult:
    dropped = [r.failed or (r.diverged and spec.diverged_drops) for r in rounds]
    done = [r for r, drop in zip(rounds, dropped, strict=True) if r.value is not None and not drop]
    values = tuple(r.value for r in done if r.value is not None)
    worst = inf if spec.tie_breaker is None else spec.tie_breaker.worst
    return ConfirmResult(
        label=label,
        params=rounds[0].params,
        values=values,
        mean=fmean(values) if values else None,
        loss=fmean(worst if r.loss is None else r.loss for r in done) if done else worst,
        rounds=len(rounds),
        failed=sum(dropped),
    )


def _rank(result: ConfirmResult, spec: StudySpec, reference: str) -> tuple[object, ...]:
    number = trial_number(result.label) if result.label.startswith(_NUMBERED) else -1
    is_reference = result.label == reference
    return not result.whole, *order(spec, result.mean, result.loss), not is_reference, number, result.label
