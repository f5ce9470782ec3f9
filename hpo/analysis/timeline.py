"""Timeline: which worker trained which slot when, as far as the database knows.

A slot's record keeps its first claim, its end, and the worker of its last attempt. So the bar of a slot that was
claimed once reaches from claim to end. That of a slot that was claimed again covers only the duration of its training
before its end: a bar from the first claim would include times when another worker had the slot, or nobody.
Times are seconds since 1970.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from hpo.results.records import RunState, StudyResult, TrainingRecord

MOST_WORKERS = 30  # rows of the figure
LONG_PAUSE = 0.1  # pauses longer than this share of the busy time are cut


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """One slot that has ended."""

    study: str
    model: str
    kind: Literal["search", "confirm", "final"]
    title: str  # "trial 17", or "tuned, round 3"
    state: RunState
    attempts: int  # claims
    first_claim: float
    start: float  # of the bar
    end: float
    lane: int  # from 0: separates slots that overlap


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
    workers: int  # in all, those without a row too
    hidden: int  # slots of the workers without a row
    running: int  # slots that have started and not ended, which have no bar
    pauses: tuple[tuple[float, float], ...]  # long times without any slot, in order

    @property
    def start(self) -> float:
        """The first bar's start."""
        return min(row.bars[0].start for row in self.rows)

    @property
    def end(self) -> float:
        """The last bar's end."""
        return max(bar.end for row in self.rows for bar in row.bars)


def timeline_of(results: Iterable[StudyResult], limit: int = MOST_WORKERS) -> Timeline | None:
    """The timeline of all studies and the workers with the most slots; None where no slot has ended."""
    by_worker: dict[str, list[tuple[StudyResult, TrainingRecord]]] = {}
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
    shown = sorted(by_worker, key=lambda worker: (-len(by_worker[worker]), worker))[:limit]
    rows = sorted((_row(worker, by_worker[worker]) for worker in shown), key=lambda row: row.bars[0].start)
    return Timeline(
        rows=tuple(rows),
        workers=len(by_worker),
        hidden=sum(len(slots) for worker, slots in by_worker.items() if worker not in shown),
        running=running,
        pauses=long_pauses([(bar.start, bar.end) for row in rows for bar in row.bars]),
    )


def _row(worker: str, runs: Iterable[tuple[StudyResult, TrainingRecord]]) -> WorkerRow:
    ordered = sorted(((*_interval(run), result, run) for result, run in runs), key=lambda item: item[:2])
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


def _interval(run: TrainingRecord) -> tuple[float, float]:
    assert run.started_at is not None
    assert run.finished_at is not None
    end = max(run.started_at, run.finished_at)
    if run.attempt > 1 and run.seconds is not None:
        return max(run.started_at, end - run.seconds), end
    return run.started_at, end


def _title(run: TrainingRecord) -> str:
    if run.kind == "search":
        return f"trial {run.idx if run.number is None else run.number}"
    return f"{run.label}, round {run.round}"


def pack(intervals: Sequence[tuple[float, float]]) -> list[int]:
    """A lane for each interval (start, end), given by ascending start, so that none overlap within a lane.

    Each takes the first lane that is free at its start, so there are as many lanes as intervals overlap at most.
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
    """The gaps between intervals that are longer than this share of the time in which something ran."""
    gaps: list[tuple[float, float]] = []
    busy, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        if start > until > float("-inf"):
            gaps.append((until, start))
        busy += max(0.0, end - max(start, until))
        until = max(until, end)
    return tuple((start, end) for start, end in gaps if end - start > share * busy)
