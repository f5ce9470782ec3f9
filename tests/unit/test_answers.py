"""Single answers: unpacking against the pairs drawn again, uncertainty over images, errors by digits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hpo.analysis import stats
from hpo.analysis.comparison import Comparison, compare
from hpo.digits import answers
from hpo.digits.answers import RoundAnswers
from hpo.report.sentences import items_note, row_note
from hpo.report.views import view_of
from hpo.storage.outcome import UnreadableOutcome, pack_answers, unpack_answers
from tests.support.answers import item_scores, new_image_intervals
from tests.support.handmade import packed_answers
from tests.support.results import finals, run, study

LABELS = np.repeat(np.arange(10), 60)  # of a pool of 600 images


def _round(number: int, correct: NDArray[np.bool_], images: NDArray[np.int64]) -> RoundAnswers:
    digits = LABELS[images]
    return RoundAnswers(
        round=number, slot=number, opened=True, images=images, digits=digits, correct=correct, said=digits
    )


def _rounds(rng: np.random.Generator, rounds: int, hard: float) -> dict[int, RoundAnswers]:
    """Rounds in which an image's difficulty (the same in all rounds) decides a share `hard` of the answers."""
    difficult = rng.random(600) < 0.2
    made = {}
    for r in range(rounds):
        images = np.random.default_rng(r).permutation(600).reshape(300, 2)  # the draws are shared by number
        by_image = ~difficult[images].any(axis=1)
        by_chance = rng.random(300) < 0.64
        made[r] = _round(r, np.where(rng.random(300) < hard, by_image, by_chance), images)
    return made


def test_draws_are_the_workers() -> None:
    import torch

    from hpo.digits.draws import ImagePool, draw_test

    pool = ImagePool(name="B", images=torch.zeros(600, 14, 14), labels=torch.from_numpy(LABELS))
    expected = draw_test(pool, 5, 100)
    images, digits = answers.pair_draws(LABELS)(5, 100)
    assert np.array_equal(images, expected.image.numpy())
    assert np.array_equal(digits, expected.digit.numpy())


def test_answers_are_unpacked_and_held_against_the_stored_accuracy() -> None:
    draw = answers.pair_draws(LABELS)
    runs = [run("final", i, label="tuned", round=i, slot_seed=50 + i, value=v) for i, v in enumerate((0.9, 0.8, 0.7))]
    runs.append(run("final", 3, label="tuned", round=3, state="diverged", value=0.5))
    from types import SimpleNamespace

    pack = packed_answers(draw, 100)
    outputs = {
        ("tuned", r.round or 0): pack(SimpleNamespace(seed=r.slot_seed, id=r.idx), r.value or 0.0)  # type: ignore[arg-type]
        for r in runs[:2]
    }
    outputs["tuned", 2] = outputs["tuned", 0]  # another round's answers
    result = study("ws", runs)
    columns, refused = answers.columns_of(result, outputs, draw)
    assert refused == 1
    (seen,) = view_of("digits", [result], {result.id: columns}).studies
    actual = answers.answers_of(seen)
    assert [one.correct.mean() for one in actual["tuned"].values()] == [0.9, 0.8]
    assert np.array_equal(actual["tuned"][0].said, actual["tuned"][0].digits)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 9), st.integers(0, 9)), max_size=50))
def test_packed_answers_come_back(pairs: list[tuple[int, int, int]]) -> None:
    """One byte a pair, whatever was answered and whatever digits were named."""
    table = np.array(pairs, dtype=np.int64).reshape(-1, 3)
    packed = pack_answers(table[:, 0], table[:, 1:])
    assert len(packed) == len(pairs)
    answer, digits = unpack_answers(packed, "slot 1")
    assert np.array_equal(answer, table[:, 0])
    assert np.array_equal(digits, table[:, 1:])
    answer, digits = unpack_answers(pack_answers(table[:, 0], None), "slot 1")
    assert np.array_equal(answer, table[:, 0])
    assert not digits.any()


def test_bytes_that_are_no_answers_are_refused() -> None:
    """199 is the highest code: answer 1, digits 9 and 9."""
    with pytest.raises(UnreadableOutcome, match="slot 7: its packed answers hold 200"):
        unpack_answers(bytes([199, 200]), "slot 7")


