"""Everything that can go wrong for a user, one class a thing; the CLI prints the message and exits."""


class HpoError(Exception):
    """Base of all errors a user may see; the message says what, where and what to do next."""

    exit_code = 1  # 1: cannot, 2: wrong usage


class UsageError(HpoError):
    """The user asked for something that is not in the language: wrong name, wrong value, wrong file."""

    exit_code = 2


class SpecError(UsageError):
    """A study's file, or an option that changes it, says what it may not: file, key, what is allowed."""
