"""Notes and figures as attributes of Optuna's studies, read with optuna-dashboard's own functions."""

import threading
from collections.abc import Mapping
from typing import Any

import optuna
import optuna_dashboard  # type: ignore[import-untyped]  # ships no types
import pytest
from optuna_dashboard import _note as theirs
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects  # type: ignore[import-untyped]
from sqlalchemy import Engine

from hpo.storage import studies
from hpo.storage.optuna_storage import make_storage
from hpo.storage.pages import PIECE, Note, NotePlace, Page, keep_pages, save_note
from hpo.storage.studies import StudyRow
from tests.support.fixtures import MakeStudy, Watch

LONG = "".join(f"line {i} of a long text: é ∑\n" for i in range(300))


def ours(note: str) -> bool:
    return note.startswith("ours")


class Opened:
    """A study as optuna-dashboard sees it."""

    def __init__(self, engine: Engine, row: StudyRow) -> None:
        self.engine, self.row = engine, row
        self.optuna = optuna.load_study(study_name=row.name, storage=make_storage(engine))

    def keep(self, note: str, figures: Mapping[str, str] | None = None) -> None:
        page = Page(study_id=self.row.search_study_id, metric="validation accuracy", note=note, figures=figures or {})
        keep_pages(self.engine, [page], ours)

    @property
    def note(self) -> str:
        return str(optuna_dashboard.get_note(self.optuna))

    @property
    def attributes(self) -> dict[str, Any]:
        return self.optuna._storage.get_study_system_attrs(self.optuna._study_id)

    @property
    def figures(self) -> dict[str, str]:
        return dict(get_plotly_graph_objects(self.attributes))


@pytest.fixture
def opened(engine: Engine, make_study: MakeStudy) -> Opened:
    return Opened(engine, make_study())


def test_the_dashboard_reads_what_was_written(opened: Opened) -> None:
    opened.keep("ours: short", {"one": LONG, "two": "{}"})
    assert (opened.note, opened.figures) == ("ours: short", {"one": LONG, "two": "{}"})
    assert max(len(v) for v in opened.attributes.values() if isinstance(v, str)) == PIECE


def test_a_longer_text_makes_way_for_a_shorter_one_and_back(opened: Opened) -> None:
    for text in (f"ours {LONG}", "ours", f"ours {LONG}{LONG}", f"ours {LONG}"):
        opened.keep(text, {"one": text})
        assert (opened.note, opened.figures) == (text, {"one": text})


def test_nothing_is_deleted(opened: Opened, statements: Watch) -> None:
    """The rights of workers have no DELETE: what a shorter text no longer needs stays, empty."""
    with statements(opened.engine) as seen:
        for text in (f"ours {LONG}", "ours"):
            opened.keep(text, {"one": text})
    assert seen
    assert not [statement for statement, _ in seen if "DELETE" in statement.upper()]


def test_what_is_up_to_date_is_not_written(opened: Opened, statements: Watch) -> None:
    opened.keep("ours", {"one": LONG})
    before = opened.attributes
    with statements(opened.engine) as seen:
        opened.keep("ours", {"one": LONG})
    assert [statement for statement, _ in seen if not statement.startswith(("SELECT", "BEGIN"))] == []
    assert opened.attributes == before


def test_a_persons_note_stays(opened: Opened) -> None:
    """However it came there: first, in the place of ours, or in the moment between our look and our write."""
    optuna_dashboard.save_note(opened.optuna, "mine")
    opened.keep("ours", {"one": "{}"})
    assert (opened.note, opened.figures) == ("mine", {"one": "{}"})
    optuna_dashboard.save_note(opened.optuna, "")
    opened.keep("ours")
    assert opened.note == "ours"  # an emptied note is nobody's

    def ours_until_asked(note: str) -> bool:
        if note == "ours":
            optuna_dashboard.save_note(opened.optuna, "mine again")
        return note == "ours"

    keep_pages(
        opened.engine,
        [Page(study_id=opened.row.search_study_id, metric="validation accuracy", note="new", figures={})],
        ours_until_asked,
    )
    assert opened.note == "mine again"


def test_an_open_page_sees_that_its_note_is_out_of_date(opened: Opened) -> None:
    """The dashboard refuses a save whose version is not the next one, so versions rise with each text."""
    versions = []
    for text in ("ours 1", "ours 1", "ours 2"):
        opened.keep(text)
        versions.append(opened.attributes["dashboard:note_ver"])
    assert versions == [1, 1, 2]
    optuna_dashboard.save_note(opened.optuna, "mine")
    assert opened.note == "mine"


