"""Everything that can go wrong for a user, one class each; the CLI prints the message and exits."""

from collections.abc import Sequence


class HpoError(Exception):
    """Base of all errors a user may see; the message says what, where and what to do next."""

    exit_code = 1  # 1: cannot, 2: wrong usage

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message, and nothing of where in hpo it came from."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(HpoError):
    """The command cannot be carried out as it was given: an unknown name, an invalid value, a wrong file."""

    exit_code = 2


class SpecError(UsageError):
    """A study's file, or an option that overrides it, is invalid: which file and key, and what is allowed."""


class ExperimentError(UsageError):
    """An experiment is not what it must be: which part of it, what is wrong, and what is allowed."""


class DatabaseError(HpoError):
    """The database cannot be used as it is: no such folder, not writable, a network file system."""


class DatabaseUnreachable(DatabaseError):
    """The database does not answer at the moment (down, connection cut, locked, full); waiting may help."""


class DatabaseReplaced(DatabaseError):
    """Another database, or none, is where this process opened one, which it does not touch; it has to start again."""


class DatabaseUpgraded(DatabaseReplaced):
    """The tables are of another version than when this process began, which does not touch them any more."""

    exit_code = 3  # a supervisor that starts this version again helps nobody


class SchemaError(DatabaseError):
    """The tables are missing, older or newer than this version of hpo expects."""


class StudyNotFound(HpoError):
    """No study of that name, or no more."""


class StudyBroken(HpoError):
    """Something that the study needs was deleted past hpo: it cannot go on."""

    def __init__(self, name: str, gone: Sequence[str]) -> None:
        """`gone` are the names of Optuna's studies that are missing."""
        super().__init__(
            f"study {name} cannot go on: deleted from Optuna's tables: {', '.join(gone)}; put back a backup, or remove "
            f"the rest with `hpo study delete {name} --yes`"
        )


class StudyExists(HpoError):
    """The name is already taken."""


class StudyBusy(HpoError):
    """The study is in a state that forbids the request: slots are running, or its phase is over."""


class LeaseLost(HpoError):
    """The slot now belongs to another worker; whatever was computed for it is dropped."""


class DataError(HpoError):
    """The images are missing, damaged or too few: which file or pool, and what to do."""


class TestPoolSealed(HpoError):
    """Something other than the worker of a final slot asked for the test images."""
