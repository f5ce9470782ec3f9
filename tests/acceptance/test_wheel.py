"""hpo from its wheel: built as for a release, installed into a new environment, and used there."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import hpo
from hpo.training.kernels import cpu

ROOT = Path(__file__).parents[2]
SECONDS = 600  # for one command, on a machine with other work to do


def run(*words: str | Path, cwd: Path) -> str:
    """Run a command that has to succeed, with nothing of this process's environment that could lend it our sources."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HPO_"))}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    words = ("pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, ROOT)
    run(sys.executable, "-m", *words, cwd=folder)
    (built,) = folder.iterdir()
    return built


def sources(folder: Path) -> Path:
    """What the image's wheel is built from, by its Dockerfile, without anything that was compiled from it."""
    stage = (ROOT / "Dockerfile").read_text().split("\nFROM ")[1]
    copied = [name for line in stage.splitlines() if line.startswith("COPY ") for name in line.split()[1:-1]]
    assert {f"!{name}" for name in copied} <= set((ROOT / ".dockerignore").read_text().splitlines())
    for name in copied:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def test_where_there_is_no_compiler_the_wheel_has_no_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one for every machine then; its hook would ask PyPI for a compiler, where there is one for that machine."""
    folder = sources(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.delenv("CC", raising=False)
    words = (
        "pip",
        "wheel",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--wheel-dir",
        tmp_path / "made",
        folder,
    )
    run(sys.executable, "-m", *words, cwd=tmp_path)
    (built,) = (tmp_path / "made").iterdir()
    assert built.name == f"hpo_service-{hpo.__version__}-py3-none-any.whl"
    assert not [name for name in zipfile.ZipFile(built).namelist() if name.endswith(".so")]
    asked = "import hatch_build; print(hatch_build.Kernels('', {}, None, None, '', 'wheel').dependencies())"
    assert run(sys.executable, "-c", asked, cwd=folder) == "['ziglang']\n"


def test_the_build_says_what_the_package_looks_for(tmp_path: Path) -> None:
    """Both know the text by the same digest, and the libraries by the same names."""
    asked = "import hatch_build; print(hatch_build.digest(), *hatch_build.LEVELS['x86_64'])"
    assert run(sys.executable, "-c", asked, cwd=ROOT).split() == [cpu.source_digest(), *sorted(cpu.LEVELS.values())]


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of a new environment that has the wheel, and finds what it needs in this one's packages.

    Their folders are named in a .pth file. Python adds those and does not read the .pth files in them, so an editable
    installation in there is not seen; and they come after the new environment's own folder.
    """
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=True)
    run(folder / "bin" / "pip", "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    ours = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "dependencies.pth").write_text("\n".join(ours) + "\n")
    return folder / "bin"


def test_the_wheel_has_all_of_hpo_and_nothing_else(wheel: Path) -> None:
    """Every file of the package, templates and types included, the three studies, and no tests."""
    assert wheel.name.startswith(f"hpo_service-{hpo.__version__}-py3-none-")
    actual = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hpo").rglob("*") if path.is_file()}
    studies = {f"hpo/builtin_studies/{path.relative_to(ROOT / 'studies')}" for path in ROOT.glob("studies/**/*.toml")}
    assert actual == {name for name in package if "__pycache__" not in name} | studies
    assert "hpo/py.typed" in actual


def test_hpo_from_its_wheel(fresh: Path, tmp_path: Path) -> None:
    """Help, versions, a study, a report: from the new environment's files, in a folder that knows no sources."""
    told = run(fresh / "python", "-c", "import hpo; print(hpo.__file__)", cwd=tmp_path)
    assert Path(told.strip()).is_relative_to(fresh.parent)
    assert "Commands:" in run(fresh / "hpo", "--help", cwd=tmp_path)
    assert run(fresh / "hpo", "--version", cwd=tmp_path) == f"hpo, version {hpo.__version__}\n"
    assert f"hpo {hpo.__version__}" in run(fresh / "hpo", "doctor", cwd=tmp_path)
    trials = tomllib.loads((ROOT / "studies" / "ws.toml").read_text())["budget"]["trials"]
    planned = run(fresh / "hpo", "study", "create", "--model", "ws", "--dry-run", cwd=tmp_path)
    assert f"study ws: would be created ({trials} trials" in planned
    assert list(tmp_path.iterdir()) == []
    run(fresh / "hpo", "study", "create", "--model", "ws", cwd=tmp_path)
    run(fresh / "hpo", "report", cwd=tmp_path)
    assert "<html" in (tmp_path / "report" / "report.html").read_text()
