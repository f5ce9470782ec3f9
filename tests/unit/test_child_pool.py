"""Child processes that are started ahead: so many that nobody waits for imports, and no more."""

import math

import pytest

from hpo.worker.child_pool import MOST_SUCCESSORS, successors


@pytest.mark.parametrize(
    ("start_seconds", "training_seconds", "count"),
    [
        (2.5, 1.2, 3),
        (2.5, 2.0, 2),
        (2.5, 600.0, 1),
        (2.5, math.inf, 1),
        (0.0, 1.0, 1),
        (60.0, 1.0, MOST_SUCCESSORS),
        (2.5, 0.0, MOST_SUCCESSORS),
    ],
)
def test_as_many_start_as_end_while_one_is_imported(start_seconds: float, training_seconds: float, count: int) -> None:
    """One at least, where trainings are longer or not yet measured; a few at most, for each needs memory."""
    assert successors(start_seconds, training_seconds) == count
