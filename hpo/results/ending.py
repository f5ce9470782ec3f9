"""When a study ends: what is left of it at the rate of late, and how far that may be off.

Work is counted in whole trainings: one that stops early is a part of one, one with folds is several.
"""

import math
from collections.abc import Iterable, Sequence

from hpo.results.progress_records import EstimatedEnd, PhaseProgress
from hpo.results.tallies import DAY, HOUR, Tally
from hpo.storage.slots import Kind, State
from hpo.study.spec import StudySpec

ENOUGH = 5  # trainings that ended in the last hour, for its rate to be taken and not the day's
_Z = 1.645  # of the normal distribution: 5% at either end


def estimated_end(now: float, *, left: float, trainings: int, ended: int, done: float, seconds: float) -> EstimatedEnd:
    """The end of `left` work in so many `trainings`, where `ended` trainings have `done` work within so many seconds.

    With trainings that end as a Poisson process the time of the next `trainings` against that of the last `ended` is
    distributed as F with 2 `trainings` and 2 `ended` degrees of freedom (Cox and Lewis, The Statistical Analysis of
    Series of Events, 1966, chapter 9). Lanes side by side end more regularly, so the interval is rather too wide.
    """
    expected = left / done * seconds
    earliest, latest = (now + expected * _quantile(2 * trainings, 2 * ended, z) for z in (-_Z, _Z))
    return EstimatedEnd(earliest=earliest, expected=now + expected, latest=latest)


def _quantile(above: int, below: int, z: float) -> float:
    """F's quantile where the normal distribution's is z, by Paulson's cube root (Annals of Mathematical Statistics,
    1942): scipy has it exactly, and takes a second to load.
    """
    c, d = 2 / (9 * below), 2 / (9 * above)
    a, b = 1 - c, 1 - d
    root = (a * b + z * math.sqrt(a**2 * d + b**2 * c - z**2 * c * d)) / (a**2 - z**2 * c)
    return float(root**3)


def lately(tallies: Iterable[Tally]) -> tuple[list[Tally], float]:
    """What ended in the last hour, or day where that is too little, and how many seconds it may span."""
    of_day = [tally for tally in tallies if tally.period is not None]
    of_hour = [tally for tally in of_day if tally.period == "hour"]
    return (of_hour, HOUR) if sum(tally.slots for tally in of_hour) >= ENOUGH else (of_day, DAY)


def span(now: float, began: Iterable[float], most: float) -> float:
    """Seconds since the first of these trainings began, at most `most`."""
    return min(max(now - min(began, default=now - most), 1.0), most)


def work(spec: StudySpec, kind: Kind, trainings: int, epochs: int) -> float:
    """So many trainings that did so many epochs (or folds) together, in whole trainings."""
    folds = 1 if kind == "final" else spec.protocol.folds
    steps = steps_of(spec, kind)
    return folds * (epochs / steps if epochs else float(trainings))


def steps_of(spec: StudySpec, kind: Kind) -> int:
    """Up to which step a training of this kind counts: its epochs, or its folds where it has some."""
    return spec.budget.epochs if kind == "final" else spec.steps


def work_left(spec: StudySpec, phases: Iterable[PhaseProgress], tallies: Sequence[Tally]) -> float:
    """What a study still has to do; its search's trainings are as long as those that are done, for some are pruned."""
    total = 0.0
    for phase in phases:
        of_kind = [tally for tally in tallies if tally.kind == phase.kind]
        each = work(spec, phase.kind, 1, 0)
        if phase.kind == "search" and phase.done:
            each = work(spec, "search", phase.done, _epochs(of_kind, "done")) / phase.done
        begun = work(spec, phase.kind, 0, _epochs(of_kind, "waiting", "running"))
        total += max(phase.open * each - begun, 0.0)
    return total


def _epochs(tallies: Iterable[Tally], *states: State) -> int:
    return sum(tally.epochs for tally in tallies if tally.state in states)
