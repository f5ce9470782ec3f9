"""Who may use the lab's site: users with their roles, and the tokens of scripts.

A password is kept as the hash that the site makes of it, a token as its SHA-256: it has 256 random bits, so nothing
slower is needed.
"""

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Engine, Row, Table, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from hpo.errors import HpoError, UsageError
from hpo.storage.engine import begin_read, begin_write, now
from hpo.storage.schema import USER_LENGTH, tokens, users

Role = Literal["viewer", "editor"]  # who looks, and who may also change what the site can change
ROLES: tuple[Role, ...] = get_args(Role)

TOKEN_PREFIX = "hpo_"  # so that people, and scanners of repositories, see what it is
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*")


class UserError(HpoError):
    """There is no such user or token, or there is one already; the message says which."""


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """A user as stored."""

    name: str
    role: Role
    password_hash: str | None  # None: a proxy says who it is, there is no password
    created_at: float  # seconds since 1970 by the database's clock
    logouts: int  # so far: each has ended all sessions of before


@dataclass(frozen=True, kw_only=True, slots=True)
class ApiToken:
    """What is known of a token; itself it was shown once."""

    name: str
    role: Role
    created_at: float  # seconds since 1970 by the database's clock


# --- Users --------------------------------------------------------------------------------------------------


def add_user(engine: Engine, name: str, role: Role, password_hash: str | None) -> None:
    """Add a user; UsageError for a name that is none, UserError where the name is taken."""
    _check_name("user", name)
    row = {"name": name, "role": role, "password_hash": password_hash, "created_at": now()}
    _insert(engine, users, row, f"there is a user {name!r} already; `hpo user passwd {name}` changes the password")


def list_users(engine: Engine) -> list[User]:
    """All users by name."""
    with begin_read(engine) as connection:
        return [_user(row) for row in connection.execute(select(users).order_by(users.c.name))]


def find_user(engine: Engine, name: str) -> User | None:
    """The user of that name, if there is one."""
    if not _NAME.fullmatch(name):  # nothing else is stored, and PostgreSQL refuses some texts
        return None
    with begin_read(engine) as connection:
        row = connection.execute(select(users).where(users.c.name == name)).one_or_none()
    return None if row is None else _user(row)


def change_user(engine: Engine, name: str, *, role: Role | None = None, password_hash: str | None = None) -> None:
    """Give a user another role or another password; UserError where there is no such user."""
    values = {key: value for key, value in (("role", role), ("password_hash", password_hash)) if value is not None}
    with begin_write(engine) as connection:
        changed = connection.execute(update(users).where(users.c.name == name).values(values)).rowcount
    if not changed:
        raise _unknown("user", name, [user.name for user in list_users(engine)])


def end_sessions(engine: Engine, name: str) -> None:
    """End all sessions that the user has begun so far; nothing where there is no such user."""
    with begin_write(engine) as connection:
        connection.execute(update(users).where(users.c.name == name).values(logouts=users.c.logouts + 1))


def remove_user(engine: Engine, name: str) -> None:
    """Remove a user, whose sessions end with that; UserError where there is none."""
    with begin_write(engine) as connection:
        removed = connection.execute(delete(users).where(users.c.name == name)).rowcount
    if not removed:
        raise _unknown("user", name, [user.name for user in list_users(engine)])


# --- Tokens -------------------------------------------------------------------------------------------------


def add_token(engine: Engine, name: str, role: Role) -> str:
    """Make a token and return it: it is not kept, so nobody can show it again."""
    _check_name("token", name)
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    row = {"name": name, "role": role, "digest": _digest(token), "created_at": now()}
    _insert(engine, tokens, row, f"there is a token {name!r} already; `hpo token remove {name}` ends it")
    return token


def list_tokens(engine: Engine) -> list[ApiToken]:
    """All tokens by name."""
    with begin_read(engine) as connection:
        return [_token(row) for row in connection.execute(select(tokens).order_by(tokens.c.name))]


def find_token(engine: Engine, token: str) -> ApiToken | None:
    """What is known of this token, if it is one of ours."""
    with begin_read(engine) as connection:
        row = connection.execute(select(tokens).where(tokens.c.digest == _digest(token))).one_or_none()
    return None if row is None else _token(row)


def remove_token(engine: Engine, name: str) -> None:
    """End a token at once; UserError where there is none of that name."""
    with begin_write(engine) as connection:
        removed = connection.execute(delete(tokens).where(tokens.c.name == name)).rowcount
    if not removed:
        raise _unknown("token", name, [token.name for token in list_tokens(engine)])


# --- Common -------------------------------------------------------------------------------------------------


def _user(row: Row[*tuple[Any, ...]]) -> User:
    return User(
        name=row.name,
        role=row.role,
        password_hash=row.password_hash,
        created_at=row.created_at,
        logouts=row.logouts,
    )


def _token(row: Row[*tuple[Any, ...]]) -> ApiToken:
    return ApiToken(name=row.name, role=row.role, created_at=row.created_at)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _check_name(what: str, name: str) -> None:
    if len(name) > USER_LENGTH or not _NAME.fullmatch(name):
        raise UsageError(
            f"{what} {name!r}: a name has up to {USER_LENGTH} letters, digits and . _ @ + -, a letter or digit first"
        )


def _insert(engine: Engine, table: Table, row: Mapping[str, object], taken: str) -> None:
    try:
        with begin_write(engine) as connection:
            connection.execute(insert(table).values(row))
    except IntegrityError:
        raise UserError(taken) from None


def _unknown(what: str, name: str, names: list[str]) -> UserError:
    there = f"there are {', '.join(names)}" if names else f"there are none; `hpo {what} add NAME` makes one"
    return UserError(f"no {what} {name!r}; {there}")
