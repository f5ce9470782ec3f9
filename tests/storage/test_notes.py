"""The notes on the studies' pages: what they say, when they are written, whose they are."""

import json

import numpy as np
import optuna
import optuna_dashboard  # type: ignore[import-untyped]  # ships no types
import pytest
from sqlalchemy import Engine

from hpo.analysis.comparison import compare
from hpo.digits.answers import pair_draws
from hpo.digits.bundled import BUNDLED_DIGEST
from hpo.digits.load import load
from hpo.report.contents import gather
from hpo.report.sentences import conclusions_of
from hpo.results.queries import all_results, study_result
from hpo.results.records import StudyResult
from hpo.server import notes
from hpo.storage import claims, slots, studies
from hpo.storage.optuna_storage import make_storage, open_optuna
from hpo.study.projection import project
from hpo.study.search import Search
from tests.support.handmade import Maker, make, packed_answers, small_spec


def note(engine: Engine, name: str) -> str:
    """The note as optuna-dashboard reads it."""
    return str(optuna_dashboard.get_note(optuna.load_study(study_name=name, storage=make_storage(engine))))


def bring_on(maker: Maker) -> None:
    """What a worker does after the last slot of a phase."""
    row = studies.get_study(maker.engine, maker.spec.name)
    assert project(maker.engine, Search(open_optuna(maker.engine), row))
    notes.update_notes(maker.engine, [row.name])


def leave_a_slot(maker: Maker) -> None:
    """Finish all slots of the phase by hand, and leave it to a worker to move it on."""
    while actual := claims.claim(
        maker.engine, 8, worker="w", lease_seconds=600.0, model=maker.spec.model, study_ids=[maker.row.id]
    ):
        for slot in actual:
            maker.end(slot)


