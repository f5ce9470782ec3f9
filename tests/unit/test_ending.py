"""When a study ends: the interval against the exact distribution, and what counts as work."""

import pytest
from scipy.stats import f  # type: ignore[import-untyped]  # ships no types

from hpo.results.ending import estimated_end, span, work, work_left
from hpo.results.progress_records import PhaseProgress
from hpo.results.tallies import Tally
from hpo.storage.slots import State
from tests.support.handmade import small_spec


@pytest.mark.parametrize(
    ("trainings", "ended"), [(1, 1), (1, 5), (30, 1), (1, 100), (20, 5), (50, 50), (200, 10), (1000, 400)]
)
def test_the_interval_is_that_of_two_poisson_counts(trainings: int, ended: int) -> None:
    """F's quantiles, by scipy."""
    end = estimated_end(1000.0, left=trainings, trainings=trainings, ended=ended, done=ended, seconds=60.0)
    expected = 60.0 * trainings / ended
    assert end.expected == pytest.approx(1000.0 + expected)
    ratio = f(2 * trainings, 2 * ended)
    assert ratio.cdf((end.earliest - 1000) / expected) == pytest.approx(0.05, abs=0.015)
    assert ratio.cdf((end.latest - 1000) / expected) == pytest.approx(0.95, abs=0.015)


def test_the_more_is_known_the_narrower() -> None:
    few, many = (estimated_end(0.0, left=100, trainings=100, ended=n, done=n, seconds=float(n)) for n in (5, 500))
    assert few.expected == many.expected
    assert few.latest - few.earliest > 2 * (many.latest - many.earliest)


def test_a_rate_is_of_the_time_since_the_first_began() -> None:
    assert span(1000.0, [900.0, 950.0], 3600.0) == 100.0
    assert span(10_000.0, [100.0], 3600.0) == 3600.0
    assert span(1000.0, [], 3600.0) == 3600.0
    assert span(1000.0, [1000.0], 3600.0) == 1.0, "nothing is infinitely fast"


def test_a_pruned_training_is_a_part_of_one_and_folds_are_several() -> None:
    spec = small_spec("ws", epochs=6)
    assert work(spec, "search", 2, 9) == 1.5
    assert work(spec, "search", 2, 0) == 2, "a method without epochs"
    folded = spec.model_copy(update={"protocol": spec.protocol.model_copy(update={"folds": 5})})
    assert work(folded, "confirm", 1, 5) == 5, "a step is a fold there"
    assert work(folded, "confirm", 1, 0) == 5
    assert work(folded, "final", 1, 6) == 1


def _phase(kind: str, **counts: int) -> PhaseProgress:
    fields = {"waiting": 0, "running": 0, "done": 0, "failed": 0, "claims": 0, "reclaims": 0, "lost_leases": 0}
    fields |= counts
    fields.setdefault("total", counts["waiting"] + counts["running"] + counts["done"])
    return PhaseProgress(kind=kind, **fields)  # type: ignore[arg-type]


def test_what_is_left_counts_what_is_begun() -> None:
    """Ten search trials done with half the epochs each; two of four run, one of them half-way; then whole rounds."""
    spec = small_spec("ws", epochs=6)

    def tally(state: State, slots: int, epochs: int) -> Tally:
        return Tally(1, "search", state, None, None, slots, slots, slots, 0, epochs, None)

    phases = [_phase("search", waiting=2, running=2, done=10), _phase("final", waiting=0, running=0, done=0, total=7)]
    tallies = [tally("done", 6, 18), tally("done", 4, 12), tally("running", 2, 3), tally("waiting", 2, 0)]
    assert work_left(spec, phases, tallies) == 4 * 0.5 - 0.5 + 7
