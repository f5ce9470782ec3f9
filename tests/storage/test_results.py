"""Results: what is read from a database that was filled through hpo.storage's own functions."""

import json
from pathlib import Path
from statistics import fmean, stdev

import pytest
from sqlalchemy import Engine

from hpo.analysis.comparison import compare
from hpo.errors import SchemaError, StudyNotFound
from hpo.report.sentences import conclusions_of
from hpo.report.terminal import study_detail, study_table, trial_detail
from hpo.report.terminal_comparison import comparison_table
from hpo.results import queries
from hpo.results.summary import summary as summary_of
from hpo.storage import claims, slots, studies
from hpo.storage.engine import open_engine
from hpo.storage.optuna_storage import make_storage
from hpo.storage.slots import Slot
from hpo.study import operations
from hpo.study.search import fixed_trial
from hpo.study.spec import StudySpec
from tests.support import handmade
from tests.support.handmade import make, small_spec


def _text(renderable: object) -> str:
    from rich.console import Console

    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - closed with the test
    console.print(renderable)
    console.file.close()
    return console.export_text()


def test_a_whole_study_on_both_databases(engine: Engine) -> None:
    """Every number of `study show` is recounted from the slots themselves."""
    maker = make(engine, small_spec("ws", trials=9, rounds=4))
    summary = summary_of(queries.study_result(engine, "ws"))
    assert summary["phase"] == "done"
    assert summary["missing"] == []
    none = dict.fromkeys(("waiting", "running", "pruned", "diverged", "failed"), 0)
    assert summary["trials"] == {**none, "complete": 9, "total": 9}
    search = [s for s in slots.list_slots(engine, maker.row.id, "search") if s.outcome]
    best = max(search, key=lambda s: s.outcome.value if s.outcome else 0)
    assert best.outcome is not None
    expected = {"number": best.trial_number, "value": best.outcome.value, "params": best.params}
    assert summary["best"] == expected
    row = studies.get_study(engine, "ws")
    assert summary["tuned"] == row.tuned
    assert [final["label"] for final in summary["final"]] == ["tuned", "paper"]
    for final in summary["final"]:
        of_label = [s for s in slots.list_slots(engine, maker.row.id, "final") if s.label == final["label"]]
        values = [s.outcome.value for s in sorted(of_label, key=lambda s: s.round or 0) if s.outcome]
        assert final["test_values"] == values
        assert final["rounds"] == 4
        assert final["test_mean"] == pytest.approx(fmean(values))
        assert final["test_std"] == pytest.approx(stdev(values))
        assert final["train_mean"] == pytest.approx(
            fmean(s.outcome.train_accuracy or 0.0 for s in of_label if s.outcome)
        )
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_where_the_papers_won_both_labels_have_its_rounds(sqlite_engine: Engine) -> None:
    make(sqlite_engine, small_spec("simple", trials=6, rounds=3), paper_is_best=True)
    result = queries.study_result(sqlite_engine, "simple")
    assert result.tuned is not None
    assert result.tuned.source == "paper"
    tuned, paper = result.final
    assert (tuned.label, tuned.same_as, paper.label, paper.same_as) == ("tuned", "paper", "paper", None)
    assert tuned.test_values == paper.test_values
    assert len(result.final_runs) == 3
    assert "the paper's won" in _text(study_detail(result))


def test_the_ranking_is_the_protocols(sqlite_engine: Engine) -> None:
    """The winner that the protocol stored stands first, with the mean that it stored."""
    make(sqlite_engine, small_spec("ws", trials=8, rounds=1))
    result = queries.study_result(sqlite_engine, "ws")
    assert result.tuned is not None
    assert result.ranking[0].label == f"trial {result.tuned.source}"
    assert result.ranking[0].mean == pytest.approx(result.tuned.confirm_mean)
    means = [one.mean for one in result.ranking if one.mean is not None]
    assert len(means) == len(result.ranking)
    assert means == sorted(means, reverse=True)
    assert {one.label for one in result.ranking} >= {"paper"}


