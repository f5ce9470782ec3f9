"""The timeline: bars from runs, overlapping ones in lanes, long pauses, and the picture of it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo.analysis.timeline import long_pauses, pack, timeline_of
from hpo.report.charts import timeline
from tests.support.results import run, study


def at(idx: int, start: float, end: float | None, worker: str = "w", **changes: Any) -> Any:
    return run("search", idx, started_at=start, finished_at=end, worker=worker, **changes)


intervals = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 12)).map(lambda i: (float(i[0]), float(sum(i)))))


@given(intervals)
def test_packing_overlaps_in_no_lane_and_wastes_none(made: list[tuple[float, float]]) -> None:
    made.sort()
    lanes = pack(made)
    for i, (start, end) in enumerate(made):
        for j in range(i):
            assert lanes[i] != lanes[j] or made[j][1] <= start or end <= made[j][0]
    long = [(start, end) for start, end in made if end > start]
    depth = max((sum(s <= start < e for s, e in long) for start, _ in long), default=0)
    if len(long) == len(made):
        assert len(set(lanes)) == depth


def test_packing_takes_the_first_free_lane() -> None:
    assert pack([(0, 4), (1, 9), (2, 3), (3, 5), (4, 6), (9, 10)]) == [0, 1, 2, 2, 0, 0]


def test_rows_of_all_studies() -> None:
    """Workers by their first slot, their slots of every study and phase beside each other."""
    result = study("ws", [at(0, 50, 70, "late"), at(1, 10, 20, "early"), at(2, 15, 40, "early", number=17)])
    final = run("final", 0, label="tuned", round=3, worker="early", started_at=20.0, finished_at=30.0, attempt=1)
    waiting = run("search", 9, worker=None, started_at=None, finished_at=None, state="waiting")
    running = at(8, 60, None, "early", state="running")
    actual = timeline_of([result, study("simple", [final, waiting, running], id=2)])
    assert actual is not None
    assert [(row.worker, row.lanes) for row in actual.rows] == [("early", 2), ("late", 1)]
    early = actual.rows[0].bars
    assert [(b.model, b.kind, b.title, b.start, b.end, b.lane) for b in early] == [
        ("ws", "search", "trial 1", 10, 20, 0),
        ("ws", "search", "trial 17", 15, 40, 1),
        ("simple", "final", "tuned, round 3", 20, 30, 0),
    ]
    assert (actual.workers, actual.hidden, actual.running) == (2, 0, 1)
    assert (actual.start, actual.end) == (10, 70)
    assert timeline_of([study("ws", [waiting, running])]) is None


def test_a_slot_claimed_again_does_not_reach_into_other_workers_time() -> None:
    """The last worker had it for as long as it trained; where nobody knows how long, from the first claim on."""
    runs = [at(0, 0, 100, attempt=2, seconds=30.0), at(1, 0, 100, attempt=2, seconds=None, state="failed")]
    runs += [at(2, 0, 100, attempt=3, seconds=400.0), at(3, 0, 100, attempt=1, seconds=30.0)]
    actual = timeline_of([study("ws", runs)])
    assert actual is not None
    bars = sorted(actual.rows[0].bars, key=lambda bar: bar.title)
    assert [(b.title, b.attempts, b.first_claim, b.start, b.end) for b in bars] == [
        ("trial 0", 2, 0, 70, 100),
        ("trial 1", 2, 0, 0, 100),
        ("trial 2", 3, 0, 0, 100),
        ("trial 3", 1, 0, 0, 100),
    ]


def test_too_many_workers_are_cut_and_counted() -> None:
    runs = [at(10 * w + i, w, w + 1, f"w{w}") for w in range(5) for i in range(1 + w)]
    actual = timeline_of([study("ws", runs)], limit=2)
    assert actual is not None
    assert [row.worker for row in actual.rows] == ["w3", "w4"]
    assert (actual.workers, actual.hidden) == (5, 1 + 2 + 3)


def test_pauses_are_long_gaps_of_all_rows() -> None:
    assert long_pauses([(0, 10), (5, 40), (43, 60), (200, 210)]) == ((60, 200),)  # busy 67: 3 is short, 140 long
    assert long_pauses([(0, 40), (47, 70)]) == ((40, 47),)  # busy 63: from 6.3 on
    assert long_pauses([(0, 40), (46, 69)]) == ()
    assert long_pauses([(0, 10), (0, 2), (12, 20)], share=0.05) == ((10, 12),)
    assert long_pauses([]) == ()


def test_the_picture_has_a_bar_for_every_slot_and_a_mark_for_every_second_claim() -> None:
    runs = [at(0, 0, 100), at(1, 50, 160, attempt=2, seconds=60.0), at(2, 4000, 4100, "x<y")]
    runs.append(run("final", 0, label="tuned", round=0, started_at=4100.0, finished_at=4150.0))
    actual = timeline_of([study("ws", runs)])
    assert actual is not None
    assert len(actual.pauses) == 1
    figure = timeline.timeline_chart(actual)
    bars = [trace for trace in figure.data if trace.type == "bar"]
    assert sum(len(trace.y) for trace in bars) == 4
    assert [trace.showlegend for trace in bars] == [True, False]
    (marks,) = [trace for trace in figure.data if trace.type == "scatter"]
    assert len(marks.x) == 1
    search = bars[1]
    assert len(search.y) == 3
    first, again, after = sorted(zip(search.base, search.x, search.y, strict=True))
    assert (first[0], first[1]) == (0, pytest.approx(100 / 60, abs=1e-4))  # minutes
    assert again[0] == pytest.approx(100 / 60, abs=1e-4)
    assert again[2] == first[2]  # one ended as the other began: one lane
    assert after[0] == pytest.approx((160 + 0.03 * 310) / 60, abs=1e-4)  # the pause takes 3% of the 310 s shown
    assert list(figure.layout.yaxis.ticktext) == ["w", "x&lt;y"]
    assert "pause of 64.0 minutes" in [note.text for note in figure.layout.annotations]
