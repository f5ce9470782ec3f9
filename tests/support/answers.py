"""Answers on pairs of digits as the scores of test items, and as what sections see of a study."""

from collections.abc import Mapping, Sequence

import numpy as np

from hpo.analysis import items
from hpo.analysis.items import ItemScores, ScoredRound, ScoredRounds
from hpo.analysis.stats import LEVEL, Interval
from hpo.digits.answers import AnswerColumns, RoundAnswers
from hpo.study.digits_spec import METRICS

AnswersByRound = Mapping[int, RoundAnswers]


def scored(rounds: AnswersByRound) -> ScoredRounds:
    """Right or wrong, of two images each."""
    return {r: ScoredRound(scores=a.correct.astype(np.float64), units=a.images) for r, a in rounds.items()}


def item_scores(by_label: Mapping[str, AnswersByRound]) -> ItemScores:
    """A study's."""
    by_item = {label: scored(rounds) for label, rounds in by_label.items()}
    return ItemScores(by_label=by_item, fingerprints={})


def columns_of(answers: RoundAnswers) -> AnswerColumns:
    """As a final round's columns."""
    right = answers.correct.astype(np.float64)
    return {"accuracy": right, "unit": answers.images, "digits": answers.digits, "named": answers.said}


def new_image_intervals(
    sides: Sequence[tuple[AnswersByRound, AnswersByRound]], level: float = LEVEL
) -> list[Interval | None]:
    """Intervals of the mean differences a - b for new seeds and new images."""
    by_item = [(scored(a), scored(b)) for a, b in sides]
    expected = items.for_new_items(by_item, METRICS[0], level)
    return [None if it is None else it.interval for it in expected]
