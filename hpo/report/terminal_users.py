"""The site's users and tokens as tables on a terminal."""

from collections.abc import Sequence

from rich.table import Table

from hpo.report.formats import time
from hpo.report.terminal import plain_table
from hpo.storage.users import ApiToken, User


def user_table(users: Sequence[User]) -> Table:
    """A line a user."""
    table = plain_table(None)
    for heading in ("user", "role", "password", "added"):
        table.add_column(heading)
    for user in users:
        table.add_row(user.name, user.role, "no" if user.password_hash is None else "yes", time(user.created_at))
    return table


def token_table(tokens: Sequence[ApiToken]) -> Table:
    """A line a token."""
    table = plain_table(None)
    for heading in ("token", "role", "made"):
        table.add_column(heading)
    for token in tokens:
        table.add_row(token.name, token.role, time(token.created_at))
    return table
