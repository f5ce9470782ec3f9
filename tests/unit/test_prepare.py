"""Describing an experiment in a process of its own, and what is kept of that for the next one."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hpo.errors import ExperimentError
from hpo.experiment import cache, pool_files
from hpo.experiment.prepare import prepared

FILE = """
import hpo
import numpy as np
from pathlib import Path
from parts_of_mine import scaled
{more}

def load():
    print("noise")
    return np.load(Path(__file__).parent / "x.npy"), np.arange(60) % 2

def first(run):
    return lambda x: scaled(x)[:, 0] > 0

def second(run):
    return lambda x: x[:, 0] > run.params["at"]

mine = hpo.Experiment(
    "mine",
    data=hpo.rows({load}, test=0.3),
    metrics=[hpo.accuracy],
    models={{
        "first": hpo.Model(first),
        "second": hpo.Model(second, space={{"at": hpo.Float(0, 1)}}, reference={{"at": 0.5}}),
    }},
    defaults={{"budget": {{"trials": 7}}}},
)
"""
PARTS = "def scaled(x):\n    return 2 * x\n"
CSV = "a,b,y\n" + "".join(f"{i / 7},{i % 5},{i % 2}\n" for i in range(60))


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write(tmp_path / "mine.py")


def write(file: Path, *, load: str = "load", more: str = "") -> Path:
    import numpy as np

    file.write_text(FILE.format(load=load, more=more))
    file.with_name("parts_of_mine.py").write_text(PARTS)
    file.with_name("data.csv").write_text(CSV)
    np.save(file.with_name("x.npy"), np.random.default_rng(0).normal(size=(60, 3)))
    return file


def entries(file: Path) -> list[Path]:
    return sorted((file.parent / "cache" / "hpo" / "experiments").iterdir())


def test_an_experiment_is_described_once(file: Path) -> None:
    """The second process reads what the first one wrote; the pools lie beside it."""
    description = prepared(str(file))
    assert (description.name, description.version, list(description.models)) == ("mine", 1, ["first", "second"])
    assert description.locator == str(file)
    assert description.models["second"].reference == {"at": 0.5}
    assert description.defaults == {"budget": {"trials": 7}}
    assert description.folder.is_relative_to(file.parent / "cache")
    assert len(pool_files.load(description.folder / "a").items) == description.sizes["a"]
    assert sum(description.sizes.values()) == 60
    (entry,) = entries(file)
    assert entry == description.folder
    assert prepared(str(file)) == description
    assert entries(file) == [entry]


@pytest.mark.parametrize("changed", ["mine.py", "parts_of_mine.py", "data.csv", "x.npy"])
@pytest.mark.parametrize("load", ["load", "'data.csv', target='y'"])
def test_what_it_was_made_from_may_not_change(file: Path, load: str, changed: str) -> None:
    """The file, a neighbour that it imports, a file that `rows` names, and one that its function opens, unasked."""
    write(file, load=load)
    first = prepared(str(file))
    content = file.with_name(changed).read_bytes()
    matters = changed.endswith(".py") or (changed == "x.npy") == (load == "load")
    others = {".py": content + b"\n", ".csv": content + b"9.5,1,1\n", ".npy": content[:-8] + bytes(8)}
    file.with_name(changed).write_bytes(others[Path(changed).suffix])
    second = prepared(str(file))
    assert (second.folder != first.folder) == matters
    assert (second.data_digest != first.data_digest) == (matters and not changed.endswith(".py"))
    assert second.models == first.models
    file.with_name(changed).write_bytes(content)
    assert prepared(str(file)).folder == first.folder, "what is as it was serves again"


def test_other_versions_do_not_share_an_entry(file: Path) -> None:
    first = prepared(str(file)).folder
    record = json.loads((first / "inputs.json").read_text())
    assert {"numpy", "scikit-learn"} & set(record["packages"]) == {"numpy"}, "what is loaded"
    (first / "inputs.json").write_text(json.dumps({**record, "packages": {"numpy": "1.0"}}))
    second = prepared(str(file)).folder
    assert second != first
    older = json.loads((second / "description.json").read_text())
    for model in older["models"].values():
        del model["needed"]  # as a version of hpo wrote it that did not know of it
    (second / "description.json").write_text(json.dumps(older))
    sizes = json.loads((second / "sizes.json").read_text())
    sizes["description.json"] = (second / "description.json").stat().st_size
    (second / "sizes.json").write_text(json.dumps(sizes))
    (second / "inputs.json").write_text(json.dumps({**record, "described": record["described"][:-1]}))
    assert prepared(str(file)).folder not in (first, second)


def test_data_from_elsewhere_are_loaded_anew(file: Path) -> None:
    """Whether a server gives the same again, nobody knows."""
    write(file, more="import socket\nwith socket.socket() as s: s.connect_ex(('127.0.0.1', 9))")
    assert prepared(str(file)).folder != prepared(str(file)).folder


def test_a_damaged_entry_is_not_used(file: Path) -> None:
    first = prepared(str(file)).folder
    (first / "a" / "x.npy").write_bytes(b"")
    assert prepared(str(file)).folder != first


def test_processes_at_once_do_not_disturb_each_other(file: Path) -> None:
    """Each gets a whole description; nothing half written is left."""
    code = f"from hpo.experiment.prepare import prepared; print(prepared({str(file)!r}).data_digest)"
    with ThreadPoolExecutor(3) as pool:
        done = list(
            pool.map(lambda _: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True), range(3))
        )
    assert len({run.stdout for run in done}) == 1
    assert all((entry / "description.json").exists() for entry in entries(file))


def test_what_nobody_uses_is_deleted(file: Path) -> None:
    """After 30 days, and after one what nobody finished; not what is in use."""
    first = prepared(str(file)).folder
    unfinished = first.with_name(".new-1")
    unfinished.mkdir()
    long_ago = time.time() - 31 * 24 * 3600
    for path in (first, unfinished):
        os.utime(path, (long_ago, long_ago))
    assert prepared(str(file)).folder == first, "used again"
    file.write_text(file.read_text() + "# another\n")
    second = prepared(str(file)).folder
    assert entries(file) == sorted([first, second])
    os.utime(first, (long_ago, long_ago))
    file.write_text(file.read_text() + "# a third\n")
    third = prepared(str(file)).folder
    assert entries(file) == sorted([second, third])


def test_without_a_home_there_is_no_cache(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have none."""
    (file.parent / "no-folder").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file.parent / "no-folder"))
    assert cache.folder() is None
    first, second = prepared(str(file)), prepared(str(file))
    assert first.folder != second.folder
    assert first.data_digest == second.data_digest


