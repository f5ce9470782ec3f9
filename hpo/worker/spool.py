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
from hpo.worker.stores import Damaged, Folder, opened, sealed

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

    def __init__(self, folder: Path, engine: Engine) -> None:
        """The folder serves several databases; each has a part of its own, wherever it is."""
        self._folder = Folder(folder / identity_of(engine))
        self._engine = engine

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
        self._folder.write(name, sealed(entry.model_dump_json().encode()))
        return name

    def remove(self, name: str) -> None:
        """The database has it, or somebody else's."""
        self._folder.remove(name)

    def deliver(self) -> None:
        """Store what workers that are gone have left, where nobody has taken their slots since.

        A file that cannot be read, or holds no result, is logged, set aside, and stops nothing.
        """
        for path in self.kept:
            try:
                content = self._folder.read(path.name)
                if content is not None:  # else its worker has stored it just now
                    self._deliver(path.name, content)
            except (OSError, NewerOutcome) as error:
                logger.warning("result %s: left where it is: %s", path.name, error)
            except (Damaged, UnreadableOutcome, ValidationError, binascii.Error, ValueError) as error:
                logger.warning("%s; it is now called %s.damaged", _line(path.name, error), path.name)
                path.rename(path.with_name(f"{path.name}.damaged"))

    def _deliver(self, name: str, content: bytes) -> None:
        entry = _Entry.model_validate_json(opened(f"result {name}", content))
        outcome = Outcome.from_fields(entry.outcome, f"result {name}")
        outputs = None if entry.outputs is None else base64.b85decode(entry.outputs)
        if slots.finish(self._engine, entry.slot, entry.token, outcome, outputs):
            logger.info("slot %d: stored the result that an earlier worker left on disk", entry.slot)
        else:
            logger.info("slot %d: another worker has it; the result that was kept here is dropped", entry.slot)
        self._folder.remove(name)


def _line(name: str, error: Exception) -> str:
    """What is wrong with a file, in one line that names it."""
    if isinstance(error, Damaged | UnreadableOutcome):
        return str(error)
    return f"result {name}: the file is not a valid result ({type(error).__name__})"
