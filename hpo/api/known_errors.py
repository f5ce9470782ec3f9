"""What the database or the system refuses, as an error that says so in one line."""

from typing import TYPE_CHECKING

from hpo.errors import HpoError

if TYPE_CHECKING:
    from sqlalchemy import Engine


def known_error(error: BaseException, engine: "Engine | None") -> HpoError | None:
    """What an exception is in our words, None where it is none of these; `engine` is the database in use, if any."""
    known = _database_error(error, engine)
    if known is None and isinstance(error, OSError) and error.strerror:
        return HpoError(system_error(error))
    return known


def system_error(error: OSError) -> str:
    """The file and the reason."""
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)


def _database_error(error: BaseException, engine: "Engine | None") -> HpoError | None:
    """What a database's error, perhaps wrapped by Optuna, is in our words; None where it is none."""
    if engine is None:
        return None  # then neither SQLAlchemy nor a driver need be loaded
    from sqlalchemy.exc import DBAPIError, TimeoutError

    from hpo.storage.engine import translated

    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, DBAPIError | TimeoutError):
        cause = cause.__cause__
    if cause is None:
        return None
    try:
        with translated(engine):
            raise cause
    except HpoError as known:
        return known
    except (DBAPIError, TimeoutError):
        return None
