"""Digits taken for others: counts, the way to the wrong answers, and who is asked at all."""

import numpy as np
import pytest

from hpo.digits import charts
from hpo.digits.answers import RoundAnswers
from hpo.digits.confusion import DigitConfusion, confusion_of, names_digits
from hpo.digits.sections import classification_sentences
from hpo.report.views import view_of
from tests.support.results import PARAMS, finals, run, study


def answered(number: int, pairs: list[tuple[tuple[int, int], tuple[int, int], bool]]) -> RoundAnswers:
    """A round from (true digits, named digits, right?) of every pair."""
    return RoundAnswers(
        round=number,
        slot=number,
        opened=True,
        images=np.arange(2 * len(pairs)).reshape(-1, 2),
        digits=np.array([digits for digits, _, _ in pairs]),
        said=np.array([said for _, said, _ in pairs]),
        correct=np.array([right for _, _, right in pairs]),
    )


@pytest.fixture
def actual() -> DigitConfusion:
    first = answered(0, [((4, 9), (4, 9), True), ((4, 4), (4, 9), True), ((4, 7), (9, 7), False)])
    second = answered(1, [((3, 5), (3, 5), False), ((8, 2), (2, 8), True), ((6, 1), (6, 1), True)])
    return confusion_of("s", "ws-aux", "tuned", [first, second])


def test_both_images_of_every_pair_are_counted(actual: DigitConfusion) -> None:
    assert (actual.pairs, actual.images, actual.right, actual.wrong) == (6, 12, 4, 2)
    assert actual.said[4] == (0, 0, 0, 0, 2, 0, 0, 0, 0, 2)
    assert (actual.said[9][9], actual.said[8][2], actual.said[2][8]) == (1, 1, 1)
    assert sum(map(sum, actual.said)) == 12
    assert actual.accuracy == 8 / 12
    assert actual.worst(2) == [(4, 9, 2, 0.5), (2, 8, 1, 1.0)]


def test_where_wrong_answers_come_from(actual: DigitConfusion) -> None:
    assert (actual.named, actual.misnamed) == (3, 3)
    assert actual.wrong_though_named == 1  # 3 and 5
    assert actual.right_though_misnamed == 2  # 4 and 4, named 4 and 9; 8 and 2, named the wrong way round
    assert actual.right_by_names == 4  # of 9 and 7, and of 2 and 8, the names' order is wrong
    text = "\n".join(classification_sentences(actual))
    assert (
        "s, tuned: 66.67% of 12 digits are classified correctly; the most frequent confusions are 4 as 9 (2 times, "
        "50.0% of the 4s), 2 as 8 (1 time, 100.0% of the 2s)" in text
    )
    assert "of 2 wrong answers, 1 (50%) came although both digits were classified correctly" in text
    assert "of 3 pairs with a misclassified digit, 2 (67%) were still answered correctly" in text
    assert (
        "Comparing the predicted digits would answer 66.67% of all pairs correctly; the network itself answers 66.67%."
        in text
    )


def test_without_a_mistake_there_is_one_sentence() -> None:
    perfect = confusion_of("s", "ws-aux", "paper", [answered(0, [((1, 2), (1, 2), True)])])
    (line,) = classification_sentences(perfect)
    assert line.endswith("100.00% of 2 digits are classified correctly.")
    assert charts.confusion_chart([perfect]).data  # digits that never came are left blank


def test_only_who_is_told_to_name_digits_is_asked() -> None:
    """ws has the same vectors, but no loss ever says that they are digits; nor has ws-aux with aux weight 0."""
    weights = {**PARAMS, "main_weight": 0.5}
    runs = [*finals("paper", [0.9]), run("final", 5, label="tuned", round=0, params={**weights, "aux_weight": 1.0})]
    runs.append(run("final", 6, label="alone", round=0, params={**weights, "aux_weight": 0.0}))
    aux, ws = view_of("digits", [study("ws-aux", runs), study("ws", runs)], {}).studies
    assert [names_digits(aux, label) for label in ("tuned", "alone", "none")] == [True, False, False]
    assert not names_digits(ws, "tuned")


def test_the_picture_shows_every_cell_once(actual: DigitConfusion) -> None:
    off, on = charts.confusion_chart([actual]).data
    assert (off.z[4][9], off.z[4][4], on.z[4][4], on.z[4][9]) == (50.0, None, 50.0, None)
    assert off.zmax == 100.0  # of 2 and 8
    assert list(off.z[0]) == [None] * 10  # no 0 came
