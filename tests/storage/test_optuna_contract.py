"""Optuna's own contract of a storage, over ours.

The cache hands everything on to the plain storage, so the two pairs below meet every line on both databases.
"""

from collections.abc import Callable

import pytest
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase
from sqlalchemy import Engine

from hpo.storage import optuna_storage
from hpo.storage.optuna_storage import make_storage, open_optuna


@pytest.fixture(autouse=True)
def _unpickled_storages_close(monkeypatch: pytest.MonkeyPatch, open_database: Callable[[str], Engine]) -> None:
    monkeypatch.setattr(optuna_storage, "open_engine", open_database)


class TestPlainOnPostgres(StorageTestCase):
    """As `bind_trial` and `report` use it."""

    @pytest.fixture
    def storage(self, postgres_engine: Engine) -> BaseStorage:
        return make_storage(postgres_engine)


class TestCachedOnSqlite(StorageTestCase):
    """As samplers use it."""

    @pytest.fixture
    def storage(self, sqlite_engine: Engine) -> BaseStorage:
        return open_optuna(sqlite_engine)
