"""What an editor may change from a study's page: pause, resume, extend, evaluate, note. Deleting is no such thing.

Each is what the command of that name does, and is logged: who, what, when.
"""

import logging
from collections.abc import Callable, Mapping

from sqlalchemy import Engine

from hpo.errors import UsageError
from hpo.server.note_requests import MOST_BYTES
from hpo.server.notes import is_ours, update_notes
from hpo.storage import studies
from hpo.storage.pages import Note, NotePlace, read_note, save_note
from hpo.study import limits, operations

logger = logging.getLogger(__name__)

Form = Mapping[str, str]  # what a form sent, by field


def act(engine: Engine, name: str, action: str, form: Form, who: str) -> str:
    """Carry an action out and return what to say of it; HpoError where it cannot be."""
    message = ACTIONS[action](engine, name, form)
    given = ", ".join(f"{key} {form[key]}" for key in ("trials", "rounds") if key in form)
    logger.info("change by %s: %s of study %s%s", who, action, name, f" ({given})" if given else "")
    return message


def _pause(engine: Engine, name: str, form: Form) -> str:
    studies.set_paused(engine, studies.get_study(engine, name).id, True)
    return f"{name} is paused: what runs ends, nothing new begins"


def _resume(engine: Engine, name: str, form: Form) -> str:
    requeued = operations.resume(engine, name)
    return f"{name} continues" + (f", {requeued} failed trials queued again" if requeued else "")


def _extend(engine: Engine, name: str, form: Form) -> str:
    trials = _number(form, "trials", limits.TRIALS)
    total = operations.extend(engine, name, trials)
    return f"{name}: {trials} trials added, {total} in all"


def _evaluate(engine: Engine, name: str, form: Form) -> str:
    rounds = _number(form, "rounds", limits.ROUNDS)
    asked = operations.evaluate(engine, file=None, name=name, rounds=rounds, epochs=None, label=None)
    if any(of_configuration.added for of_configuration in asked):
        update_notes(engine, [name])
    return f"{name}: " + "; ".join(map(_requested, asked))


def _requested(asked: operations.RequestedRounds) -> str:
    line = f"{asked.added} final rounds of {asked.label!r} added, {asked.rounds} asked for in all"
    if not asked.beyond:
        return line
    return f"{line} ({asked.beyond} are beyond the looks that it declared, the report judges by the others)"


def _note(engine: Engine, name: str, form: Form) -> str:
    text = form.get("note", "").replace("\r\n", "\n")
    if len(text.encode(errors="replace")) > MOST_BYTES:
        raise UsageError(f"the note has more than {MOST_BYTES:,} bytes")
    place = NotePlace(study_id=studies.get_study(engine, name).search_study_id)
    version = form.get("version", "")
    if not version.isdecimal() or len(version) > 9:
        raise UsageError("the note's form is incomplete: reload the page")
    if save_note(engine, place, Note(version=int(version) + 1, body=text)) is not None:
        raise UsageError("somebody else has changed the note in the meantime: copy yours, and reload the page")
    return f"{name}: the note is stored"


ACTIONS: Mapping[str, Callable[[Engine, str, Form], str]] = {
    "pause": _pause,
    "resume": _resume,
    "extend": _extend,
    "evaluate": _evaluate,
    "note": _note,
}


def note_of(engine: Engine, study_id: int) -> Note:
    """The note of one of Optuna's studies as somebody wrote it: empty where it is hpo's."""
    note = read_note(engine, NotePlace(study_id=study_id))
    return note._replace(body="") if is_ours(note.body) else note


def _number(form: Form, field: str, most: int) -> int:
    text = form.get(field, "").strip()
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= most:
        raise UsageError(f"{field}: give a number from 1 to {most:,}")
    return int(text)
