"""docs/tutorial.md, block by block, as a newcomer goes through it: from an empty folder to a report on a CSV file."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.commandline import PATIENCE, on_this_machine
from tests.support.readme import README, in_order

PAGE = (README.parent / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
SAVED = re.findall(r"[Ss]ave this as `(\w+\.py)`", PAGE)
MINUTES = 15  # that the page promises, reading included


def test_the_page_says_what_to_save_and_to_install() -> None:
    """Each block of Python has its file, and the package is called as it is."""
    assert len([kind for kind, _ in BLOCKS if kind == "python"]) == len(SAVED) == 2
    assert {kind for kind, _ in BLOCKS} == {"sh", "python", "text"}
    name = re.search(r'^name = "([\w-]+)"', (README.parent / "pyproject.toml").read_text(), flags=re.MULTILINE)
    assert name is not None
    assert f"pip install {name[1]} scikit-learn pandas\n" in BLOCKS[0][1]


@pytest.mark.long
def test_every_block(tmp_path: Path) -> None:
    """Typed into bash, or saved; what is shown below a block is printed. All but the installation, which is there."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for command, words in (("hpo", "-m hpo"), ("python", "")):
        (commands / command).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (commands / command).chmod(0o755)
    folder = tmp_path / "empty"
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HPO_")}
    environment |= {
        "PATH": f"{commands}:{os.environ['PATH']}",
        "PYTHONPATH": str(README.parent),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "COLUMNS": "100",  # of a terminal on which the page's tables are whole
    }
    printed, files, started = "", iter(SAVED), time.monotonic()
    for kind, block in BLOCKS[1:]:
        if kind == "python":
            (folder / next(files)).write_text(block)
        elif kind == "text":
            in_order(block.splitlines(), printed, any_numbers=True)
        else:
            done = subprocess.run(
                ["bash", "-e", "-c", block],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=PATIENCE,
            )
            printed = done.stdout
            assert done.returncode == 0, f"{block}\n{printed}"
    assert (folder / "report" / "report.html").exists()
    assert "[tuned]" in (folder / "neighbours.toml").read_text()
    assert time.monotonic() - started < on_this_machine(MINUTES * 60 / 2), "half of the time is for reading"
