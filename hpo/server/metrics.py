"""Stub until the merge."""

from sqlalchemy import Engine


def exposition(engine: Engine) -> tuple[bytes, str]:
    """Nothing yet."""
    return b"", "text/plain"
