"""Another user than the tests': one without an entry in passwd and without a home."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.commandline import PATIENCE

NOBODY = 12345  # a user's number that no passwd file has
CAN_CHANGE = os.geteuid() == 0 and shutil.which("setpriv") is not None
WHY_NOT = "needs root, and setpriv of util-linux"
_NAMES = {"HOME", "USER", "LOGNAME", "XDG_CACHE_HOME", "XDG_DATA_HOME"}


def as_nobody(folder: Path, *words: str | Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run Python as this user, in the folder."""
    inherited = {name: value for name, value in os.environ.items() if name not in _NAMES}
    return subprocess.run(
        ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", sys.executable, *map(str, words)],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
