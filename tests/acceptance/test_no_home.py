"""A user without an entry in passwd and without a home, as in containers that run under any number."""

from pathlib import Path

import pytest

from tests.support.commandline import DRAIN, Hpo
from tests.support.nobody import CAN_CHANGE, WHY_NOT, as_nobody

NOWHERE = """
from sqlalchemy import create_engine
from hpo.worker.stores import NoArtifacts, default_folder
try:
    default_folder(create_engine("postgresql+psycopg://"))
except NoArtifacts as error:
    print(error)
"""  # the database's server need not run for it


@pytest.mark.long
@pytest.mark.skipif(not CAN_CHANGE, reason=WHY_NOT)
def test_everything_works_without_a_home(hpo: Hpo, nobodys_folder: Path) -> None:
    """Checked, created, trained and reported, without a cache; where a folder is needed, a line says so."""
    folder = nobodys_folder
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
