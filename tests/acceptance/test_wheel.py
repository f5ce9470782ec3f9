"""hpo from its wheel: built as for a release, installed into a new environment, and used there."""

import contextlib
import json
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import hatch_build
import hpo
from hpo.training.kernels import cpu
from tests.support.commandline import DEFAULTS, TINY

ROOT = Path(__file__).parents[2]
SECONDS = 600  # for one command, on a machine with other work to do


def run(*words: str | Path, cwd: Path, **more: str) -> str:
    """Run a command that has to succeed, with nothing of this process's environment that could lend it our sources.

    `more` are variables of its environment.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HPO_"))}
    environment = {**kept, **more}
    done = subprocess.run(words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def built(sources: Path, folder: Path, *options: str, **more: str) -> Path:
    """The wheel of sources, in a new folder, by what this environment has; `more` are variables of the environment."""
    options = options or ("--no-index", "--no-build-isolation")
    run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", *options, "--wheel-dir", folder, sources, cwd=sources, **more
    )
    (wheel,) = folder.iterdir()
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this working tree."""
    return built(ROOT, tmp_path_factory.mktemp("wheel"))


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


def without_compiler(folder: Path) -> dict[str, str]:
    """An environment in which no compiler is found."""
    return {"PATH": str(folder / "empty"), "CC": ""}


def with_broken_compiler(folder: Path) -> dict[str, str]:
    """An environment whose `cc` cannot compile, as one without the C library's headers."""
    broken = folder / "broken" / "cc"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'math.h: no such file' >&2\nexit 1\n")
    broken.chmod(0o755)
    return {"PATH": str(broken.parent), "CC": ""}


NO_COMPILER = pytest.mark.parametrize("environment", [without_compiler, with_broken_compiler])


@NO_COMPILER
def test_where_nothing_compiles_the_wheel_has_no_kernels(
    tmp_path: Path, environment: Callable[[Path], dict[str, str]]
) -> None:
    """It is one for every machine then; its hook would ask PyPI for a compiler, where there is one for that machine."""
    (tmp_path / "sources").mkdir()
    folder, variables = sources(tmp_path / "sources"), environment(tmp_path)
    plain = built(folder, tmp_path / "made", **variables)
    assert plain.name == f"hpo_service-{hpo.__version__}-py3-none-any.whl"
    assert libraries(plain) == set()
    asked = "import hatch_build; print(hatch_build.Kernels('', {}, None, None, '', 'wheel').dependencies())"
    assert run(sys.executable, "-c", asked, cwd=folder, **variables) == "['ziglang']\n"


