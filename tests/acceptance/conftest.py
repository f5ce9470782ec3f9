"""`hpo` on a database of each test alone."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commandline import Hpo
from tests.support.nobody import NOBODY


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


@pytest.fixture
def nobodys_folder() -> Iterator[Path]:
    """A folder that this user owns and can reach."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        if os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)
        yield Path(name)
