"""The ranking of the confirm phase, as the phases use it and the report shows it."""

from math import inf

from hpo.study.ranking import ConfirmRound, ranking
from hpo.study.spec import builtin_spec

SPEC = builtin_spec("ws")


def rounds(label: str, *values: float | None, loss: float | None = 0.5, failed: bool = False) -> list[ConfirmRound]:
    return [ConfirmRound(label=label, params={}, value=value, loss=loss, failed=failed) for value in values]


def labels(*groups: list[ConfirmRound]) -> list[str]:
    return [result.label for result in ranking((r for group in groups for r in group), SPEC, reference="paper")]


def test_the_best_mean_comes_first() -> None:
    assert labels(rounds("trial 1", 0.8, 0.9), rounds("trial 2", 0.9, 0.9)) == ["trial 2", "trial 1"]


def test_ties_go_to_the_lower_loss_and_then_to_the_papers() -> None:
    lower = rounds("trial 2", 0.9, loss=0.4)
    assert labels(rounds("trial 1", 0.9), rounds("paper", 0.9), lower) == ["trial 2", "paper", "trial 1"]


def test_what_may_not_win_comes_last() -> None:
    """A round that failed or is still to come keeps even the best mean behind every whole configuration."""
    failed = rounds("trial 1", 0.99) + rounds("trial 1", None, failed=True)
    results = ranking(failed + rounds("trial 2", None, None) + rounds("paper", 0.5, 0.5), SPEC, reference="paper")
    assert [(r.label, r.whole, r.mean, r.failed) for r in results] == [
        ("paper", True, 0.5, 0),
        ("trial 1", False, 0.99, 1),
        ("trial 2", False, None, 0),
    ]
    assert results[-1].loss == inf


def test_a_loss_that_was_not_finite_loses_a_tie() -> None:
    assert labels(rounds("paper", 0.9, loss=None), rounds("trial 1", 0.9)) == ["trial 1", "paper"]
