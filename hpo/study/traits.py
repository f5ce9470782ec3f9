"""Traits: what a report must know of a study's experiment that a spec does not say in its keys."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Traits:
    """The defaults hold of every experiment; a format of specs that knows more says so."""

    items: str = "items"  # what is measured, and what it is sampled from, in the plural
    draws: Mapping[str, int] = field(default_factory=dict)  # their sizes; rounds pair where they are equal
    validation_items: int | None = None  # how many a training is validated on, where that is known beforehand
    redraws_test: bool = False  # whether no two final rounds have the same test items
    measures_training: bool = False  # whether final rounds are measured on their training items too
    usual_epochs: int | None = None  # how many are enough, where that is known
    learned_above: float = -math.inf  # a training with no better value than this has learned nothing
    weighs_losses: bool = False  # whether main_weight and aux_weight weigh losses, so that only their ratio matters
    place: int = 0  # of its model among those of its experiment, in every table

    @property
    def knows_blank(self) -> bool:
        """Whether a training that learned nothing can be told from others."""
        return self.learned_above > -math.inf
