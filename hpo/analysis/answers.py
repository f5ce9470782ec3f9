"""Answers: each test pair's answer in each final round, and what they show beyond the mean accuracies.

The pairs are drawn again from the rounds' seeds; a round whose answers do not give its stored accuracy is left out.
Shapes: R rounds, E test pairs of a round, N images of pool B, D bootstrap draws.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpo.analysis.stats import LEVEL, Interval
from hpo.digits.idx import CLASSES
from hpo.results.records import StudyResult
from hpo.storage.outcome import unpack_answers
from hpo.study.labels import PAPER, TUNED

DRAWS = 2000  # of the bootstrap
_CHUNK = 50  # draws at once: 50 x 20 rounds x 1,000 pairs are 8 MB

Ints = NDArray[np.int64]
DrawPairs = Callable[[int, int], tuple[Ints, Ints]]
"""Draws a round's pairs: (seed, number of pairs) -> images (E, 2), true digits (E, 2)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundAnswers:
    """One final round, pair by pair."""

    round: int
    images: Ints  # (E, 2) numbers of images in pool B
    digits: Ints  # (E, 2) the true ones
    correct: NDArray[np.bool_]  # (E,)
    said: Ints  # (E, 2) the digits as the model names them; 0 where it names none


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """All answers of one study."""

    by_label: Mapping[str, Mapping[int, RoundAnswers]]  # label -> round number -> answers
    refused: int  # rounds whose answers do not give their stored accuracy


def answers_of(result: StudyResult, outputs: Mapping[tuple[str, int], bytes], draw: DrawPairs) -> Answers:
    """A study's answers from its packed outputs (see `queries.final_outputs`) and the pairs, drawn again."""
    by_label: dict[str, dict[int, RoundAnswers]] = {}
    refused = 0
    for run in result.final_runs:
        packed = outputs.get((run.label or "", run.round or 0))
        if run.state != "complete" or not packed or run.value is None:
            continue
        images, digits = draw(run.slot_seed, len(packed))
        answer, said = unpack_answers(packed, f"slot {run.slot_id}")
        correct = answer == (digits[:, 0] <= digits[:, 1])
        if abs(float(correct.mean()) - run.value) > 1e-6:
            refused += 1
            continue
        by_label.setdefault(run.label or "", {})[run.round or 0] = RoundAnswers(
            round=run.round or 0, images=images, digits=digits, correct=correct, said=said
        )
    tuned = result.final_of(TUNED)
    if tuned is not None and tuned.same_as in by_label:
        by_label[TUNED] = by_label[tuned.same_as]
    return Answers(by_label=by_label, refused=refused)


def shown_label(answers: Answers | None) -> str | None:
    """The configuration whose answers the report shows: the tuned one, or else the paper's."""
    by_label = {} if answers is None else answers.by_label
    return next((label for label in (TUNED, PAPER) if label in by_label), None)


def pair_draws(labels: Ints) -> DrawPairs:
    """A function that draws test pairs as the worker does, from pool B's labels (N,); loads torch."""
    import torch

    from hpo.training.draws import ImagePool, draw_test

    pool = ImagePool(name="B", images=torch.empty(0), labels=torch.from_numpy(labels.astype(np.int64)))

    def draw(seed: int, pairs: int) -> tuple[Ints, Ints]:
        table = draw_test(pool, seed, pairs)
        return table.image.numpy(), table.digit.numpy()

    return draw


# --- New images -------------------------------------------------------------------------------------------


AnswersByRound = Mapping[int, RoundAnswers]  # round number -> answers


