"""Repeats: independent searches of the same study, named NAME-1, NAME-2, ...

Nothing of a repeat's search and confirmation is shared with another study: its seeds are its own, for each model, and
its confirm draws are keyed by its number, so that models share them. Final rounds are those of every other study with
the same protocol's seed: they belong to one setting.
"""

import math

from hpo.study.spec import StudySpec
from hpo.training.seeds import derive

LEVEL = 0.05  # that a corrected p must reach
_SEEDS = 10**9  # they stay short enough to be read


def repeat_name(group: str, number: int) -> str:
    """The name of a group's repeat; numbers begin at 1."""
    return f"{group}-{number}"


def repeat_number(name: str, group: str | None) -> int | None:
    """The number of a study in its group; None where it is no repeat."""
    digits = "" if group is None else name.removeprefix(f"{group}-")
    return int(digits) if digits.isdecimal() and digits != name else None


def repeat_spec(spec: StudySpec, number: int) -> StudySpec:
    """A repeat of this study: another name, another seed."""
    seed = derive(spec.seed, "repeat", spec.experiment, spec.model, number) % _SEEDS
    return spec.with_options(name=repeat_name(spec.name, number), seed=seed)


def comparisons_of(models: int) -> int:
    """For how many comparisons the tests of so many models are corrected, in the larger of their two families.

    One is that of the pairs of models, the other that of each model's tuned and reference configuration.
    """
    return max(models, models * (models - 1) // 2)


def smallest_p(number: int, comparisons: int) -> float:
    """The smallest p that a sign-flip test of so many repeats, or rounds, can give, corrected for the comparisons."""
    return min(1.0, comparisons * 2 * 0.5**number)


def fewest_repeats(comparisons: int) -> int:
    """From how many repeats, or rounds, on that is small enough to decide anything."""
    return math.ceil(math.log2(2 * comparisons / LEVEL))
