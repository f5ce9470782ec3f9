"""What a worker leaves alone: studies that cannot go on, so that the others are served."""

import logging
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError

from hpo.errors import DatabaseError, HpoError
from hpo.storage.engine import is_transient
from hpo.storage.studies import StudyRow

logger = logging.getLogger(__name__)


class SetAside:
    """Studies about which something raised: left alone for this worker's life. Its threads share it."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}  # by study
        self._lock = threading.Lock()

    def __contains__(self, study: StudyRow) -> bool:
        return study.id in self._names

    @property
    def names(self) -> list[str]:
        """The studies' names, in order."""
        return sorted(self._names.values())

    def add(self, rows: Iterable[StudyRow], error: Exception) -> None:
        """Leave these studies alone from now on; logged once for each."""
        for row in rows:
            with self._lock:
                known, self._names[row.id] = row.id in self._names, row.name
            if not known:
                logger.error("study %s is left alone from now on: %s", row.name, short_reason(error))
                logger.debug("study %s", row.name, exc_info=error)

    @contextmanager
    def guard(self, *rows: StudyRow) -> Iterator[None]:
        """Set these studies aside where something raises inside that is neither the database's nor a lost lease's."""
        try:
            yield
        except Exception as error:
            if is_of_database(error):
                raise
            self.add(rows, error)


def is_of_database(error: BaseException | None) -> bool:
    """Whether an error, or its cause, concerns the whole database: away, without its tables, closed to the role."""
    while error is not None:
        if is_transient(error) or isinstance(error, DatabaseError):
            return True
        if isinstance(error, DBAPIError):
            return not isinstance(error, IntegrityError | DataError)  # these are about the values of a row
        error = error.__cause__  # Optuna wraps what SQLAlchemy raised
    return False


def short_reason(error: Exception) -> str:
    """What went wrong, in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, HpoError) else f"{type(error).__name__}: {text[:500]}"
