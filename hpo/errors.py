"""Everything that can go wrong for a user, one class a thing; the CLI prints the message and exits."""


class HpoError(Exception):
    """Base of all errors a user may see; the message says what, where and what to do next."""

    exit_code = 1  # 1: cannot, 2: wrong usage


class UsageError(HpoError):
    """The user asked for something that is not in the language: wrong name, wrong value, wrong file."""

    exit_code = 2


class SpecError(UsageError):
    """A study's file, or an option that changes it, says what it may not: file, key, what is allowed."""


class DatabaseError(HpoError):
    """The database cannot be used as it is: no such folder, not writable, a network file system."""


class DatabaseUnreachable(DatabaseError):
    """The database does not answer just now (down, connection cut, locked, full); waiting may help."""


class SchemaError(DatabaseError):
    """The tables are missing, older or newer than this version of hpo expects."""


class StudyNotFound(HpoError):
    """No study of that name; the message lists those that exist."""


class StudyExists(HpoError):
    """The name is taken already."""


class StudyBusy(HpoError):
    """The study is in a state that forbids what was asked: slots are running, or its phase is over."""


class LeaseLost(HpoError):
    """The slot belongs to another worker by now; whatever was computed for it is dropped."""


class DataError(HpoError):
    """The images cannot be had, are damaged, or are too few: which file or pool, and what to do."""


class TestPoolSealed(HpoError):
    """Something other than a final slot's worker asked for the test images."""
