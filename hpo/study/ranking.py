"""The ranking of the confirm phase: it chooses the tuned configuration, and the report shows it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from statistics import fmean

from hpo.study.labels import PAPER


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmRound:
    """One round of one configuration."""

    label: str  # "paper" or "trial N"
    params: Mapping[str, float]
    value: float | None  # validation accuracy, chance where the round diverged; None: not done
    loss: float | None  # validation loss; None where it was not finite
    failed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmResult:
    """All rounds of one configuration."""

    label: str  # "paper" or "trial N"
    params: Mapping[str, float]
    values: tuple[float, ...]  # validation accuracies of the rounds done, in the order given
    mean: float | None  # of the values; None before the first
    loss: float  # mean validation loss, which breaks ties; infinite before the first round
    rounds: int  # asked for
    failed: int  # rounds that failed: one drops the configuration

    @property
    def whole(self) -> bool:
        """Whether every round is done, so that the configuration may win."""
        return len(self.values) == self.rounds


def ranking(rounds: Iterable[ConfirmRound]) -> list[ConfirmResult]:
    """Configurations by mean validation accuracy, best first; those that may not win come last.

    Ties go to the lower loss, then to the paper's configuration.
    """
    by_label: dict[str, list[ConfirmRound]] = {}
    for confirm_round in rounds:
        by_label.setdefault(confirm_round.label, []).append(confirm_round)
    return sorted((_result(label, group) for label, group in by_label.items()), key=_rank)


def _result(label: str, rounds: list[ConfirmRound]) -> ConfirmResult:
    done = [(r.value, inf if r.loss is None else r.loss) for r in rounds if r.value is not None]
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


def _rank(result: ConfirmResult) -> tuple[bool, float, float, bool, str]:
    mean = -1.0 if result.mean is None else result.mean
    return not result.whole, -mean, result.loss, result.label != PAPER, result.label
