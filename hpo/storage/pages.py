"""What optuna-dashboard shows on a study's own page: a note and figures, kept as attributes of Optuna's study.

They are laid out as `save_note` and `save_plotly_graph_object` of optuna-dashboard 0.21 do it; a test reads them with
its functions. Those take a transaction for each attribute, so a page could be seen half written, and a person's note
could be lost between the look at it and the write. Here all of it is one transaction.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.storages._rdb import models
from sqlalchemy import Connection, Engine, bindparam, delete, insert, select, update

from hpo.storage.engine import begin_read, begin_write

PIECE = 2045  # characters of an attribute: what is longer is split
_NOTE, _NOTE_VERSION, _FIGURE = "dashboard:note_str:", "dashboard:note_ver", "dashboard:plot_data:{}:"
_STUDIES, _ATTRIBUTES = models.StudyModel.__table__, models.StudySystemAttributeModel.__table__

Attributes = Mapping[str, Any]  # of one study, by key


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What the page of one of Optuna's studies is to show."""

    study_id: int  # Optuna's
    note: str  # Markdown
    figures: Mapping[str, str]  # plotly's JSON by id; other figures of the study stay


def keep_pages(engine: Engine, pages: Sequence[Page], ours: Callable[[str], bool]) -> None:
    """Bring pages up to date; writes nothing where they are.

    A note that is neither empty nor `ours` is a person's and stays as it is. Pages of studies that have been deleted
    are left out.
    """
    ids = [page.study_id for page in pages]
    with begin_read(engine) as connection:
        there = _attributes(connection, ids)
    if not any(_changes(page, there[page.study_id], ours) for page in pages if page.study_id in there):
        return
    with begin_write(engine) as connection:
        there = _attributes(connection, ids, lock=True)  # a person may have written meanwhile
        for page in pages:
            if page.study_id in there:
                own = there[page.study_id]
                _write(connection, page.study_id, own, _changes(page, own, ours))


def _attributes(connection: Connection, ids: Sequence[int], *, lock: bool = False) -> dict[int, dict[str, Any]]:
    """Attributes by study and key, of the studies that exist."""
    exist = select(_STUDIES.c.study_id).where(_STUDIES.c.study_id.in_(ids)).order_by(_STUDIES.c.study_id)
    if lock:
        exist = exist.with_for_update(key_share=True)
    found: dict[int, dict[str, Any]] = {study_id: {} for study_id in connection.scalars(exist)}
    query = select(_ATTRIBUTES.c.study_id, _ATTRIBUTES.c.key, _ATTRIBUTES.c.value_json)
    for study_id, key, value in connection.execute(query.where(_ATTRIBUTES.c.study_id.in_(found))):
        found[study_id][key] = json.loads(value)
    return found


def _changes(page: Page, there: Attributes, ours: Callable[[str], bool]) -> dict[str, Any]:
    """New values by key; None: the attribute goes."""
    changes: dict[str, Any] = {}
    note = _joined(there, _NOTE)
    if note != page.note and (not note or ours(note)):
        changes[_NOTE_VERSION] = int(there.get(_NOTE_VERSION, 0)) + 1  # an open page sees that it is out of date
        changes |= _split(page.note, _NOTE, there)
    for name, figure in page.figures.items():
        prefix = _FIGURE.format(name)
        if _joined(there, prefix) != figure:
            changes |= _split(figure, prefix, there)
    return changes


def _joined(there: Attributes, prefix: str) -> str:
    places = sorted(int(key.removeprefix(prefix)) for key in there if key.startswith(prefix))
    return "".join(there[f"{prefix}{place}"] for place in places)


def _split(text: str, prefix: str, there: Attributes) -> dict[str, str | None]:
    """The text's pieces, and the ends of a longer one that was there."""
    starts = range(0, len(text), PIECE)
    pieces: dict[str, str | None] = {key: None for key in there if key.startswith(prefix)}
    return pieces | {f"{prefix}{place}": text[at : at + PIECE] for place, at in enumerate(starts)}


def _write(connection: Connection, study_id: int, there: Attributes, changes: Mapping[str, Any]) -> None:
    own = (_ATTRIBUTES.c.study_id == study_id, _ATTRIBUTES.c.key == bindparam("name"))
    gone = [{"name": key} for key, value in changes.items() if value is None]
    rows = [(key, json.dumps(value)) for key, value in changes.items() if value is not None]
    new = [{"study_id": study_id, "key": key, "value_json": value} for key, value in rows if key not in there]
    changed = [{"name": key, "new": value} for key, value in rows if key in there]
    for statement, parameters in (
        (delete(_ATTRIBUTES).where(*own), gone),
        (insert(_ATTRIBUTES), new),
        (update(_ATTRIBUTES).where(*own).values(value_json=bindparam("new")), changed),
    ):
        if parameters:
            connection.execute(statement, parameters)
