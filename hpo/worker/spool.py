"""Results on disk until the database has them."""

import base64
import binascii
import json
import logging
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy import Engine

from hpo.storage import slots
from hpo.storage.identity import identity_of
from hpo.storage.outcome import NewerOutcome, Outcome, UnreadableOutcome
from hpo.storage.slots import Lease
from hpo.worker.signing import Damaged, Signer
from hpo.worker.stores import Folder

MOST_BYTES = 1 << 28  # of a result; one with a million epochs and a million test pairs has a sixth of it
logger = logging.getLogger(__name__)


class _Entry(BaseModel):
    """What a file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    slot: int
    token: str
    outcome: dict[str, Any]
    outputs: str | None  # base85


class Spool:
    """Results of finished trainings that the database has not confirmed yet."""

    def __init__(self, folder: Path, engine: Engine, signer: Signer) -> None:
        """The folder serves several databases; each has a part of its own, wherever it is."""
        self._folder = Folder(folder / identity_of(engine))
        self._engine, self._signer = engine, signer

    @property
    def folder(self) -> Path:
        """Where the results lie."""
        return self._folder.folder

    @property
    def kept(self) -> list[Path]:
        """The results that lie there."""
        return sorted(self.folder.glob("*.json"))

    def put(self, lease: Lease, outcome: Outcome, outputs: bytes | None) -> str:
        """Keep a result; returns its name."""
        slot_id, token = lease
        name = f"{slot_id}-{token}.json"
        packed = None if outputs is None else base64.b85encode(outputs).decode()
        entry = _Entry(slot=slot_id, token=token, outcome=json.loads(outcome.to_json()), outputs=packed)
        self._folder.replace(name, self._signer.signed("result", entry.model_dump_json().encode()))
        return name

    def remove(self, name: str) -> None:
        """The database has it, or somebody else's."""
        self._folder.delete(name)

    def deliver(self) -> None:
        """Store what workers that are gone have left, where nobody has taken their slots since.

        What cannot be read, or is no result of this database, is logged, set aside, and stops nothing.
        """
        for path in self.kept:
            try:
                content = self._folder.read(path.name, MOST_BYTES)
                if content is not None:  # else its worker has stored it just now
                    self._deliver(path.name, content)
            except (OSError, NewerOutcome) as error:
                logger.warning("result %s: left where it is: %s", path.name, error)
            except (Damaged, UnreadableOutcome, ValidationError, binascii.Error, ValueError) as error:
                logger.warning("%s; %s", _line(path.name, error), self._set_aside(path.name))

    def _set_aside(self, name: str) -> str:
        try:
            return f"it is now called {self._folder.set_aside(name)}"
        except OSError as error:  # not ours to rename
            return f"it stays where it is ({error.strerror})"

    def _deliver(self, name: str, content: bytes) -> None:
        entry = _Entry.model_validate_json(self._signer.verified("result", content))
        outcome = Outcome.from_fields(entry.outcome, f"result {name}")
        outputs = None if entry.outputs is None else base64.b85decode(entry.outputs)
        if slots.finish(self._engine, entry.slot, entry.token, outcome, outputs):
            logger.info("slot %d: stored the result that an earlier worker left on disk", entry.slot)
        else:
            logger.info("slot %d: another worker has it; the result that was kept here is dropped", entry.slot)
        self._folder.delete(name)


def _line(name: str, error: Exception) -> str:
    """What is wrong with a file, in one line that names it."""
    if isinstance(error, Damaged):
        return f"result {name}: {error}"
    if isinstance(error, UnreadableOutcome):
        return str(error)
    return f"result {name}: the file is not a valid result ({type(error).__name__})"