def test_an_unfinished_study_says_what_is_missing(sqlite_engine: Engine) -> None:
    maker = make(sqlite_engine, small_spec("ws", trials=12, rounds=5), limit=7)
    result = queries.study_result(sqlite_engine, "ws")
    assert (result.trials.complete, result.trials.waiting, result.tuned, result.final) == (7, 5, None, ())
    text = "\n".join(result.missing)
    assert "5 of 12 trials are still to come" in text
    assert "confirm: has not started" in text
    maker.work(5 + 9 + 3)  # the search, confirm, and three of ten final rounds
    result = queries.study_result(sqlite_engine, "ws")
    assert [final.rounds for final in result.final] in ([0, 3], [3, 0])
    assert any(" of 5 rounds" in line for line in result.missing)
    assert [f["rounds"] for f in summary_of(result)["final"]] == [3]
    assert "still" not in "\n".join(result.missing)


def test_one_round_has_no_standard_deviation(sqlite_engine: Engine) -> None:
    make(sqlite_engine, small_spec("ws", trials=0, rounds=1))
    assert summary_of(queries.study_result(sqlite_engine, "ws"))["final"] == []  # an evaluation: none asked
    make(sqlite_engine, small_spec("simple", trials=2, rounds=1))
    final = summary_of(queries.study_result(sqlite_engine, "simple"))["final"]
    assert [one["test_std"] for one in final] == [None] * len(final)
    assert final[0]["test_mean"] == final[0]["test_values"][0]


def test_states_are_told_apart(sqlite_engine: Engine) -> None:
    """Pruned, diverged, failed and running slots count where they belong, and none of them is the best."""

    def state(slot: Slot) -> str:
        return {3: "pruned", 4: "diverged"}.get(slot.idx, "complete") if slot.kind == "search" else "complete"

    make(
        sqlite_engine,
        small_spec("ws", trials=10),
        limit=8,
        state=state,
        fails=lambda slot: slot.kind == "search" and slot.idx == 5,
    )
    result = queries.study_result(sqlite_engine, "ws")
    t = result.trials
    assert (t.complete, t.pruned, t.diverged, t.failed, t.waiting, t.total) == (5, 1, 1, 1, 2, 10)
    assert result.best is not None
    assert result.best.number not in (3, 4, 5)
    assert any("1 of 10 trials failed" in line for line in result.missing)
    (failed,) = [run for run in result.search if run.state == "failed"]
    assert failed.error is not None
    assert failed.error.endswith("out of <memory>")


def test_failed_confirm_and_final_rounds_are_named(sqlite_engine: Engine) -> None:
    make(
        sqlite_engine,
        small_spec("ws", trials=6, rounds=3),
        fails=lambda slot: (slot.kind, slot.label, slot.round) in {("confirm", "paper", 1), ("final", "paper", 2)},
    )
    result = queries.study_result(sqlite_engine, "ws")
    assert result.phase == "final"
    paper = next(one for one in result.ranking if one.label == "paper")
    assert (paper.whole, paper.failed) == (False, 1)
    assert result.ranking[-1] == paper
    text = "\n".join(result.missing)
    assert "confirm: paper is dropped, 1 of its rounds failed" in text
    assert "final: paper has 2 of 3 rounds, 1 failed (`hpo study resume ws` retries them)" in text


TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nRuntimeError: [no] <kernel>'


def claim_first(engine: Engine, lease_seconds: float = 600.0) -> Slot:
    """The slot that comes first, its trial bound as a worker does it."""
    (slot,) = claims.claim(engine, 1, worker="w", lease_seconds=lease_seconds, model="ws")
    template = None
    if slot.kind != "search":
        spec = StudySpec.from_canonical(studies.get_study(engine, "ws").spec)
        template = fixed_trial(spec, slot.params or {}, slot.label or "", slot.round or 0)
    make_storage(engine).bind_trial(slot.id, slot.token or "", template)
    return slot


def raise_in(engine: Engine) -> Slot:
    """The model's code raises in the first slot."""
    slot = claim_first(engine)
    assert slots.fail(engine, slot.id, slot.token or "", TRACEBACK, retry=True)
    return slot


