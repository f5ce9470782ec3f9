"""Whether this machine can train: a machine's fault is not a trial's."""

from hpo.errors import HpoError
from hpo.storage.studies import StudyRow
from hpo.text import exception_of

FIRST_FAILURES = 3  # turns in a row in which a study's trainings failed, where none of it has completed here
LATER_FAILURES = 10  # the same where some have: a region of the search may well be one that raises


class TrainingsFail(HpoError):
    """A study's trainings fail on this machine, one after another."""


class Health:
    """The trainings of a worker that completed and that failed; kept by the training thread.

    What fails in one turn of the worker's loop, however many lanes that concerns, counts once: it may have one cause.
    """

    def __init__(self) -> None:
        self.completed = self.failed = 0
        self.last_error = ""  # one line
        self.in_training = 0  # trainings in lanes as the turn began
        self._turn = 0
        self._failures: dict[int, tuple[StudyRow, set[int]]] = {}  # by study: turns that failed since one completed
        self._trained: set[int] = set()  # studies of which a training has completed here

    def next_turn(self, in_training: int) -> None:
        """A turn of the worker's loop begins."""
        self._turn += 1
        self.in_training = in_training

    def record_completed(self, study: StudyRow) -> None:
        """A training has ended with a result."""
        self.completed += 1
        self._trained.add(study.id)
        self._failures.pop(study.id, None)

    def record_failed(self, study: StudyRow, traceback: str) -> None:
        """A training has raised."""
        self.failed += 1
        self.last_error = exception_of(traceback)[:300]
        self._failures.setdefault(study.id, (study, set()))[1].add(self._turn)

    @property
    def trains(self) -> bool:
        """Whether this machine has completed a training: then one that fails may be to blame itself."""
        return self.completed > 0

    @property
    def only_fails(self) -> bool:
        """Whether every training here has failed."""
        return self.failed > 0 and not self.completed

    @property
    def is_in_doubt(self) -> bool:
        """Whether trainings have failed since one completed: something else is to be tried first."""
        return bool(self._failures)

    def failing(self) -> list[tuple[StudyRow, TrainingsFail]]:
        """The studies to be left alone here, and why."""
        return [
            (study, TrainingsFail(f"its trainings failed {len(turns)} times in a row here; last: {self.last_error}"))
            for study, turns in self._failures.values()
            if len(turns) >= (LATER_FAILURES if study.id in self._trained else FIRST_FAILURES)
        ]
