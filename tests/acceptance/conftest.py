"""`hpo` on a database of each test alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commandline import Hpo


@pytest.fixture
def hpo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hpo]:
    """`hpo` on a SQLite file that does not exist yet, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    command = Hpo(tmp_path, f"sqlite:///{tmp_path / 'hpo.db'}")
    yield command
    command.close()


@pytest.fixture
def hpo_on_postgres(postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hpo]:
    """`hpo` on a PostgreSQL database, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HPO_ARTIFACTS", str(tmp_path / "artifacts"))
    command = Hpo(tmp_path, postgres_url)
    yield command
    command.close()
