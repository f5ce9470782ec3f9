"""Compiles the kernels for CPUs (hpo/training/kernels/cpu.c) where hpo is built or installed: hatchling's hook.

With $CC or `cc` where that can compile, else with ziglang from PyPI, which is asked for only then and is not kept.
Where neither can be had, hpo is installed without them, trains by plain torch, and `hpo doctor` says so.
"""

import hashlib
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path(__file__).parent / "hpo" / "training" / "kernels"
SOURCES = ("cpu.c", "cpu_real.h")
# Nobody asks for errno or traps of arithmetic here; everything else is as the standard says.
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-s", "-fno-math-errno", "-fno-trapping-math")
LEVELS: dict[str, dict[str, tuple[str, ...]]] = {
    "x86_64": {
        "avx2": ("-mavx2", "-mfma"),
        "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"),
    },
    "aarch64": {"neon": ()},
}
MACHINES = {"AMD64": "x86_64", "arm64": "aarch64"}  # other names of the same


def digest() -> str:
    """Of the text that is compiled, which the library holds (`hpo.training.kernels.cpu.source_digest`)."""
    return hashlib.sha256(b"".join((FOLDER / name).read_bytes() for name in SOURCES)).hexdigest()[:16]


def compilers() -> list[list[str]]:
    """The commands of C compilers that work, the one to prefer first."""
    asked = [shlex.split(os.environ.get("CC", "")), ["cc"], [sys.executable, "-m", "ziglang", "cc"]]
    return [command for command in asked if command and compiles(command)]


def compiles(command: list[str]) -> bool:
    """Whether it can make a library of a few lines: a compiler may be there without the C library's headers."""
    with tempfile.TemporaryDirectory() as folder:
        whole = [*command, *FLAGS, "-x", "c", "-", "-o", str(Path(folder) / "tried.so")]
        try:
            ran = subprocess.run(
                whole, input="#include <math.h>\n#include <stdint.h>\n", capture_output=True, text=True
            )
        except OSError:
            return False
        return ran.returncode == 0


def compile_level(commands: list[list[str]], level: str, flags: tuple[str, ...]) -> str | None:
    """Compile one library, with the first compiler that can; None, or why none could."""
    target = FOLDER / "compiled" / f"cpu-{level}.so"
    target.parent.mkdir(exist_ok=True)
    if target.exists() and digest().encode() in target.read_bytes():
        return None  # of this very text
    beside = target.with_suffix(f".{os.getpid()}")
    why = "there is no C compiler"
    for command in commands:
        whole = [*command, *FLAGS, *flags, f"-DSOURCE={digest()}", "-o", str(beside), str(FOLDER / SOURCES[0]), "-lm"]
        ran = subprocess.run(whole, capture_output=True, text=True)
        if not ran.returncode:
            beside.replace(target)
            return None
        why = ran.stderr.strip()[-500:] or f"{command[0]} ended with {ran.returncode}"
    beside.unlink(missing_ok=True)
    target.unlink(missing_ok=True)
    return why


class Kernels(BuildHookInterface[Any]):
    """The hook: before a wheel, an editable one too, is put together."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What the build needs beside hatchling."""
        return ["ziglang"] if self.target_name == "wheel" and not compilers() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and have the wheel hold what came of it."""
        if self.target_name != "wheel":
            return
        machine = platform.machine()
        commands, system = compilers(), platform.system()
        made = []
        for level, flags in LEVELS.get(MACHINES.get(machine, machine), {}).items() if system != "Windows" else ():
            why = compile_level(commands, level, flags)
            if why is None:
                made.append(f"hpo/training/kernels/compiled/cpu-{level}.so")
            else:
                self.app.display_warning(f"no kernels for {level}, training is slower: {why}")
        if made:
            build_data["artifacts"] += made
            build_data["pure_python"] = False
            if system == "Linux":
                build_data["tag"] = f"py3-none-linux_{MACHINES.get(machine, machine)}"
            else:
                build_data["infer_tag"] = True
