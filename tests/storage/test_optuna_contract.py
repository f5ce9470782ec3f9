"""Optuna's own contract of a storage, over ours, on both databases, with and without its cache."""

import pytest
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase
from sqlalchemy import Engine

from hpo.storage.optuna_storage import make_storage, open_optuna


class TestPlain(StorageTestCase):
    """Uncached, as bind_trial and report use it."""

    @pytest.fixture
    def storage(self, engine: Engine) -> BaseStorage:
        return make_storage(engine)


class TestCached(StorageTestCase):
    """Cached, as samplers and the dashboard use it."""

    @pytest.fixture
    def storage(self, engine: Engine) -> BaseStorage:
        return open_optuna(engine)