def test_failures_are_told_apart(engine: Engine) -> None:
    """By both commands: an exception or leases, once or for good, and what was done; nothing of who was pre-empted."""
    maker = make(engine, small_spec("ws", trials=8, rounds=2), limit=0)
    raise_in(engine)
    maker.work(1)  # trial 0: once, then well
    for _ in range(2):
        raise_in(engine)  # trial 1: twice
    for _ in range(claims.MAX_ATTEMPTS):
        claim_first(engine, lease_seconds=-1)  # trial 2: dead workers alone
    claims.sweep(engine)
    claim_first(engine, lease_seconds=-1)
    maker.work(1)  # trial 3: one dead worker
    released = claim_first(engine)
    assert slots.release(engine, released.id, released.token or "")
    maker.work(4 + 9 + 1)
    for _ in range(2):
        lost = raise_in(engine)  # a final round
    maker.work()

    result = queries.study_result(engine, "ws")
    told = {(one["study"], one["number"]): one for one in summary_of(result)["failures"]}
    assert {key: (one["state"], one["setbacks"]) for key, one in told.items()} == {
        ("ws", 1): ("failed", ["raised twice, given up"]),
        ("ws", 2): ("failed", ["3 leases ended without a new epoch, given up"]),
        ("ws:final", 0): ("failed", ["raised twice, given up"]),
        ("ws", 0): ("complete", ["raised once, retried"]),
        ("ws", 3): ("complete", ["1 lease ended without a new epoch, taken up again"]),
    }
    assert [key for key, one in told.items() if one["error"] == TRACEBACK] == [("ws", 1), ("ws:final", 0), ("ws", 0)]
    text = _text(study_detail(result))
    assert "`hpo trial show ws 1`" in text
    for (study, number), one in told.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"{study} {number} ")]
        assert one["setbacks"][0] in line
        assert ("RuntimeError: [no] <kernel>" in line) == (one["error"] == TRACEBACK)
        shown = _text(trial_detail(queries.trial(engine, study, number)))
        assert one["setbacks"][0] in shown
        assert ('File "x.py", line 1' in shown) == (one["error"] == TRACEBACK)
    final = queries.trial(engine, "ws:final", 0)
    assert (final["kind"], final["label"], final["round"]) == ("final", lost.label, lost.round)
    assert f"{lost.label}, round {lost.round}" in _text(trial_detail(final))
    assert queries.trial(engine, "ws", 4)["setbacks"] == [
        "1 attempt ended early: given back, cut off after a new epoch, or before a resume"
    ]
    with pytest.raises(queries.TrialNotFound, match=r"study ws:final has no trial 40"):
        queries.trial(engine, "ws:final", 40)
    with pytest.raises(StudyNotFound, match=r"no study is called 'ws:fin'; there are ws$"):
        queries.trial(engine, "ws:fin", 0)

    assert operations.resume(engine, "ws") == 1
    maker.work()
    result = queries.study_result(engine, "ws")
    assert (result.phase, result.missing[1:]) == ("done", ())
    again = next(one for one in summary_of(result)["failures"] if one["study"] == "ws:final")
    assert again["setbacks"][0] == "failed, queued again by `hpo study resume`"


def test_resume_does_at_once_what_show_says(sqlite_engine: Engine) -> None:
    """Where too much of a search has failed, `study show` names the command while other trials still wait."""
    make(sqlite_engine, small_spec("ws", trials=8), limit=4, fails=lambda slot: slot.idx > 0)
    result = queries.study_result(sqlite_engine, "ws")
    assert (result.trials.failed, result.trials.waiting, result.is_blocked) == (3, 4, False)
    assert any("more than a quarter" in line and "`hpo study resume ws`" in line for line in result.missing)
    assert operations.resume(sqlite_engine, "ws") == 3
    assert operations.resume(sqlite_engine, "ws") == 0


