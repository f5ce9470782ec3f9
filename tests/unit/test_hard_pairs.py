"""The hardest pairs: the rule of their order, and when images of the test pool may be shown at all."""

import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from hpo.digits import images as pictures
from hpo.digits import pools as digits_module
from hpo.digits.answers import RoundAnswers
from hpo.digits.hard_pairs import Gallery, Recorded, galleries_of, hardest
from hpo.digits.pools import Digits, to_network_images
from hpo.experiment.view import View
from hpo.report.views import view_of
from hpo.results.records import Opening, StudyResult
from tests.support.answers import columns_of
from tests.support.results import run, study

LABELS = np.arange(40) % 10  # of pool B


def answered(wrong: list[int], pairs: list[tuple[int, int]] | None = None, number: int = 0) -> RoundAnswers:
    """A round over pairs of images, wrong at these places."""
    images = np.array([(0, 1), (2, 3), (4, 5), (6, 7)] if pairs is None else pairs)
    return RoundAnswers(
        round=number,
        slot=number,
        opened=True,
        images=images,
        digits=LABELS[images],
        said=np.zeros_like(images),
        correct=~np.isin(np.arange(len(images)), wrong),
    )


def rounds_of(model: Any, *rounds: RoundAnswers) -> list[Recorded]:
    return [Recorded(model=model, slot=i, answers=one) for i, one in enumerate(rounds)]


def test_ranked_by_the_share_of_trainings_that_were_wrong() -> None:
    rounds = rounds_of("simple", answered([0, 1, 2]), answered([1, 2])) + rounds_of(
        "ws", answered([1]), answered([1, 2])
    )
    pairs, met, by_all = hardest(rounds, shown=10)
    assert [(pair.images, pair.digits, pair.wrong, pair.trainings) for pair in pairs] == [
        ((2, 3), (2, 3), 4, 4),
        ((4, 5), (4, 5), 3, 4),
        ((0, 1), (0, 1), 1, 4),
    ]  # 6 and 7 nobody got wrong
    assert [(one.model, one.wrong, one.trainings) for one in pairs[1].counts] == [("simple", 2, 2), ("ws", 1, 2)]
    assert (met, by_all) == (4, 1)
    assert len(hardest(rounds, shown=2)[0]) == 2


def test_ties_go_to_images_that_are_hard_elsewhere_too() -> None:
    """Both pairs of round 0 are always wrong; image 3 is right in the next round's pair, image 5 wrong again."""
    first = answered([1, 2])
    second = answered([1], [(3, 0), (5, 1), (2, 4), (6, 7)], number=1)
    pairs, _, _ = hardest(rounds_of("ws", first, second), shown=2)
    assert [pair.images for pair in pairs] == [(4, 5), (2, 3)]
    assert pairs[0].images_wrong == pytest.approx((0.5 + 1.0) / 2)


def test_an_image_is_shown_once() -> None:
    rounds = rounds_of("ws", answered([0, 1], [(0, 1), (2, 3)]), answered([0, 1], [(1, 0), (2, 9)], number=1))
    pairs, met, by_all = hardest(rounds, shown=10)
    assert [pair.images for pair in pairs] == [(0, 1), (2, 3)]
    assert (met, by_all) == (4, 4)  # the order of a pair matters: it is another question


def test_what_few_trainings_met_says_nothing() -> None:
    many = rounds_of("simple", *[answered([0, 1] if i else [0]) for i in range(5)])
    few = rounds_of("ws", answered([0], [(10, 11)], number=9))
    pairs, met, _ = hardest(many + few, shown=10)
    assert [pair.images for pair in pairs] == [(0, 1), (2, 3)]
    assert met == 4


# --- The seal ---------------------------------------------------------------------------------------------


@pytest.fixture
def digits() -> Digits:
    images = np.random.default_rng(1).integers(0, 256, (60, 28, 28), dtype=np.uint8)
    labels = np.concatenate([np.arange(20) % 10, LABELS]).astype(np.uint8)
    return digits_module.make_digits("made up", images, labels, np.arange(20), np.arange(20, 60))


def finished(digits: Digits, name: str, id: int, opened: bool = True, **changes: Any) -> StudyResult:
    """A study with one final round; its slot has the study's id."""
    row = {"name": name, "id": id, "data_digest": digits.digest, **changes}
    made = study("ws", [run("final", 0, slot_id=id, label="tuned", round=0)], **row)
    opening = Opening(slot_id=id, attempt=1, worker="w", opened_at=0.0)
    return replace(made, openings=(opening,) if opened else ())


def seen(results: list[StudyResult], label: str, given: RoundAnswers) -> View:
    """The studies, each of whose rounds answered so."""
    columns = {result.id: {(label, 0): columns_of(given)} for result in results if result.final_runs}
    return view_of("digits", results, columns)


