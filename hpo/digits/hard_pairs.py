"""Hard pairs: the test pairs that most trainings got wrong, with their images.

The pairs of a round are the same for every model and configuration, so many trainings are tested on each pair. The
rules, in this order:

1. A pair is two images in their order. All final rounds count that are done and recorded as an opening of pool B;
   rounds that stand under two labels (the paper's configuration won) count once.
2. Pairs that fewer trainings were tested on than the median pair are left out: a single wrong answer means little.
3. Pairs are ranked by the share of trainings that were wrong; ties by how often the two images were part of a wrong
   answer over all pairs (the mean of the two), then by the images' numbers.
4. A pair with an image that a pair higher up shows already is skipped.

Images of pool B are shown only when no study on them is still being tuned.
Shapes: E pairs of a round, N images of pool B, K distinct pairs.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.digits.answers import Answers, Ints, RoundAnswers, answers_of
from hpo.digits.pools import AlreadyTested, Digits, to_network_images
from hpo.experiment.view import StudyView, View
from hpo.study.digits_spec import MODELS

SHOWN = 24  # pairs
DARKEST = 255  # the darkest a pixel can be

Picture = tuple[tuple[int, ...], ...]  # rows of pixels as the network sees them, from 0 (white) to DARKEST
DigitsOf = Callable[[str], Digits | None]
"""From a data digest to its images, None where they are not at hand."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelCount:
    """How one model's trainings did on one pair."""

    model: str
    wrong: int
    trainings: int


