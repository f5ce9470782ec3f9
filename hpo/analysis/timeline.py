"""Timeline: which worker trained which slot when, as far as the database knows.

A slot's record keeps its first claim, its end, and of its attempts the last one's worker. So a slot that was
claimed once has a bar from claim to end; one that was claimed again, only the seconds before its end that its
training took: from its first claim on, its bar would lie in times when another worker had it, or none.
Times are seconds since 1970.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from hpo.results.records import Run, RunState, StudyResult
from hpo.study.spec import Model

MOST_WORKERS = 30  # rows of the picture
LONG_PAUSE = 0.1  # a pause is cut from this share of the busy time on


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One slot that has ended."""

    study: str
    model: Model
    kind: Literal["search", "confirm", "final"]
    title: str  # which of its kind: "trial 17", "tuned, round 3"
    state: RunState
    attempts: int  # claims
    first_claim: float
    start: float  # of the bar
    end: float
    lane: int  # from 0: its place beside the slots that overlap with it


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerRow:
    """One worker's slots; those of a population overlap, so they lie in lanes."""

    worker: str
    lanes: int
    bars: tuple[Bar, ...]  # by start


@dataclass(frozen=True, kw_only=True, slots=True)
class Timeline:
    """All workers, or those with the most slots."""

    rows: tuple[WorkerRow, ...]  # by their first slot's start
    workers: int  # in all, the hidden ones too
    hidden: int  # slots of the workers that have no row
    running: int  # slots that have begun and not ended: they have no bar
    pauses: tuple[tuple[float, float], ...]  # long times without any slot, ascending

    @property
    def start(self) -> float:
        """The first bar's start."""
        return min(row.bars[0].start for row in self.rows)

    @property
    def end(self) -> float:
        """The last bar's end."""
        return max(bar.end for row in self.rows for bar in row.bars)


def timeline_of(results: Iterable[StudyResult], most: int = MOST_WORKERS) -> Timeline | None:
    """The timeline over all studies, of the `most` workers with the most slots; None where no slot has ended."""
    by_worker: dict[str, list[tuple[StudyResult, Run]]] = {}
    running = 0
    for result in results:
        for run in result.runs:
            if run.worker is None or run.started_at is None:
                continue
            if run.finished_at is None:
                running += run.state == "running"
                continue
            by_worker.setdefault(run.worker, []).append((result, run))
    if not by_worker:
        return None
    shown = sorted(by_worker, key=lambda worker: (-len(by_worker[worker]), worker))[:most]
    rows = sorted((_row(worker, by_worker[worker]) for worker in shown), key=lambda row: row.bars[0].start)
    return Timeline(
        rows=tuple(rows),
        workers=len(by_worker),
        hidden=sum(len(own) for worker, own in by_worker.items() if worker not in shown),
        running=running,
        pauses=long_pauses([(bar.start, bar.end) for row in rows for bar in row.bars]),
    )


def _row(worker: str, own: Iterable[tuple[StudyResult, Run]]) -> WorkerRow:
    ordered = sorted(((*_interval(run), result, run) for result, run in own), key=lambda one: one[:2])
    lanes = pack([(start, end) for start, end, _, _ in ordered])
    bars = tuple(
        Bar(
            study=result.name,
            model=result.model,
            kind=run.kind,
            title=_title(run),
            state=run.state,
            attempts=run.attempt,
            first_claim=start if run.started_at is None else run.started_at,
            start=start,
            end=end,
            lane=lane,
        )
        for (start, end, result, run), lane in zip(ordered, lanes, strict=True)
    )
    return WorkerRow(worker=worker, lanes=1 + max(lanes), bars=bars)


def _interval(run: Run) -> tuple[float, float]:
    assert run.started_at is not None
    assert run.finished_at is not None
    end = max(run.started_at, run.finished_at)
    if run.attempt > 1 and run.seconds is not None:
        return max(run.started_at, end - run.seconds), end
    return run.started_at, end


def _title(run: Run) -> str:
    if run.kind == "search":
        return f"trial {run.idx if run.number is None else run.number}"
    return f"{run.label}, round {run.round}"


def pack(intervals: Sequence[tuple[float, float]]) -> list[int]:
    """A lane for each interval (start, end), given by ascending start, so that none overlaps in its lane.

    Each takes the first lane that is free at its start, so there are as many lanes as ever overlap at once.
    """
    free_from: list[float] = []  # by lane
    lanes = []
    for start, end in intervals:
        lane = next((i for i, free in enumerate(free_from) if free <= start), len(free_from))
        if lane == len(free_from):
            free_from.append(end)
        else:
            free_from[lane] = end
        lanes.append(lane)
    return lanes


def long_pauses(intervals: Iterable[tuple[float, float]], share: float = LONG_PAUSE) -> tuple[tuple[float, float], ...]:
    """The gaps between intervals that are longer than that share of the time in which something ran."""
    gaps: list[tuple[float, float]] = []
    busy, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        if start > until > float("-inf"):
            gaps.append((until, start))
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return tuple((start, end) for start, end in gaps if end - start > share * busy)
