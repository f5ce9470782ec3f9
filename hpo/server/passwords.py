"""Passwords: hashed by scrypt as werkzeug does it, checked in the same time whether or not there is such a user."""

from functools import cache

from hpo.errors import UsageError
from hpo.text import is_unicode

FEWEST_CHARACTERS, MOST_CHARACTERS = 10, 1000  # of a password: NIST SP 800-63B asks for 8 at least, and no rules else


def password_hash(password: str) -> str:
    """The hash to store; UsageError where the password is too short or too long, or no text."""
    from werkzeug.security import generate_password_hash

    if not is_unicode(password):
        raise UsageError("the password is not UTF-8: a browser could not send it; choose another")
    if not FEWEST_CHARACTERS <= len(password) <= MOST_CHARACTERS:
        raise UsageError(
            f"a password has {FEWEST_CHARACTERS} to {MOST_CHARACTERS:,} characters, this has {len(password)}"
        )
    return generate_password_hash(password, method="scrypt")


def is_password(stored: str | None, password: str) -> bool:
    """Whether this is the password of that hash; None, for a user who is unknown or has none, takes as long."""
    from werkzeug.security import check_password_hash

    if len(password) > MOST_CHARACTERS or not is_unicode(password):
        return False
    return check_password_hash(_of_nobody() if stored is None else stored, password) and stored is not None


@cache
def _of_nobody() -> str:
    return password_hash("nobody has this password")