def libraries(wheel: Path) -> set[str]:
    """The names of the compiled kernels in a wheel."""
    return {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")}


def loaded(wheel: Path, folder: Path, capability: str) -> str:
    """Which kernels a wheel's files give where torch is held to a set of instructions."""
    zipfile.ZipFile(wheel).extractall(folder)
    asked = "from hpo.training.kernels import selection; import torch; print(selection.state(torch.device('cpu')))"
    return run(sys.executable, "-c", asked, cwd=folder, ATEN_CPU_CAPABILITY=capability).strip()


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 processor")
def test_where_there_is_a_compiler_the_wheel_has_the_kernels(tmp_path: Path) -> None:
    """A text that does not compile is seen here, and so is a library that cannot be loaded."""
    (tmp_path / "sources").mkdir()
    compiled = built(sources(tmp_path / "sources"), tmp_path / "made")
    check_kernels(compiled, tmp_path / "there")


def check_kernels(wheel: Path, folder: Path) -> None:
    """A wheel has both levels, and this processor's is used."""
    assert libraries(wheel) == {"cpu-avx2.so", "cpu-avx512.so"}
    assert wheel.name == f"hpo_service-{hpo.__version__}-py3-none-linux_x86_64.whl"
    assert loaded(wheel, folder, "default") == "none (they need AVX2, torch finds DEFAULT)"
    best = {"AVX512": "C, avx512", "AVX2": "C, avx2"}
    capability = run(sys.executable, "-c", "import torch; print(torch.backends.cpu.get_cpu_capability())", cwd=folder)
    if capability.strip() in best:
        assert loaded(wheel, folder, "avx2") == "C, avx2"
        assert loaded(wheel, folder, capability.strip().lower()) == best[capability.strip()]


def test_the_build_says_what_the_package_looks_for(tmp_path: Path) -> None:
    """Both know the text by the same digest, and the libraries by the same names."""
    asked = "import hatch_build; print(hatch_build.digest(), *hatch_build.LEVELS['x86_64'])"
    looked_for = {level for levels in cpu.LEVELS.values() for level in levels}
    assert run(sys.executable, "-c", asked, cwd=ROOT).split() == [cpu.source_digest(), *sorted(looked_for)]


def installed(wheel: Path, folder: Path) -> Path:
    """The bin folder of a new environment that has the wheel, and finds what it needs in this one's packages.

    Their folders are named in a .pth file. Python adds those and does not read the .pth files in them, so an editable
    installation in there is not seen; and they come after the new environment's own folder.
    """
    venv.create(folder, with_pip=True)
    run(folder / "bin" / "pip", "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    ours = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages / "dependencies.pth").write_text("\n".join(ours) + "\n")
    return folder / "bin"


@pytest.fixture(scope="module")
def fresh(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that has this working tree's wheel."""
    return installed(wheel, tmp_path_factory.mktemp("fresh"))


def check_use(bin_: Path, folder: Path, kernels: str, **more: str) -> None:
    """`hpo doctor` says these kernels, an epoch is trained, and its record says them too."""
    assert f"kernels: cpu: {kernels}\n" in run(bin_ / "hpo", "doctor", cwd=folder, **more)
    options = {**DEFAULTS, "trials": 1}
    (folder / "tiny.toml").write_text(TINY.format(**options))
    run(bin_ / "hpo", "study", "create", "--file", "tiny.toml", cwd=folder)
    worker = ("worker", "--device", "cpu", "--population", "1", "--max-trials", "1")
    assert f"kernels: {kernels}; " in run(bin_ / "hpo", *worker, cwd=folder, **more)
    with contextlib.closing(sqlite3.connect(folder / "hpo.db")) as database:
        ((outcome,),) = database.execute("SELECT outcome FROM hpo_slots WHERE outcome IS NOT NULL").fetchall()
    done = json.loads(outcome)
    assert (done["state"], done["epochs"]) == ("complete", 1)
    assert done["versions"]["kernels"] == kernels


NOT_COMPILED = "none (they were not compiled when hpo was installed: install a C compiler, then hpo again)"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 processor")
def test_without_kernels_hpo_trains_by_plain_torch(tmp_path: Path) -> None:
    """As where it was installed without any compiler."""
    (tmp_path / "sources").mkdir()
    plain = built(sources(tmp_path / "sources"), tmp_path / "made", **without_compiler(tmp_path))
    (tmp_path / "used").mkdir()
    check_use(installed(plain, tmp_path / "fresh"), tmp_path / "used", NOT_COMPILED, ATEN_CPU_CAPABILITY="avx2")


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 processor")
@pytest.mark.parametrize(
    ("capability", "kernels"), [("avx2", "C, avx2"), ("default", "none (they need AVX2, torch finds DEFAULT)")]
)
def test_a_lesser_processor_has_the_kernels_that_it_can_run(
    fresh: Path, tmp_path: Path, capability: str, kernels: str
) -> None:
    """The same wheel, where torch is held to a smaller set of instructions."""
    check_use(fresh, tmp_path, kernels, ATEN_CPU_CAPABILITY=capability)


# --- The compiler that the build fetches --------------------------------------------------------------------


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ziglang from PyPI (100 MB), where that can be had."""
    folder = tmp_path_factory.mktemp("ziglang")
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "ziglang"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    if done.returncode:
        pytest.skip(f"ziglang cannot be had from PyPI: {done.stderr.strip()[-200:]}")
    return folder


@pytest.mark.long
@pytest.mark.usefixtures("fetched")
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64 processor")
@NO_COMPILER
def test_where_nothing_compiles_the_build_fetches_a_compiler(
    tmp_path: Path, environment: Callable[[Path], dict[str, str]]
) -> None:
    """A real build, in an environment of its own, to which hatchling and ziglang come from PyPI."""
    (tmp_path / "sources").mkdir()
    folder = sources(tmp_path / "sources")
    compiled = built(folder, tmp_path / "made", "--quiet", **environment(tmp_path))
    check_kernels(compiled, tmp_path / "there")


@pytest.mark.long
def test_the_kernels_compile_for_arm(fetched: Path, tmp_path: Path) -> None:
    """All that can be shown without such a processor; `test_kernels` runs vectors of the same width on this one."""
    library = tmp_path / "cpu-neon.so"
    compiler = (sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu")
    source = ("-DSOURCE=of_a_test", "-Wall", "-Werror", "-o", library, cpu.FOLDER / cpu.SOURCES[0], "-lm")
    flags = (*hatch_build.FLAGS, *hatch_build.LEVELS["aarch64"]["neon"])
    run(*compiler, *flags, *source, cwd=tmp_path, PYTHONPATH=str(fetched))
    made = library.read_bytes()
    assert (made[:4], int.from_bytes(made[18:20], "little")) == (b"\x7fELF", 183)  # e_machine: AArch64
    functions = {"window_forward", "window_backward", "convolution_forward", "convolution_backward", "adam"}
    assert {name for name in functions for of in ("f32", "f64") if f"{name}_{of}\0".encode() in made} == functions


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