def test_many_failures_are_shown_in_part(sqlite_engine: Engine) -> None:
    make(sqlite_engine, small_spec("ws", trials=15), limit=15, fails=lambda slot: slot.idx > 2)
    text = _text(study_detail(queries.study_result(sqlite_engine, "ws")))
    assert text.count("RuntimeError: out of <memory>") == 10
    assert "2 more: see `--format json`" in text


def test_openings_and_outputs(sqlite_engine: Engine) -> None:
    make(
        sqlite_engine,
        small_spec("ws", trials=3, rounds=2),
        outputs=lambda slot, value: bytes([slot.round or 0] * 5),
    )
    result = queries.study_result(sqlite_engine, "ws")
    assert len(result.openings) == len(result.final_runs)
    assert {o.slot_id for o in result.openings} == {run.slot_id for run in result.final_runs}
    outputs = queries.final_outputs(sqlite_engine, result.id)
    assert set(outputs) == {(run.label, run.round) for run in result.final_runs}
    assert outputs["paper", 1] == bytes([1] * 5)


def test_one_trial(sqlite_engine: Engine) -> None:
    make(sqlite_engine, small_spec("ws", trials=4), limit=4)
    actual = queries.trial(sqlite_engine, "ws", 2)
    assert actual["number"] == 2
    assert len(actual["validation_accuracy"]) == actual["epochs"] == 6
    assert (actual["seconds"], actual["device_seconds"]) == (12.5, 3.125)
    json.dumps(actual, allow_nan=False)
    assert "ws trial 2" in _text(trial_detail(actual))
    with pytest.raises(queries.TrialNotFound, match=r"study ws has no trial 40; there are 0 to 3"):
        queries.trial(sqlite_engine, "ws", 40)


def test_no_study_and_no_database(sqlite_engine: Engine, tmp_path: Path) -> None:
    assert queries.all_results(sqlite_engine) == []
    with pytest.raises(StudyNotFound, match="`hpo study create` makes the first one"):
        queries.study_result(sqlite_engine, "ws")
    make(sqlite_engine, small_spec("ws"), limit=1)
    with pytest.raises(StudyNotFound, match=r"no study is called 'wx'; there are ws$"):
        queries.study_result(sqlite_engine, "wx")
    missing = tmp_path / "none.db"
    with pytest.raises(SchemaError, match="no database there yet"):
        queries.all_results(open_engine(f"sqlite:///{missing}"))
    assert not missing.exists()


def test_tables_say_the_same_as_the_records(sqlite_engine: Engine) -> None:
    nothing = compare([])
    assert "no studies yet" in _text(comparison_table([], nothing, conclusions_of([], nothing)))
    assert "no studies yet" in _text(study_table([]))
    make(sqlite_engine, small_spec("ws", trials=8, rounds=3))
    make(sqlite_engine, small_spec("simple", trials=8, rounds=3), limit=2)
    actual = queries.all_results(sqlite_engine)
    tuned = actual[0].final_of("tuned")
    assert tuned is not None
    assert tuned.test_mean is not None
    comparison = compare(actual)
    text = _text(comparison_table(actual, comparison, conclusions_of(actual, comparison)))
    assert f"{100 * tuned.test_mean:.1f} ± " in text
    assert "as published" in text
    assert "Small budget" in text
    assert "simple: search: 6 of 8 trials are still to come" in text
    published = next(line for line in text.splitlines() if "as published" in line and "ws" in line)
    assert " 40 " in published  # its epochs stand beside it
    listing = _text(study_table(actual))
    assert "8/8" in listing
    assert "2/8" in listing


def test_a_slot_that_was_read_half_way(sqlite_engine: Engine) -> None:
    """A running search slot has no value yet, and its study no best trial."""
    row = handmade.create(sqlite_engine, small_spec("ws", trials=2))
    claims.claim(sqlite_engine, 1, worker="w", lease_seconds=60, model="ws", study_ids=[row.id])
    result = queries.study_result(sqlite_engine, "ws")
    assert (result.trials.running, result.trials.waiting, result.best) == (1, 1, None)
    assert summary_of(result)["best"] is None
