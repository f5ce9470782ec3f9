"""What the fixtures of databases.py and of conftest.py files give, for the annotations of tests."""

import itertools
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.engine import URL, make_url

from hpo.storage import migrate
from hpo.storage.engine import open_engine
from hpo.storage.studies import StudyRow

OpenDatabase = Callable[[str], Engine]  # URL -> an engine that closes when the test ends
MakeStudy = Callable[..., StudyRow]  # name, and fields of NewStudy that differ from the usual ones
Statements = list[tuple[str, Any]]  # SQL, parameters
Watch = Callable[[Engine], AbstractContextManager[Statements]]


class Postgres:
    """A running server: makes databases, empty or with the schema, and drops them."""

    def __init__(self, server: URL) -> None:
        self.server = server
        self._admin = create_engine(server, isolation_level="AUTOCOMMIT")
        self._names = itertools.count()
        self._template: str | None = None

    def sql(self, statement: str) -> None:
        """Run a statement on the server, outside any transaction."""
        with self._admin.connect() as connection:
            connection.execute(text(statement))

    def empty(self) -> str:
        """The URL of a new empty database."""
        name = f"test_{os.getpid()}_{next(self._names)}"
        self.sql(f"CREATE DATABASE {name}")
        return self._url(name)

    def prepared(self) -> str:
        """The URL of a new database that has the schema."""
        if self._template is None:
            url = self.empty()
            engine = open_engine(url)
            migrate.create_or_check(engine)
            engine.dispose()
            self._template = str(make_url(url).database)
        name = f"test_{os.getpid()}_{next(self._names)}"
        self.sql(f"CREATE DATABASE {name} TEMPLATE {self._template} STRATEGY FILE_COPY")
        return self._url(name)

    def drop(self, url: str) -> None:
        """Drop the database, whoever is connected."""
        self.sql(f"DROP DATABASE {make_url(url).database} WITH (FORCE)")

    def close(self) -> None:
        """Drop the template and close the connections of this object; the server goes on."""
        if self._template is not None:
            self.drop(self._url(self._template))
        self._admin.dispose()

    def _url(self, name: str) -> str:
        return self.server.set(database=name).render_as_string(hide_password=False)