@dataclass(frozen=True, kw_only=True, slots=True)
class HardPair:
    """One pair that many trainings got wrong."""

    images: tuple[int, int]  # of pool B
    digits: tuple[int, int]
    counts: tuple[ModelCount, ...]  # of the models that were tested on it
    images_wrong: float  # share of wrong answers among all pairs with an image, mean of its two images

    @property
    def wrong(self) -> int:
        """Trainings that answered wrongly."""
        return sum(count.wrong for count in self.counts)

    @property
    def trainings(self) -> int:
        """Trainings that were tested on it."""
        return sum(count.trainings for count in self.counts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gallery:
    """The hardest pairs of one set of images."""

    data_digest: str
    studies: tuple[str, ...]  # whose final rounds count
    pairs: tuple[HardPair, ...]  # hardest first
    met: int  # distinct pairs that were ranked
    by_all: int  # of those, the ones that every training got wrong
    pictures: Mapping[int, Picture]  # by number of the image in pool B
    still_tuned: tuple[str, ...]  # studies on these images: while there are any, no pair is named and no image shown


def galleries_of(view: View, digits_of: DigitsOf, shown: int = SHOWN) -> tuple[Gallery, ...]:
    """One gallery for each set of images that has answers."""
    by_digest: dict[str, list[tuple[StudyView, Answers]]] = {}
    for study in view.studies:
        if answers := answers_of(study):
            by_digest.setdefault(study.data_digest, []).append((study, answers))
    galleries = []
    for digest, studies in by_digest.items():
        digits = digits_of(digest)
        rounds = [test for study, answers in studies for test in _recorded(study, answers)]
        if digits is not None and rounds:
            names, tuned = tuple(study.name for study, _ in studies), studies[0][0].still_tuned
            galleries.append(_gallery(digest, names, rounds, tuned, digits, shown))
    return tuple(galleries)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Recorded:
    """One training's test whose opening of pool B is on record."""

    model: str
    slot: int
    answers: RoundAnswers


def _recorded(study: StudyView, answers: Answers) -> Iterable[Recorded]:
    """Each slot once, whatever labels it stands under."""
    by_slot = {test.slot: test for of_label in answers.values() for test in of_label.values() if test.opened}
    for slot, test in by_slot.items():
        yield Recorded(model=study.model, slot=slot, answers=test)


def _gallery(
    digest: str,
    studies: tuple[str, ...],
    rounds: Sequence[Recorded],
    still_tuned: tuple[str, ...],
    digits: Digits,
    shown: int,
) -> Gallery:
    ranked, met, by_all = ([], 0, 0) if still_tuned else hardest(rounds, shown)
    images = tuple(dict.fromkeys(image for pair in ranked for image in pair.images))
    return Gallery(
        data_digest=digest,
        studies=studies,
        pairs=tuple(ranked),
        met=met,
        by_all=by_all,
        pictures=_pictures(digits, images, rounds) if images else {},
        still_tuned=still_tuned,
    )


def _pictures(digits: Digits, images: tuple[int, ...], rounds: Sequence[Recorded]) -> dict[int, Picture]:
    """The images as the network sees them; each was part of these rounds' tests."""
    slots = tuple(test.slot for test in rounds if np.isin(test.answers.images, images).any())
    intensities = to_network_images(digits.show_tested(AlreadyTested(images=images, slots=slots)))
    pixels = np.rint(DARKEST * intensities).astype(np.int64)
    return {image: tuple(map(tuple, picture.tolist())) for image, picture in zip(images, pixels, strict=True)}


def in_order(models: Iterable[str]) -> list[str]:
    """Distinct models: those that ship in their order, then others as they come."""
    distinct = dict.fromkeys(models)
    return [*(model for model in MODELS if model in distinct), *(m for m in distinct if m not in MODELS)]


def hardest(rounds: Sequence[Recorded], shown: int) -> tuple[list[HardPair], int, int]:
    """The hardest pairs by this module's rules; how many pairs were ranked, and how many every training got wrong."""
    models = in_order(test.model for test in rounds)
    images = np.concatenate([test.answers.images for test in rounds])  # (sum of E, 2)
    digits = np.concatenate([test.answers.digits for test in rounds])
    wrong = np.concatenate([~test.answers.correct for test in rounds]).astype(np.int64)
    model = np.concatenate([np.full(len(test.answers.correct), models.index(test.model)) for test in rounds])
    pairs, first, pair_of = np.unique(images, axis=0, return_index=True, return_inverse=True)  # (K, 2), (K,)
    cell = pair_of.reshape(-1) * len(models) + model
    met, failed = (
        _counts(cell, weight, len(pairs) * len(models)).reshape(-1, len(models))
        for weight in (np.ones_like(wrong), wrong)
    )  # (K, models)
    by_image = _share_wrong(images, wrong)[pairs].mean(axis=1)  # (K,)
    trainings, share = met.sum(axis=1), failed.sum(axis=1) / met.sum(axis=1)
    ranked = np.flatnonzero(trainings >= np.median(trainings))
    order = ranked[np.lexsort((pairs[ranked, 1], pairs[ranked, 0], -by_image[ranked], -share[ranked]))]
    hard_pairs = [
        HardPair(
            images=(int(pairs[k, 0]), int(pairs[k, 1])),
            digits=(int(digits[first[k], 0]), int(digits[first[k], 1])),
            counts=tuple(
                ModelCount(model=name, wrong=int(failed[k, i]), trainings=int(met[k, i]))
                for i, name in enumerate(models)
                if met[k, i]
            ),
            images_wrong=float(by_image[k]),
        )
        for k in _each_image_once(pairs, order[share[order] > 0], shown)
    ]
    return hard_pairs, len(ranked), int((share[ranked] == 1).sum())


def _each_image_once(pairs: Ints, order: Ints, shown: int) -> list[int]:
    """The first pairs in that order that share no image."""
    chosen: list[int] = []
    used: set[int] = set()
    for k in order.tolist():
        if len(chosen) == shown:
            break
        images = set(pairs[k].tolist())
        if not used & images:
            used |= images
            chosen.append(k)
    return chosen


def _counts(cells: Ints, weights: Ints, length: int) -> Ints:
    return np.bincount(cells, weights=weights, minlength=length).astype(np.int64)


def _share_wrong(images: Ints, wrong: Ints) -> NDArray[np.float64]:
    """For each image (N,) the share of wrong answers among the pairs that it is part of."""
    n = int(images.max()) + 1
    tests, wrongs = (_counts(images.ravel(), np.repeat(w, 2), n) for w in (np.ones_like(wrong), wrong))
    return wrongs / np.maximum(tests, 1)
