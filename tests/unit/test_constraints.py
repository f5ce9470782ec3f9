"""constraints.txt against what is installed: everything that hpo brings in has one version, on CPUs and with CUDA.

CI runs this where pip has installed torch's CUDA build, so the packages that only it brings are held too.
"""

import re
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DECLARED = [*PROJECT["dependencies"], *(line for extra in PROJECT["optional-dependencies"].values() for line in extra)]


def pinned(text: str) -> dict[str, str]:
    """Version by name; each line pins one package and nothing else stands there."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    pins = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.]+)", line) for line in lines if line]
    assert None not in pins
    by_name: dict[str, str] = {canonicalize_name(pin[1]): pin[2] for pin in pins if pin is not None}
    assert len(by_name) == len(pins)
    return by_name


def installed(requirements: Iterable[str]) -> dict[str, str]:
    """Version by name of what these requirements have brought in, and what that has in turn."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [Requirement(line) for line in requirements]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        versions[name] = Version(metadata.version(name)).public  # torch's builds differ in a local part: +cpu
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            needed = [Requirement(line) for line in metadata.requires(name) or []]
            waiting += [need for need in needed if need.marker is None or need.marker.evaluate({"extra": extra})]
    return versions


def test_what_is_installed_is_what_is_pinned() -> None:
    """Whatever a dependency brings along is pinned to the version that is here; else two machines differ."""
    pins, here = pinned((ROOT / "constraints.txt").read_text()), installed(DECLARED)
    assert len(here) > 80
    assert {name: (version, pins.get(name)) for name, version in here.items() if pins.get(name) != version} == {}


def test_the_cuda_build_of_torch_is_pinned_too() -> None:
    """PyPI's torch for Linux is the CUDA build and needs these; which others they need in turn, CI sees."""
    pins = pinned((ROOT / "constraints.txt").read_text())
    assert {"cuda-toolkit", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13", "triton"} <= pins.keys()


def test_an_unpinned_package_is_seen() -> None:
    """The closure goes through extras, and leaves out what a marker excludes."""
    here = installed(["optuna"])
    assert {"optuna", "sqlalchemy", "alembic", "mako", "markupsafe", "numpy"} <= here.keys()
    assert "psycopg-binary" not in installed(["psycopg"])
    assert "psycopg-binary" in installed(["psycopg[binary]"])
