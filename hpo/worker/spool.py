"""Results on disk until the database has them."""

import base64
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from hpo.storage import slots
from hpo.worker.stores import Damaged, Folder, opened, sealed


class Spool:
    """Results of finished trainings that the database has not confirmed yet."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        """The folder serves several databases; each has a part of its own."""
        url = engine.url.set(password=None)
        if engine.dialect.name == "sqlite":
            url = url.set(database=str(Path(str(url.database)).resolve()))
        self._folder = Folder(folder / hashlib.sha256(str(url).encode()).hexdigest()[:16])
        self._engine = engine

    @property
    def folder(self) -> Path:
        """Where the results lie."""
        return self._folder.folder

    def put(self, slot_id: int, token: str, outcome: Mapping[str, Any], outputs: bytes | None) -> str:
        """Keep a result; returns its name."""
        name = f"{slot_id}-{token}.json"
        packed = None if outputs is None else base64.b85encode(outputs).decode()
        entry = {"slot": slot_id, "token": token, "outcome": outcome, "outputs": packed}
        self._folder.write(name, sealed(json.dumps(entry).encode()))
        return name

    def remove(self, name: str) -> None:
        """The database has it, or somebody else's."""
        self._folder.remove(name)

    def deliver(self, say: Callable[[str], None]) -> None:
        """Store what workers that are gone have left, where nobody has taken their slots since."""
        for name in self._names():
            content = self._folder.read(name)
            if content is None:  # its worker has stored it just now
                continue
            try:
                entry = json.loads(opened(f"result {name}", content))
            except Damaged as error:
                say(str(error))
                (self.folder / name).rename(self.folder / f"{name}.damaged")
                continue
            packed = entry["outputs"]
            outputs = None if packed is None else base64.b85decode(packed)
            if slots.finish(self._engine, entry["slot"], entry["token"], entry["outcome"], outputs):
                say(f"slot {entry['slot']}: its result, kept by a worker that is gone, is stored")
            else:
                say(f"slot {entry['slot']}: another worker has it, the result that one kept is dropped")
            self._folder.remove(name)

    def _names(self) -> Iterator[str]:
        return (path.name for path in sorted(self.folder.glob("*.json")))
