"""The ranking of the confirm phase: it chooses the tuned configuration, and the report shows it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from statistics import fmean

from hpo.experiment.spaces import Value
from hpo.study.labels import PAPER


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmRound:
    """One round of one configuration."""

    label: str  # the reference's, or "trial N"
    params: Mapping[str, Value]
    value: float | None  # of the first metric, its value for that where the round diverged; None: not done
    loss: float | None  # of the second metric; None where it was not finite
    failed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmResult:
    """All rounds of one configuration."""

    label: str  # the reference's, or "trial N"
    params: Mapping[str, Value]
    values: tuple[float, ...]  # on validation items, of the rounds done, in the order given
    mean: float | None  # of the values; None before the first
    loss: float  # mean of the second metric, turned so that lower is better: breaks ties; infinite before the first
    rounds: int  # asked for
    failed: int  # rounds that failed: one drops the configuration

    @property
    def whole(self) -> bool:
        """Whether every round is done, so that the configuration may win."""
        return len(self.values) == self.rounds


def ranking(
    rounds: Iterable[ConfirmRound], *, sign: int = 1, loss_sign: int = -1, reference: str = PAPER
) -> list[ConfirmResult]:
    """Configurations by their mean on validation items, best first; those that may not win come last.

    Signs are those of the first and the second metric. Ties go to the better second metric, then to the reference.
    """
    by_label: dict[str, list[ConfirmRound]] = {}
    for confirm_round in rounds:
        by_label.setdefault(confirm_round.label, []).append(confirm_round)

    def rank(result: ConfirmResult) -> tuple[bool, float, float, bool, str]:
        mean = inf if result.mean is None else -sign * result.mean
        return not result.whole, mean, result.loss, result.label != reference, result.label

    return sorted((_result(label, group, loss_sign) for label, group in by_label.items()), key=rank)


def _result(label: str, rounds: list[ConfirmRound], loss_sign: int) -> ConfirmResult:
    done = [(r.value, inf if r.loss is None else -loss_sign * r.loss) for r in rounds if r.value is not None]
    values = tuple(value for value, _ in done)
    return ConfirmResult(
        label=label,
        params=rounds[0].params,
        values=values,
        mean=fmean(values) if values else None,
        loss=fmean(loss for _, loss in done) if done else inf,
        rounds=len(rounds),
        failed=sum(r.failed for r in rounds),
    )