def test_a_comment_changes_no_models_digest(file: Path) -> None:
    """Nor does another model's code."""
    first = prepared(str(file)).models
    file.write_text(file.read_text().replace("> 0\n", "> 1  # of the first\n"))
    second = prepared(str(file)).models
    assert second["first"].code_digest != first["first"].code_digest
    assert second["second"] == first["second"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("np.load(", "np.lode(", "its data cannot be loaded: AttributeError: module 'numpy' has no attribute 'lode'"),
        ("% 2", "% 2 + 0.5", ""),
        ("(60) % 2", "(59) % 2", "rows: 59 targets for 60 rows"),
        ("mine = hpo", "import os; os._exit(3)\nmine = hpo", "the process that was to load it ended (code 3)"),
        ("test=0.3", "test=3", "cannot be imported: ExperimentError: rows: test must be a share between 0 and 1, or"),
    ],
)
def test_what_cannot_be_described_is_one_line_and_leaves_nothing(file: Path, old: str, new: str, message: str) -> None:
    file.write_text(file.read_text().replace(old, new))
    if not message:
        assert prepared(str(file)).sizes["a"] > 30
        return
    with pytest.raises(ExperimentError) as error:
        prepared(str(file))
    assert str(error.value).startswith(f"experiment {file}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert entries(file) == []