def test_new_images_widen_the_interval_where_images_matter() -> None:
    """Where hard images decide, the rounds alone are too sure: they share the images."""
    widths = []
    for hard in (0.0, 0.95):
        rng = np.random.default_rng(3)
        a, b = _rounds(rng, 12, hard), _rounds(rng, 12, 0.0)
        (wider,) = new_image_intervals([(a, b)])
        difference = stats.paired_difference(
            [float(a[r].correct.mean()) for r in a], [float(b[r].correct.mean()) for r in b]
        )
        assert wider is not None
        assert difference.interval is not None
        assert wider.low <= difference.mean <= wider.high
        widths.append((wider.high - wider.low) / (difference.interval.high - difference.interval.low))
    assert 0.9 < widths[0] < 1.2  # images that do not matter add nothing
    assert widths[1] > 1.4 * widths[0]


def test_intervals_for_new_images_of_several_pairs() -> None:
    rng = np.random.default_rng(4)
    a, b = _rounds(rng, 4, 0.5), _rounds(rng, 4, 0.5)
    same, alone, reverse = new_image_intervals([(a, a), ({0: a[0]}, b), (b, a)])
    assert same is not None
    assert (same.low, same.high) == (0, 0)
    assert alone is None  # one round in common
    (forward,) = new_image_intervals([(a, b)])
    assert forward is not None
    assert reverse is not None
    assert (reverse.low, reverse.high) == pytest.approx((-forward.high, -forward.low), abs=1e-9)
    other = {r: _round(r, one.correct, one.images[::-1]) for r, one in b.items()}
    assert new_image_intervals([(a, other)]) == [None]  # not the same pairs


def test_an_interval_for_new_images_is_over_the_rounds_of_its_row() -> None:
    """A diverged round counts at chance accuracy in the difference and has no answers: then there is no interval."""
    rng = np.random.default_rng(6)
    by_label = {"tuned": _rounds(rng, 4, 0.5), "paper": _rounds(rng, 4, 0.5)}

    def compared(diverged: int) -> Comparison:
        whole = {**by_label, "paper": {r: one for r, one in by_label["paper"].items() if r >= diverged}}
        runs = [
            run("final", r, label=label, round=r, value=float(one.correct.mean()))
            if r in whole[label]
            else run("final", r, label=label, round=r, state="diverged", value=0.5, train_accuracy=None)
            for label, of_label in by_label.items()
            for r, one in of_label.items()
        ]
        return compare([study("ws", runs)], {1: item_scores(whole)})

    (pair,) = compared(0).pairs
    assert pair.items is not None
    assert pair.items.low <= pair.difference.mean <= pair.items.high
    assert items_note(pair) == ""
    actual = compared(1)
    (pair,) = actual.pairs
    assert (len(pair.rounds), pair.items) == (4, None)
    assert "no interval for new test images: 1 of 4 rounds have no stored scores" in items_note(pair)
    (row,) = [row for row in actual.rows if row.label == "paper"]
    assert (row.test.n, row.train.n) == (4, 3)
    assert row_note(row) == "1 diverged, counted as 50.0% in the test values and left out of the train ones"
    others = {2: item_scores({})}
    (elsewhere,) = compare([study("ws", finals("tuned", [0.9]) + finals("paper", [0.8]))], others).pairs
    assert items_note(elsewhere) == "no interval for new test images: a single round"


def test_error_grid_counts_by_digits() -> None:
    images = np.array([[0, 599], [599, 0], [0, 599], [60, 61]])  # digits 0 9, 9 0, 0 9, 1 1
    grid = answers.error_grid("s", "ws", "tuned", [_round(0, np.array([True, False, False, False]), images)])
    assert (grid.pairs[0][9], grid.wrong[0][9]) == (2, 1)
    assert grid.rate(lambda i, j: i == j) == 1.0
    assert grid.rate(lambda i, j: abs(i - j) == 9) == pytest.approx(2 / 3)
    assert grid.rate(lambda i, j: abs(i - j) == 5) is None
    assert grid.worst(2) == [(1, 1, 1.0), (9, 0, 1.0)]
