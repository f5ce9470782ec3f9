"""The path of a GPU, run on a CPU: `on_fake_cuda` in a process of its own, in which torch takes CUDA to be there."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

_RUN = "import ctypes, sys; ctypes.CDLL(sys.argv[1]); import pytest; sys.exit(pytest.main(sys.argv[2:]))"


@pytest.mark.skipif(sys.platform != "linux", reason="the shim is linked as on Linux")
@pytest.mark.skipif(torch.version.cuda is not None, reason="test_cuda has a GPU, or torch's build for one")
def test_epochs_on_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    """No tensor of the wrong device, no wait but at an epoch's end, for each network, alone and side by side."""
    if (compiler := shutil.which("c++")) is None:
        pytest.skip("needs a C++ compiler")
    here, libraries = Path(__file__).parent, Path(torch.__file__).parent / "lib"
    shim = str(tmp_path / "fake_cuda.so")
    build = [compiler, "-std=c++20", "-O0", "-fPIC", "-shared", f"-I{libraries.parent / 'include'}", "-o", shim]
    linked = [f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-ltorch_cpu", "-lc10"]
    subprocess.run([*build, str(here / "fake_cuda.cpp"), *linked], check=True)
    options = ["-q", "--noconftest", "-p", "no:cacheprovider"]
    command = [sys.executable, "-c", _RUN, shim, *options, str(here / "on_fake_cuda.py")]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
    assert "18 passed" in ran.stdout
