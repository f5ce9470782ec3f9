"""Every benchmark starts; the GPU's does on a machine that has torch alone."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commandline import PATIENCE

ROOT = Path(__file__).parents[2]
COMMANDS = sorted(path.stem for path in (ROOT / "bench").glob("*.py") if '"__main__"' in path.read_text())
NOT_THERE = ("alembic", "click", "numpy", "optuna", "psutil", "psycopg", "pydantic", "scipy", "sklearn", "sqlalchemy")

WITHOUT = """
import sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split()))  # None: to import it raises
from bench import gpu
gpu.REPEATS = 2
gpu.main()
"""


COLLECT = """
import sys
sys.modules.update(dict.fromkeys(sys.argv.pop(1).split()))
import pytest
sys.exit(pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", "tests/training/test_cuda.py"]))
"""


def test_the_makefile_names_every_command() -> None:
    """`make bench-NAME` is how they are found."""
    makefile = (ROOT / "Makefile").read_text()
    assert [name for name in COMMANDS if f"bench-{name}:" not in makefile] == []
    assert len(COMMANDS) > 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_starts(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With all that it imports; its help says what the module says of itself."""
    monkeypatch.delitem(sys.modules, f"bench.{name}", raising=False)  # or runpy warns
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(f"bench.{name}", run_name="__main__")
    assert end.value.code == 0
    assert f"python -m bench.{name}" in capsys.readouterr().out


def test_torch_alone_is_enough_for_the_gpus() -> None:
    """Parts of the measurement where nothing else is installed, as on a machine rented for its GPU."""
    small = ["--device", "cpu", "--models", "simple", "--lanes", "1", "2", "--ways", "eager"]
    lines = []
    for part in ("sweep", "ceilings", "whole"):
        command = [sys.executable, "-c", WITHOUT, " ".join(NOT_THERE), part, *small]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, done.stderr
        lines += [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["lanes"] for line in lines if line["part"] == "sweep" and "lanes" in line] == [1, 2]
    assert [line for line in lines if line["part"] == "ceilings" and "tb_s" in line]
    assert [line["lanes"] for line in lines if line["part"] == "whole"] == [1, 2]
    assert all("predicted" in line for line in lines if "failed" not in line)


def test_torch_and_pytest_are_enough_for_the_gpus_tests() -> None:
    """They are collected, with the conftest files that lie on their way."""
    command = [sys.executable, "-c", COLLECT, " ".join(NOT_THERE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_cuda.py::test_no_step_waits_for_the_device[ws-True]" in done.stdout
