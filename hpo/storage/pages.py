"""What optuna-dashboard shows on a study's page: a note and figures, stored as attributes of Optuna's study.

Their format is that of `save_note` and `save_plotly_graph_object` in optuna-dashboard 0.21; a test reads them with its
functions. Those use a transaction per attribute, so that a page could be seen half written, and a user's note could be
lost between reading and writing it. Here all of it is one transaction.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from optuna.storages._rdb import models
from sqlalchemy import Connection, Engine, bindparam, insert, select, update

from hpo.storage.engine import begin_read, begin_write

PIECE = 2045  # characters per attribute: longer text is split
_NOTE, _NOTE_VERSION, _FIGURE = "dashboard:note_str:", "dashboard:note_ver", "dashboard:plot_data:{}:"
_METRICS = "study:metric_names"  # Optuna's attribute, one name an objective
_TRIAL_NOTE, _TRIAL_NOTE_VERSION = "dashboard:{}:note_str:", "dashboard:{}:note_ver"
_STUDIES, _ATTRIBUTES = models.StudyModel.__table__, models.StudySystemAttributeModel.__table__
_TRIALS = models.TrialModel.__table__

Attributes = Mapping[str, Any]  # of one study, by key


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """The content of the page of one of Optuna's studies."""

    study_id: int  # Optuna's
    metric: str  # what its trials' values are
    note: str  # Markdown
    figures: Mapping[str, str]  # plotly's JSON by id; other figures of the study stay


class Note(NamedTuple):
    """A note and how often it has been written, 0 for never."""

    version: int
    body: str  # Markdown


class NotePlace(NamedTuple):
    """Whose note it is: one of Optuna's studies', or that of a trial in it."""

    study_id: int
    trial_id: int | None = None


def read_note(engine: Engine, place: NotePlace) -> Note:
    """The note as it is; version 0 and empty where there is none, or no such study."""
    study_id, trial_id = place
    text, version = _note_keys(trial_id)
    with begin_read(engine) as connection:
        stored = _attributes(connection, [study_id]).get(study_id, {})
    return Note(version=int(stored.get(version, 0)), body=_joined(stored, text))


def save_note(engine: Engine, place: NotePlace, note: Note) -> Note | None:
    """Store a note if its version is the next one; else return the note that is there now.

    So of two writers who have read the same note, the second one is refused. LookupError where there is no such
    study, or no such trial in it.
    """
    study_id, trial_id = place
    text, version = _note_keys(trial_id)
    with begin_write(engine) as connection:
        stored = _attributes(connection, [study_id], lock=True).get(study_id)
        if stored is None:
            raise LookupError(f"no study {study_id}")
        if trial_id is not None and not _has_trial(connection, study_id, trial_id):
            raise LookupError(f"no trial {trial_id} in study {study_id}")
        current = Note(version=int(stored.get(version, 0)), body=_joined(stored, text))
        if note.version != current.version + 1:
            return current
        _write(connection, study_id, stored, {version: note.version, **_split(note.body, text, stored)})
    return None


def _note_keys(trial_id: int | None) -> tuple[str, str]:
    """Of a note's text and of its version, among the attributes of its study."""
    if trial_id is None:
        return _NOTE, _NOTE_VERSION
    return _TRIAL_NOTE.format(trial_id), _TRIAL_NOTE_VERSION.format(trial_id)


def _has_trial(connection: Connection, study_id: int, trial_id: int) -> bool:
    query = select(_TRIALS.c.trial_id).where(_TRIALS.c.trial_id == trial_id, _TRIALS.c.study_id == study_id)
    return connection.scalar(query) is not None


def keep_pages(engine: Engine, pages: Sequence[Page], ours: Callable[[str], bool]) -> None:
    """Bring pages up to date; writes nothing where they already are.

    A note that is neither empty nor `ours` is a user's and stays as it is. Deleted studies are skipped.
    """
    ids = [page.study_id for page in pages]
    with begin_read(engine) as connection:
        stored = _attributes(connection, ids)
    if not any(_changes(page, stored[page.study_id], ours) for page in pages if page.study_id in stored):
        return
    with begin_write(engine) as connection:
        stored = _attributes(connection, ids, lock=True)  # a user may have written a note in the meantime
        for page in pages:
            if page.study_id in stored:
                attributes = stored[page.study_id]
                _write(connection, page.study_id, attributes, _changes(page, attributes, ours))


def _attributes(connection: Connection, ids: Sequence[int], *, lock: bool = False) -> dict[int, dict[str, Any]]:
    """Attributes by study and key, of the studies that exist."""
    exist = select(_STUDIES.c.study_id).where(_STUDIES.c.study_id.in_(ids)).order_by(_STUDIES.c.study_id)
    if lock:
        exist = exist.with_for_update(key_share=True)
    by_study: dict[int, dict[str, Any]] = {study_id: {} for study_id in connection.scalars(exist)}
    query = select(_ATTRIBUTES.c.study_id, _ATTRIBUTES.c.key, _ATTRIBUTES.c.value_json)
    for study_id, key, value in connection.execute(query.where(_ATTRIBUTES.c.study_id.in_(by_study))):
        by_study[study_id][key] = json.loads(value)
    return by_study


def _changes(page: Page, stored: Attributes, ours: Callable[[str], bool]) -> dict[str, Any]:
    """New values by key."""
    changes: dict[str, Any] = {_METRICS: [page.metric]} if stored.get(_METRICS) != [page.metric] else {}
    note = _joined(stored, _NOTE)
    if note != page.note and (not note or ours(note)):
        changes[_NOTE_VERSION] = (
            int(stored.get(_NOTE_VERSION, 0)) + 1
        )  # so that an open page notices that it is out of date
        changes |= _split(page.note, _NOTE, stored)
    for name, figure in page.figures.items():
        prefix = _FIGURE.format(name)
        if _joined(stored, prefix) != figure:
            changes |= _split(figure, prefix, stored)
    return changes


def _joined(stored: Attributes, prefix: str) -> str:
    indices = sorted(int(key.removeprefix(prefix)) for key in stored if key.startswith(prefix))
    pieces = (stored[f"{prefix}{index}"] for index in indices)
    return "".join(piece for piece in pieces if isinstance(piece, str))  # the dashboard has stored lists as they came


def _split(text: str, prefix: str, stored: Attributes) -> dict[str, str]:
    """The text in pieces; those that only an earlier, longer text had are empty, for workers may have no DELETE."""
    starts = range(0, len(text), PIECE)
    pieces = {key: "" for key in stored if key.startswith(prefix)}
    return pieces | {f"{prefix}{index}": text[start : start + PIECE] for index, start in enumerate(starts)}


def _write(connection: Connection, study_id: int, stored: Attributes, changes: Mapping[str, Any]) -> None:
    rows = [(key, json.dumps(value)) for key, value in changes.items() if value != stored.get(key)]
    new = [{"study_id": study_id, "key": key, "value_json": value} for key, value in rows if key not in stored]
    changed = [{"name": key, "new": value} for key, value in rows if key in stored]
    attribute = (_ATTRIBUTES.c.study_id == study_id, _ATTRIBUTES.c.key == bindparam("name"))
    if new:
        connection.execute(insert(_ATTRIBUTES), new)
    if changed:
        connection.execute(update(_ATTRIBUTES).where(*attribute).values(value_json=bindparam("new")), changed)
