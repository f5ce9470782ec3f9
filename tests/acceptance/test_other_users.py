"""Files of another user in a worker's folders, which it may not read."""

import os
from pathlib import Path

import pytest

from tests.support.checkpoints import files_in
from tests.support.commandline import DRAIN, Hpo
from tests.support.nobody import CAN_CHANGE, WHY_NOT, as_nobody

SAVE = """
from pathlib import Path
from tests.support.checkpoints import checkpoint, kept_in
kept_in(Path("checkpoints")).save("training", checkpoint())
"""
LOAD = """
from pathlib import Path
from hpo.worker.signing import Damaged
from tests.support.checkpoints import EXPECTED, checkpoint, kept_in
kept = kept_in(Path("checkpoints"))
try:
    kept.load("training", EXPECTED)
except Damaged as error:
    print(error)
kept.set_aside("training")
kept.save("training", checkpoint())
assert kept.load("training", EXPECTED) is not None
"""


@pytest.mark.skipif(not CAN_CHANGE, reason=WHY_NOT)
@pytest.mark.parametrize("file", ["manifest", "state.npy", "curves.npy", "folder"])
def test_an_unreadable_checkpoint(nobodys_folder: Path, file: str) -> None:
    """It is set aside, and the next takes its place."""
    if as_nobody(nobodys_folder, "-c", "import hpo, click").returncode:
        pytest.skip("this installation cannot be read by others")
    done = as_nobody(nobodys_folder, "-c", SAVE)
    assert done.returncode == 0, done.stderr
    path = files_in(nobodys_folder / "checkpoints")[file]
    os.chown(path, 0, 0)
    path.chmod(0o600)
    done = as_nobody(nobodys_folder, "-c", LOAD)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("cannot be read: Permission denied\n")


@pytest.mark.skipif(not CAN_CHANGE, reason=WHY_NOT)
def test_an_unreadable_result_stops_no_start(hpo: Hpo, nobodys_folder: Path) -> None:
    """One line, and all is trained."""
    if as_nobody(nobodys_folder, "-c", "import hpo, click").returncode:
        pytest.skip("this installation cannot be read by others")
    study = nobodys_folder / "ws.toml"
    study.write_text(hpo.study(trials=1, confirm_rounds=1, rounds=1).read_text())
    for words in (("study", "create", "--file", study), (*DRAIN, "--max-trials", "1")):
        done = as_nobody(nobodys_folder, "-m", "hpo", *words)
        assert done.returncode == 0, done.stderr
    (results,) = (nobodys_folder / "hpo.db.artifacts" / "results").iterdir()
    (results / "1-0.json").write_text("")
    (results / "1-0.json").chmod(0o600)
    done = as_nobody(nobodys_folder, "-m", "hpo", *DRAIN)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be read: Permission denied; it is now called 1-0.json.damaged") == 1