def test_a_worker_writes_the_note_when_a_phase_moves_on(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    maker = make(engine, small_spec("ws", trials=6, rounds=3), limit=0)
    seen = []
    for _ in range(3):
        leave_a_slot(maker)
        bring_on(maker)
        seen.append(note(engine, "ws"))
    assert [text.splitlines()[0] for text in seen] == [
        "## ws: phase confirm (2 of 3)",
        "## ws: phase final (3 of 3)",
        "## ws: done",
    ]
    assert "| search | 6 of 6 trials: 6 complete |" in seen[0]
    assert "best so far (trial" in seen[0]
    assert "- confirm: paper has 0 of 3 rounds" in seen[0]
    assert "| confirm | 9 of 9 rounds |" in seen[1]
    assert "**Missing**" not in seen[2]
    assert caplog.messages == []


def test_the_note_has_the_numbers(sqlite_engine: Engine) -> None:
    for model in ("simple", "ws"):
        make(sqlite_engine, small_spec(model, trials=12, rounds=11))
    results = all_results(sqlite_engine)
    notes.write_pages(sqlite_engine, results, compare(results))
    result, text = study_result(sqlite_engine, "ws"), note(sqlite_engine, "ws")
    tuned = result.final_of("tuned")
    assert result.tuned is not None
    assert tuned is not None
    assert f"tuned (trial {result.tuned.source})" in text
    assert f"{result.tuned.params['learning_rate']:.3g}" in text
    assert f"{100 * (result.tuned.confirm_mean or 0):.2f}" in text
    assert f"{100 * (tuned.test_mean or 0):.1f} ± {100 * (tuned.test_std or 0):.1f}" in text
    sentences = conclusions_of(results, compare(results)).headlines
    assert [line for line in sentences if line in text] == [line for line in sentences if "ws" in line]
    assert [line for line in sentences if line in note(sqlite_engine, "simple")] == [
        line for line in sentences if "simple" in line
    ]
    ranking = note(sqlite_engine, "ws:confirm")
    assert all(f"| {one.label} | 3 of 3 | {100 * (one.mean or 0):.2f} |" in ranking for one in result.ranking)
    assert "| tuned | 11 of 11 |" in note(sqlite_engine, "ws:final")


def test_the_notes_verdict_is_the_reports(sqlite_engine: Engine) -> None:
    """Of the digits, whose answers are read with their images: whether a difference holds for new ones too."""
    draw = pair_draws(load().pool_b_labels().astype(np.int64))
    for model in ("simple", "ws-aux"):
        spec = small_spec(model, trials=6, rounds=11)
        make(sqlite_engine, spec, data_digest=BUNDLED_DIGEST, outputs=packed_answers(draw, spec.protocol.test_pairs))
    reported = gather(sqlite_engine).conclusions.headlines
    assert "ws-aux is better than simple: both tuned" in reported[0]
    for all_pages in (False, True):
        if all_pages:
            notes.write_all_pages(sqlite_engine)
        else:
            notes.write_notes(sqlite_engine, ["simple"])
        assert [line for line in reported if line not in note(sqlite_engine, "simple")] == [
            line for line in reported if "simple" not in line
        ]
        assert "had not the images at hand" not in note(sqlite_engine, "simple")


def test_a_note_without_the_images_refers_to_the_report(sqlite_engine: Engine) -> None:
    """Its verdicts hold on these test images, and it says why no more is known."""
    spec = small_spec("ws", trials=6, rounds=11)
    make(sqlite_engine, spec, outputs=lambda slot, value: bytes(spec.protocol.test_pairs))
    notes.write_notes(sqlite_engine, ["ws"])
    assert "had not the images at hand: `hpo report` also says what new ones change" in note(sqlite_engine, "ws")


def test_the_papers_won(sqlite_engine: Engine) -> None:
    make(sqlite_engine, small_spec("simple", trials=6, rounds=3), paper_is_best=True)
    notes.write_all_pages(sqlite_engine)
    text = note(sqlite_engine, "simple")
    assert "paper's, which is the tuned one" in text
    assert (
        "What tuning brings simple is open: the paper's configuration won the confirm phase, and no other was tested."
        in text
    )


def test_writing_again_changes_nothing(engine: Engine) -> None:
    make(engine, small_spec("ws", trials=6, rounds=3))
    notes.write_notes(engine, ["ws"])
    first = note(engine, "ws")
    notes.write_all_pages(engine)
    notes.write_notes(engine, ["ws"])
    assert note(engine, "ws") == first
    attributes = make_storage(engine).get_study_system_attrs(studies.get_study(engine, "ws").search_study_id)
    assert attributes["dashboard:note_ver"] == 1


def test_who_has_read_earlier_does_not_write_last(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between a slow writer's look and its write a phase moves on, and that worker's note is there first."""
    make(engine, small_spec("simple", trials=6, rounds=3))
    slower = make(engine, small_spec("ws", trials=6, rounds=3), limit=6 + 9 + 5)  # one final round is missing
    notes.write_notes(engine, ["ws"])
    assert note(engine, "ws").startswith("## ws: phase final")
    reads: list[list[StudyResult]] = []

    def read_and_sleep(asked: Engine) -> list[StudyResult]:
        actual = all_results(asked)
        reads.append(actual)
        if len(reads) == 1:
            slower.work()
            notes.write_notes(engine, ["ws"])
            assert note(engine, "ws").startswith("## ws: done")
        return actual

    monkeypatch.setattr(notes, "all_results", read_and_sleep)
    notes.write_notes(engine, ["simple"])  # writes the page of ws too, for they are compared
    assert note(engine, "ws").startswith("## ws: done")
    assert len(reads) == 3, "the slow one's, the other's, and once more"


def test_a_report_that_has_read_earlier_does_not_write_last(sqlite_engine: Engine) -> None:
    maker = make(sqlite_engine, small_spec("ws", trials=6, rounds=3), limit=8)
    results = all_results(sqlite_engine)
    maker.work()
    notes.write_notes(sqlite_engine, ["ws"])
    notes.write_pages(sqlite_engine, results, compare(results))
    assert note(sqlite_engine, "ws").startswith("## ws: done")


def test_a_persons_note_stays_and_ours_comes_back_when_it_is_emptied(sqlite_engine: Engine) -> None:
    maker = make(sqlite_engine, small_spec("ws", trials=6, rounds=3), limit=6)
    notes.write_all_pages(sqlite_engine)
    study = optuna.load_study(study_name="ws", storage=make_storage(sqlite_engine))
    edited = note(sqlite_engine, "ws").replace("Budget", "My remark. Budget")  # our last line is still there
    optuna_dashboard.save_note(study, edited)
    maker.work()
    notes.write_all_pages(sqlite_engine)
    assert note(sqlite_engine, "ws") == edited
    assert "## ws: final rounds" in note(sqlite_engine, "ws:final")
    optuna_dashboard.save_note(study, "")
    notes.write_notes(sqlite_engine, ["ws"])
    assert note(sqlite_engine, "ws").startswith("## ws: done")


def test_a_note_that_fails_fails_nothing_else(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The phase has moved on, the failure is logged in a line, and the next event writes the note."""
    maker = make(engine, small_spec("ws", trials=6, rounds=3), limit=0)
    leave_a_slot(maker)
    with monkeypatch.context() as patched:
        patched.setattr(notes, "keep_pages", lambda *_: 1 / 0)
        bring_on(maker)
    assert studies.get_study(engine, "ws").phase == "confirm"
    assert len(slots.list_slots(engine, maker.row.id, "confirm")) == 9
    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "hpo.server.notes",
            "WARNING",
            "the studies' notes in optuna-dashboard are not up to date: ZeroDivisionError: division by zero",
        )
    ]
    assert note(engine, "ws") == ""
    leave_a_slot(maker)
    bring_on(maker)
    assert note(engine, "ws").startswith("## ws: phase final")


