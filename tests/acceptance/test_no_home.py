"""A user without an entry in passwd and without a home, as in containers that run under any number."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commandline import DRAIN, PATIENCE, Hpo

NOBODY = 12345  # a user's number that no passwd file has
NAMES = {"HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "XDG_DATA_HOME"}

NOWHERE = """
from sqlalchemy import create_engine
from hpo.worker.stores import NoArtifacts, default_folder
try:
    default_folder(create_engine("postgresql+psycopg://"))
except NoArtifacts as error:
    print(error)
"""  # the database's server need not run for it


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that this user owns and can reach."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        if os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def as_nobody(folder: Path, *words: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run Python as this user, in the folder."""
    inherited = {name: value for name, value in os.environ.items() if name not in NAMES}
    return subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", sys.executable, *map(str, words)],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root, and setpriv of util-linux")
def test_everything_works_without_a_home(hpo: Hpo, folder: Path) -> None:
    """Checked, created, trained and reported, without a cache; where a folder is needed, a line says so."""
    if as_nobody(folder, "-c", "import hpo, click").returncode:
        pytest.skip("this installation cannot be read by others")
    study = folder / "ws.toml"
    study.write_text(hpo.study(trials=1, confirm_rounds=1, rounds=1).read_text())
    for words in (("doctor",), ("study", "create", "--file", study), DRAIN, ("report",)):
        done = as_nobody(folder, "-m", "hpo", *words)
        assert done.returncode == 0, done.stderr
    nowhere = as_nobody(folder, "-c", NOWHERE)
    assert (
        nowhere.stdout == "this user has no home folder for checkpoints; name one with --artifacts or HPO_ARTIFACTS\n"
    )
