"""Confusion: which digits a model mistakes for which, and whether that explains its wrong answers.

Only for models that are trained to name the digits: nothing makes the other models' digit vectors mean digits.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpo.digits.answers import RoundAnswers
from hpo.digits.idx import CLASSES
from hpo.experiment.view import StudyView
from hpo.study.digits_spec import HYPERPARAMETERS


@dataclass(frozen=True, kw_only=True, slots=True)
class DigitConfusion:
    """How one configuration named the digits, over all its rounds and both images of every pair."""

    study: str
    model: str
    label: str
    said: tuple[tuple[int, ...], ...]  # [true digit][digit as named]: images
    pairs: int
    right: int  # pairs answered correctly
    named: int  # pairs with both digits named correctly
    wrong_though_named: int  # of those: answered wrongly, so the comparison itself failed
    right_though_misnamed: int  # pairs with a misnamed digit that were answered correctly all the same
    right_by_names: int  # pairs that comparing the two named digits would answer correctly

    @property
    def images(self) -> int:
        """Images named, two per pair."""
        return 2 * self.pairs

    @property
    def accuracy(self) -> float:
        """The share of images whose digit was named correctly."""
        return sum(self.said[i][i] for i in range(CLASSES)) / self.images

    @property
    def wrong(self) -> int:
        """Pairs answered wrongly."""
        return self.pairs - self.right

    @property
    def misnamed(self) -> int:
        """Pairs with at least one digit misnamed."""
        return self.pairs - self.named

    def worst(self, count: int) -> list[tuple[int, int, int, float]]:
        """The most frequent confusions: true digit, named digit, images, their share of the true digit's."""
        cells = [(i, j, n) for i, row in enumerate(self.said) for j, n in enumerate(row) if i != j and n]
        cells.sort(key=lambda cell: (-cell[2], cell[:2]))
        return [(i, j, n, n / sum(self.said[i])) for i, j, n in cells[:count]]


def names_digits(study: StudyView, label: str) -> bool:
    """Whether that configuration is trained to name the digits: whether a loss of its asks for them."""
    weight = study.params.get(label, {}).get("aux_weight", 0.0)
    asked = "aux_weight" in HYPERPARAMETERS.get(study.model, ("aux_weight",))
    return asked and isinstance(weight, float | int) and weight > 0


def confusion_of(study: str, model: str, label: str, rounds: Sequence[RoundAnswers]) -> DigitConfusion:
    """Count over all rounds, of which there is at least one."""
    digits = np.concatenate([answers.digits for answers in rounds])  # (E, 2)
    said = np.concatenate([answers.said for answers in rounds])  # (E, 2)
    right = np.concatenate([answers.correct for answers in rounds])  # (E,)
    counts = np.bincount((CLASSES * digits + said).ravel(), minlength=CLASSES**2).reshape(CLASSES, CLASSES)
    named = (digits == said).all(axis=1)
    by_names = (said[:, 0] <= said[:, 1]) == (digits[:, 0] <= digits[:, 1])
    return DigitConfusion(
        study=study,
        model=model,
        label=label,
        said=tuple(tuple(row) for row in counts.tolist()),
        pairs=len(right),
        right=int(right.sum()),
        named=int(named.sum()),
        wrong_though_named=int((named & ~right).sum()),
        right_though_misnamed=int((~named & right).sum()),
        right_by_names=int(by_names.sum()),
    )