def gallery(results: list[StudyResult], digits: Digits, given: RoundAnswers) -> tuple[Gallery, ...]:
    view = seen(results, "tuned", given)
    return galleries_of(view, lambda digest: digits if digest == digits.digest else None)


def test_only_pictures_of_tested_pairs(digits: Digits) -> None:
    (shown,) = gallery([finished(digits, "a", 1), finished(digits, "b", 2)], digits, answered([3, 1]))
    assert (shown.studies, shown.still_tuned, shown.by_all) == (("a", "b"), (), 2)
    assert set(shown.pictures) == {2, 3, 6, 7}  # of the pairs shown and no others
    exact = to_network_images(digits._images[digits.pool_b[[6]]])[0] * 255
    assert np.abs(np.array(shown.pictures[6]) - exact).max() <= 0.5


@pytest.mark.parametrize("phase", ["search", "confirm"])
def test_nothing_is_shown_while_a_study_is_being_tuned(digits: Digits, phase: str) -> None:
    """Another study on the same images may still be tuned by whoever reads the report; one on others may."""
    done = finished(digits, "a", 1)
    being_tuned = study("ws", [], name="b", id=2, phase=phase, data_digest=digits.digest)
    (shown,) = gallery([done, being_tuned], digits, answered([0]))
    assert (shown.pairs, dict(shown.pictures), shown.still_tuned) == ((), {}, ("b",))
    (shown,) = gallery([done, study("ws", [], name="b", id=2, phase=phase)], digits, answered([0]))
    assert len(shown.pairs) == 1
    assert shown.still_tuned == ()


def test_nothing_is_shown_of_an_opening_that_is_not_on_record(digits: Digits) -> None:
    assert gallery([finished(digits, "a", 1, opened=False)], digits, answered([0])) == ()
    both = [finished(digits, "a", 1, opened=False), finished(digits, "b", 2)]
    (shown,) = gallery(both, digits, answered([0]))
    assert shown.pairs[0].trainings == 1


def test_without_images_there_is_no_gallery(digits: Digits) -> None:
    result = finished(digits, "a", 1)
    assert galleries_of(seen([result], "tuned", answered([0])), lambda digest: None) == ()


def test_the_same_rounds_under_two_labels_count_once(digits: Digits) -> None:
    """Where the paper's configuration won, its rounds are the tuned ones too."""
    paper = study(
        "ws",
        [run("final", 0, slot_id=1, label="paper", round=0)],
        data_digest=digits.digest,
        tuned={"params": {}, "source": "paper", "confirm_mean": 0.9},
    )
    paper = replace(paper, openings=(Opening(slot_id=1, attempt=1, worker="w", opened_at=0.0),))
    view = seen([paper], "paper", answered([0]))
    assert view.studies[0].rounds["tuned"] == view.studies[0].rounds["paper"]
    (shown,) = galleries_of(view, lambda digest: digits)
    assert [pair.trainings for pair in shown.pairs] == [1]


def test_the_pictures_are_the_images(digits: Digits) -> None:
    (pairs,) = gallery([finished(digits, "a", 1)], digits, answered([0, 1, 2, 3]))
    shown = pictures.gallery_images(pairs)
    assert len(shown) == 4
    assert shown[0].above == "0 \N{LESS-THAN OR EQUAL TO} 1: yes"
    assert [text for text, _ in shown[0].below] == ["1 of 1"]
    pixels = read_png(shown[1].png)
    left, right = (np.array(pairs.pictures[image]) for image in pairs.pairs[1].images)
    assert np.array_equal(pixels[:, :14], 255 - left)  # black ink on white paper
    assert (pixels[:, 14] == 255).all()
    assert np.array_equal(pixels[:, 15:], 255 - right)


def read_png(file: bytes) -> Any:
    """The grey values (rows, columns) of a PNG file, by the standard: every chunk with its checksum."""
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, place = [], 8
    while place < len(file):
        (length,) = struct.unpack_from(">I", file, place)
        kind, content = file[place + 4 : place + 8], file[place + 8 : place + 8 + length]
        assert struct.unpack_from(">I", file, place + 8 + length) == (zlib.crc32(kind + content),)
        chunks.append((kind, content))
        place += 12 + length
    assert [kind for kind, _ in chunks] == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    assert rest == [8, 0, 0, 0, 0]  # 8 bits, greyscale, no interlace
    lines = np.frombuffer(zlib.decompress(chunks[1][1]), dtype=np.uint8).reshape(height, width + 1)
    assert (lines[:, 0] == 0).all()  # no filter
    return lines[:, 1:].astype(int)
