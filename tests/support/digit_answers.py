"""Answers of the digits' test pairs made by hand, as each part of the report sees them. E: test pairs of a round."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpo.analysis.items import ItemScores, ScoredRound, ScoredRounds, item_scores_of
from hpo.digits.answers import RoundAnswers
from hpo.experiment.view import View
from hpo.report.views import view_of
from hpo.results.records import StudyResult

UNITS = "images"
ByLabel = Mapping[str, Mapping[int, RoundAnswers]]  # label -> round number -> answers


def answers(
    number: int, images: ArrayLike, digits: ArrayLike, correct: ArrayLike, said: ArrayLike | None = None
) -> RoundAnswers:
    """A round over these images (E, 2) of these digits (E, 2), right or wrong (E,), which names digits (E, 2)."""
    true = np.asarray(digits)
    return RoundAnswers(
        round=number,
        slot=number,
        opened=True,
        images=np.asarray(images),
        digits=true,
        correct=np.asarray(correct),
        said=true if said is None else np.asarray(said),
    )


def scored(rounds: Mapping[int, RoundAnswers]) -> ScoredRounds:
    """The answers as scores of test items: right or wrong, of two images each."""
    return {
        r: ScoredRound(scores=one.correct.astype(np.float64), units=one.images.astype(np.int64))
        for r, one in rounds.items()
    }


def columns(by_label: ByLabel) -> dict[tuple[str, int], Mapping[str, NDArray[Any]]]:
    """As the report reads them from the database."""
    return {
        (label, number): {
            "accuracy": one.correct.astype(np.float64),
            "unit": one.images,
            "digits": one.digits,
            "named": one.said,
        }
        for label, of_label in by_label.items()
        for number, one in of_label.items()
    }


def item_scores(result: StudyResult, by_label: ByLabel) -> ItemScores:
    """The scores of a study's test pairs; none where there are no answers."""
    none = ItemScores(by_label={}, fingerprints={}, units=UNITS)
    return item_scores_of(result, columns(by_label), units=UNITS) or none


def view(results: Sequence[StudyResult], by_study: Mapping[int, ByLabel]) -> View:
    """What the digits' sections see."""
    return view_of("digits", results, {id: columns(by_label) for id, by_label in by_study.items()})
