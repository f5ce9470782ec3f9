"""What the site keeps of a study's results: equal to what is read anew, at whatever moment; both databases."""

from typing import Any

import pytest
from sqlalchemy import Engine

from hpo.results import queries
from hpo.results.queries import KnownRuns, fingerprint, study_result
from hpo.server import kept
from hpo.server.kept import KeptResults
from hpo.storage import slots, studies
from hpo.storage.outcome import Outcome
from tests.support.handmade import make, small_spec


def test_known_runs_give_the_same_results(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through all phases, and of what failed and was queued again; each outcome is read once."""
    broken = {6}
    maker = make(engine, small_spec("ws", trials=8), limit=0, fails=lambda slot: slot.idx in broken)
    read: list[str] = []
    from_json = Outcome.from_json

    def counting(text: str, where: str) -> Outcome:
        read.append(where)
        return from_json(text, where)

    known: KnownRuns = {}
    for limit in (3, 5, 4, 40):
        maker.work(limit)
        monkeypatch.setattr(Outcome, "from_json", counting)
        part = study_result(engine, "ws", known)
        monkeypatch.undo()
        assert part == study_result(engine, "ws")
        if limit == 4:
            broken.clear()
            slots.requeue_failed(engine, maker.row.id, "search")
    assert len(read) == len(set(read)) == maker.made - 1


def test_more_new_runs_than_a_statement_lists(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "MOST_LISTED", 2)
    make(engine, small_spec("ws", trials=5))
    assert study_result(engine, "ws", {}) == study_result(engine, "ws")


def test_a_fingerprint_is_one_studys(engine: Engine) -> None:
    """What happens in another study does not change it, unless its rounds wait for that one."""
    quiet, busy = (make(engine, small_spec(model, trials=6), limit=0) for model in ("ws", "simple"))

    def look() -> tuple[str, str, str]:
        return fingerprint(engine, "ws"), fingerprint(engine, "simple"), fingerprint(engine)

    before = look()
    busy.work(3)
    after = look()
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, False]
    quiet.work()
    assert studies.get_study(engine, "ws").phase == "final"
    waits = fingerprint(engine, "ws")
    studies.set_paused(engine, busy.row.id, True)
    assert fingerprint(engine, "ws") != waits, "nothing keeps the pool shut any more"


def test_kept_results_are_a_moment_old_at_most(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the moment nothing is read; after it, or an action, what has changed."""
    maker = make(engine, small_spec("ws", trials=6), limit=2)
    results, reads = KeptResults(engine), []

    def counting(*arguments: Any) -> str:
        reads.append(arguments)
        return fingerprint(*arguments)

    monkeypatch.setattr(kept, "fingerprint", counting)
    first = results.of("ws")
    maker.work(1)
    assert results.of("ws") is first
    assert len(reads) == 1
    results.forget()
    second = results.of("ws")
    assert second == study_result(engine, "ws") != first
    monkeypatch.setattr(kept, "RESULTS_SECONDS", 0.0)
    assert results.of("ws") is second, "nothing has changed"
    maker.work(1)
    assert results.of("ws") == study_result(engine, "ws") != second