def crossed_intervals(
    sides: Sequence[tuple[AnswersByRound, AnswersByRound]], seed: int = 0, level: float = LEVEL
) -> list[Interval | None]:
    """Intervals of the mean differences a - b for new seeds AND new images; None below two common rounds.

    Bootstrap over rounds and, crossed, over images (not pairs: an image is part of many). A draw weights each image
    by how often it was drawn, and a pair by the product of its two weights (Owen, "The pigeonhole bootstrap", 2007;
    never too narrow, and up to twice too wide where images do not matter at all). Comparisons over the same pairs
    share their draws.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, (a, b) in enumerate(sides):
        common = tuple(sorted(a.keys() & b.keys()))
        if len(common) >= 2 and all(np.array_equal(a[r].images, b[r].images) for r in common):
            groups.setdefault(common, []).append(index)
    intervals: list[Interval | None] = [None] * len(sides)
    tail = (1 - level) / 2
    for common, members in groups.items():
        means = _crossed_means([sides[index] for index in members], common, np.random.default_rng(seed))
        for index, resampled in zip(members, means, strict=True):
            low, high = np.quantile(resampled, [tail, 1 - tail])
            intervals[index] = Interval(
                low=float(low), high=float(high), level=level, method="bootstrap over rounds and images"
            )
    return intervals


def _crossed_means(
    sides: Sequence[tuple[AnswersByRound, AnswersByRound]], common: Sequence[int], rng: np.random.Generator
) -> list[NDArray[np.float64]]:
    """The mean difference in every draw, (D,) for each comparison."""
    first = sides[0][0]
    images = np.stack([first[r].images for r in common])  # (R, E, 2)
    differences = [
        np.stack([a[r].correct.astype(np.float64) - b[r].correct for r in common]) for a, b in sides
    ]  # each (R, E)
    distinct, index = np.unique(images, return_inverse=True)
    index = index.reshape(images.shape)
    means: list[list[NDArray[np.float64]]] = [[] for _ in sides]
    for start in range(0, DRAWS, _CHUNK):
        draws = min(_CHUNK, DRAWS - start)
        weight = _times_drawn(rng, draws, len(distinct))  # (D, N)
        pair = weight[:, index[..., 0]] * weight[:, index[..., 1]]  # (D, R, E)
        total = np.maximum(pair.sum(axis=-1), 1)  # (D, R)
        rounds = _times_drawn(rng, draws, len(common))  # (D, R)
        for resampled, difference in zip(means, differences, strict=True):
            by_round = np.einsum("dre,re->dr", pair, difference) / total
            resampled.append((rounds * by_round).sum(axis=-1) / len(common))
    return [np.concatenate(parts) for parts in means]


def _times_drawn(rng: np.random.Generator, draws: int, n: int) -> NDArray[np.float64]:
    """How often each of n items is drawn when n are drawn with replacement: (draws, n)."""
    return rng.multinomial(n, np.full(n, 1 / n), size=draws).astype(np.float64)


# --- Where comparing fails --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class ErrorGrid:
    """How often a configuration answered wrongly, by the pair's digits, over all its rounds."""

    study: str
    model: str
    label: str
    pairs: tuple[tuple[int, ...], ...]  # [digit 1][digit 2]
    wrong: tuple[tuple[int, ...], ...]

    def rate(self, keep: Callable[[int, int], bool]) -> float | None:
        """The share of wrong answers among the digit pairs that are kept; None where there are none."""
        cells = [(i, j) for i in range(CLASSES) for j in range(CLASSES) if keep(i, j)]
        pairs = sum(self.pairs[i][j] for i, j in cells)
        return sum(self.wrong[i][j] for i, j in cells) / pairs if pairs else None

    def worst(self, count: int) -> list[tuple[int, int, float]]:
        """The digit pairs with the highest error rate: digit 1, digit 2, rate."""
        rates = [
            (i, j, self.wrong[i][j] / self.pairs[i][j])
            for i in range(CLASSES)
            for j in range(CLASSES)
            if self.pairs[i][j]
        ]
        return sorted(rates, key=lambda cell: -cell[2])[:count]


def error_grid(study: str, model: str, label: str, rounds: Sequence[RoundAnswers]) -> ErrorGrid:
    """Count pairs and errors by digits."""
    pairs, wrong = np.zeros((CLASSES, CLASSES), dtype=np.int64), np.zeros((CLASSES, CLASSES), dtype=np.int64)
    for answers in rounds:
        at = (answers.digits[:, 0], answers.digits[:, 1])
        np.add.at(pairs, at, 1)
        np.add.at(wrong, at, (~answers.correct).astype(np.int64))
    return ErrorGrid(
        study=study,
        model=model,
        label=label,
        pairs=tuple(tuple(row) for row in pairs.tolist()),
        wrong=tuple(tuple(row) for row in wrong.tolist()),
    )