def test_figures_are_small_and_of_this_model(sqlite_engine: Engine) -> None:
    for model in ("simple", "ws"):
        make(sqlite_engine, small_spec(model, trials=12, rounds=20))
    results = all_results(sqlite_engine)
    drawn = notes.figures_of(study_result(sqlite_engine, "ws"), compare(results))
    assert set(drawn) == {"hpo-confirm", "hpo-final"}
    assert max(len(text) for text in drawn.values()) < 20_000
    assert configurations(drawn["hpo-final"]) == ["as published", "paper's, re-run", "tuned"]
    assert configurations(drawn["hpo-confirm"]) == [
        "paper's, re-run" if confirmed.label == "paper" else confirmed.label for confirmed in results[1].ranking
    ]


def configurations(figure: str) -> list[str]:
    """The configurations below a figure's groups, each between its model and its epochs."""
    ticks = [tick.split("<br>") for tick in json.loads(figure)["layout"]["xaxis"]["ticktext"]]
    assert {tick[0] for tick in ticks} == {"ws"}
    return [" ".join(tick[1:-1]) for tick in ticks]


def test_names_are_not_read_as_markup(sqlite_engine: Engine) -> None:
    """Two pairs of underscores make text bold, but not in code, where a backslash would be shown."""
    make(sqlite_engine, small_spec("ws", trials=6, rounds=2).with_options(name="a__b__c"), fails=lambda s: s.idx == 4)
    notes.write_all_pages(sqlite_engine)
    text = note(sqlite_engine, "a__b__c")
    assert text.startswith("## a\\_\\_b\\_\\_c: ")
    assert "`hpo study resume a__b__c`" in notes._safe("`hpo study resume a__b__c`")
    assert notes._safe("a <b> | c") == "a \\<b> \\| c"


def test_what_is_ours_is_known_by_its_last_line() -> None:
    text = notes.signed_off("a\nb\n")
    assert notes.is_ours(text)
    assert not notes.is_ours(text.replace("b", "c"))
    assert not notes.is_ours(f"{text}more")
    assert not notes.is_ours("a\nb\n")