def test_other_attributes_and_figures_stay(opened: Opened) -> None:
    storage = opened.optuna._storage
    storage.set_study_system_attr(opened.optuna._study_id, "theirs", [1, 2])
    storage.set_study_system_attr(opened.optuna._study_id, "dashboard:plot_data:theirs:0", "{}")
    opened.keep("ours", {"one": "{}"})
    assert opened.attributes["theirs"] == [1, 2]
    assert set(opened.figures) == {"one", "theirs"}


def test_a_study_that_was_deleted_is_left_out(opened: Opened, make_study: MakeStudy) -> None:
    other = Opened(opened.engine, make_study("other"))
    studies.delete_study(opened.engine, "ws")
    pages = [
        Page(study_id=row.search_study_id, metric="validation accuracy", note="ours", figures={})
        for row in (opened.row, other.row)
    ]
    keep_pages(opened.engine, pages, ours)
    assert other.note == "ours"
    studies.delete_study(opened.engine, "other")  # its attributes go with it


def test_lists_that_the_dashboard_has_stored_as_notes_give_way(opened: Opened) -> None:
    """It took any JSON for a note once; such a note breaks its own page, and broke all of ours."""
    storage, number = opened.optuna._storage, opened.optuna._study_id
    storage.set_study_system_attr(number, "dashboard:note_ver", 1)
    storage.set_study_system_attr(number, "dashboard:note_str:0", ["a", {"b": 1}])
    opened.keep("ours")
    assert opened.note == "ours"


# --- Notes that people write -----------------------------------------------------------------------------------------


def noted(opened: Opened, trial_id: int | None) -> Note:
    """A note as the dashboard reads it."""
    return Note(**theirs.get_note_from_system_attrs(opened.attributes, trial_id))


@pytest.mark.parametrize("of_trial", [False, True])
def test_a_note_is_stored_version_by_version(opened: Opened, of_trial: bool) -> None:
    """As long as each writer has read the last one; the other notes of the study stay."""
    trial_id = opened.optuna.trials[0]._trial_id
    place = NotePlace(study_id=opened.row.search_study_id, trial_id=trial_id if of_trial else None)
    other = NotePlace(study_id=opened.row.search_study_id, trial_id=None if of_trial else trial_id)
    assert save_note(opened.engine, other, Note(version=1, body="other")) is None
    texts = ["first", LONG, "", f"{LONG}{LONG}", "\0 \x1b"]
    for version, text in enumerate(texts, start=1):
        note = Note(version=version, body=text)
        for wrong in (version - 1, version + 1, -1, 0):
            current = save_note(opened.engine, place, Note(version=wrong, body="lost"))
            assert current == noted(opened, place.trial_id)
        assert save_note(opened.engine, place, note) is None
        assert noted(opened, place.trial_id) == note
    assert noted(opened, other.trial_id) == Note(version=1, body="other")


def test_notes_of_nothing(opened: Opened, make_study: MakeStudy) -> None:
    """No such study, no such trial, a trial of another study: nothing is written."""
    other = make_study("other")
    before = opened.attributes
    trial_id = opened.optuna.trials[0]._trial_id
    for place in (
        NotePlace(study_id=10**6),
        NotePlace(study_id=10**6, trial_id=trial_id),
        NotePlace(study_id=opened.row.search_study_id, trial_id=10**6),
        NotePlace(study_id=other.search_study_id, trial_id=trial_id),
    ):
        with pytest.raises(LookupError, match=r"no (study|trial) \d+"):
            save_note(opened.engine, place, Note(version=1, body="x"))
    assert opened.attributes == before


def test_of_two_writers_the_second_is_refused(opened: Opened) -> None:
    """At the same moment and with the same words, twenty times over: one note is stored, one writer knows better."""
    place = NotePlace(study_id=opened.row.search_study_id)
    for version in range(1, 21):
        note, barrier = Note(version=version, body="the same"), threading.Barrier(2)
        answers: list[Note | None] = []

        def write(
            note: Note = note, barrier: threading.Barrier = barrier, answers: list[Note | None] = answers
        ) -> None:
            barrier.wait()
            answers.append(save_note(opened.engine, place, note))

        writers = [threading.Thread(target=write) for _ in range(2)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        assert answers in ([None, note], [note, None])
