"""Answers: each test pair's answer in each final round, and what they show beyond the mean accuracies.

The pairs are drawn again from the rounds' seeds; a round whose answers do not give its stored accuracy is left out.
Shapes: E test pairs of a round, N images of pool B.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.digits.idx import CLASSES
from hpo.experiment.view import StudyView
from hpo.results.records import StudyResult
from hpo.storage.outcome import unpack_answers
from hpo.study.labels import TUNED

Ints = NDArray[np.int64]
DrawPairs = Callable[[int, int], tuple[Ints, Ints]]
"""Draws a round's pairs: (seed, number of pairs) -> images (E, 2), true digits (E, 2)."""

AnswerColumns = Mapping[str, NDArray[Any]]
COLUMNS = frozenset({"accuracy", "unit", "digits", "named"})  # of a round's test pairs, as the answers need them


@dataclass(frozen=True, kw_only=True, eq=False)
class RoundAnswers:
    """One final round, pair by pair."""

    round: int
    slot: int
    opened: bool  # whether its opening of pool B is on record
    images: Ints  # (E, 2) numbers of images in pool B
    digits: Ints  # (E, 2) the true ones
    correct: NDArray[np.bool_]  # (E,)
    said: Ints  # (E, 2) the digits as the model names them; 0 where it names none


Answers = Mapping[str, Mapping[int, RoundAnswers]]  # label -> round number -> answers


def columns_of(
    result: StudyResult, outputs: Mapping[tuple[str, int], bytes], draw: DrawPairs
) -> tuple[dict[tuple[str, int], AnswerColumns], int]:
    """Columns of a study's test pairs from its packed outputs (`queries.final_outputs`) and the pairs, drawn again.

    Second, how many rounds are refused because their answers do not give their stored accuracy.
    """
    columns: dict[tuple[str, int], AnswerColumns] = {}
    refused = 0
    for run in result.final_runs:
        place = run.label or "", run.round or 0
        packed = outputs.get(place)
        if run.state != "complete" or not packed or run.value is None:
            continue
        images, digits = draw(run.slot_seed, len(packed))
        answer, named = unpack_answers(packed, f"slot {run.slot_id}")
        correct = answer == (digits[:, 0] <= digits[:, 1])
        if abs(float(correct.mean()) - run.value) > 1e-6:
            refused += 1
            continue
        columns[place] = {"accuracy": correct.astype(np.float64), "unit": images, "digits": digits, "named": named}
    return columns, refused


def answers_of(study: StudyView) -> Answers:
    """A study's answers, of the rounds that have the columns of the digits."""
    by_label: dict[str, dict[int, RoundAnswers]] = {}
    for label, rounds in study.rounds.items():
        for tested in rounds:
            columns = tested.columns
            if columns.keys() >= COLUMNS:
                by_label.setdefault(label, {})[tested.number] = RoundAnswers(
                    round=tested.number,
                    slot=tested.slot,
                    opened=tested.opened,
                    images=columns["unit"],
                    digits=columns["digits"],
                    correct=columns["accuracy"] > 0.5,
                    said=columns["named"],
                )
    return by_label


def shown_label(study: StudyView, answers: Answers) -> str | None:
    """The configuration whose answers the report shows: the tuned one, or else the paper's."""
    return next((label for label in (TUNED, study.reference_label) if label in answers), None)


def pair_draws(labels: Ints) -> DrawPairs:
    """A function that draws test pairs as the worker does, from pool B's labels (N,); loads torch."""
    import torch

    from hpo.digits.draws import ImagePool, draw_test

    pool = ImagePool(name="B", images=torch.empty(0), labels=torch.from_numpy(labels.astype(np.int64)))

    def draw(seed: int, pairs: int) -> tuple[Ints, Ints]:
        table = draw_test(pool, seed, pairs)
        return table.image.numpy(), table.digit.numpy()

    return draw


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
