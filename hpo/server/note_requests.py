"""The dashboard's only requests that change anything: a note of a study or of a trial, written with PUT.

optuna-dashboard answers them too, but takes any JSON for a note's body, writes a note in several transactions, says to
two writers of one version that both were stored, and knows no limit. So they are answered here, in its format.
"""

import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Engine

from hpo.errors import DatabaseError
from hpo.storage.pages import Note, NotePlace, save_note

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MOST_BYTES = 64 * 1024  # of a note's body, in UTF-8
_PATH = re.compile(r"/api/studies/([0-9]{1,10})(?:/([0-9]{1,10}))?/note")
LARGEST_ID = 2**31 - 1  # of a study or a trial in either database
_OUTDATED = "The text you are editing has changed. Please copy your edits and refresh the page."


class NoteResponse(NamedTuple):
    """What such a request is answered."""

    status: HTTPStatus
    body: dict[str, Any] | None  # as JSON


class Invalid(ValueError):
    """The request is none for a note; the message says why."""


def is_note(path: str) -> bool:
    """Whether a path is that of a study's or a trial's note."""
    return _PATH.fullmatch(path) is not None


def answer_note(engine: Engine, environ: "WSGIEnvironment") -> NoteResponse:
    """Store the note that a request brings, if its version is the next one."""
    if environ["REQUEST_METHOD"] != "PUT":
        return _failed(HTTPStatus.METHOD_NOT_ALLOWED, "a note is written with PUT")
    try:
        place = _place(environ["PATH_INFO"])
        note = _parsed(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
        current = save_note(engine, place, note)
    except Invalid as error:
        return _failed(HTTPStatus.BAD_REQUEST, str(error))
    except LookupError as error:
        return _failed(HTTPStatus.NOT_FOUND, str(error.args[0]))
    except DatabaseError as error:
        return _failed(HTTPStatus.SERVICE_UNAVAILABLE, str(error))
    if current is None:
        return NoteResponse(HTTPStatus.NO_CONTENT, None)
    return NoteResponse(HTTPStatus.CONFLICT, {"reason": _OUTDATED, "note": current._asdict()})


def _failed(status: HTTPStatus, reason: str) -> NoteResponse:
    return NoteResponse(status, {"reason": reason})


def _place(path: str) -> NotePlace:
    match = _PATH.fullmatch(path)
    assert match is not None, path  # `is_note` was asked before
    study_id, trial_id = (None if digits is None else int(digits) for digits in match.groups())
    if max(study_id or 0, trial_id or 0) > LARGEST_ID:
        raise LookupError("no such study or trial")
    return NotePlace(study_id=study_id or 0, trial_id=trial_id)


def _parsed(content: bytes) -> Note:
    """The note in a request's content; Invalid where it is none."""
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError):
        raise Invalid("not JSON") from None
    if not isinstance(tree, dict):
        raise Invalid("not an object with a version and a body")
    version, body = tree.get("version"), tree.get("body")
    if type(version) is not int:  # neither a number with a point nor true
        raise Invalid("version: must be an integer")
    if not isinstance(body, str):
        raise Invalid("body: must be a string")
    try:
        size = len(body.encode())
    except UnicodeEncodeError:
        raise Invalid("body: half of a surrogate pair") from None
    if size > MOST_BYTES:
        raise Invalid(f"body: {size:,} bytes, at most {MOST_BYTES:,} are allowed")
    return Note(version=version, body=body)
