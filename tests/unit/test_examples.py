"""The examples: each loads, nothing in its data is suspect, and its study files name what there is."""

import tomllib
from pathlib import Path

import pytest

import hpo
from hpo.experiment.prepare import prepared
from hpo.experiment.spaces import Space
from hpo.study.spec import Budget, Protocol

FOLDER = Path(hpo.__file__).parents[1] / "examples"
STUDIES = {path: tomllib.loads(path.read_text()) for path in sorted(FOLDER.glob("*.toml"))}
SETTINGS = {"budget": set(Budget.model_fields), "protocol": set(Protocol.model_fields)}


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_an_example_and_its_study_files(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Described by a process of its own, as for `hpo run`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    described = prepared(str(file))
    assert described.name == file.stem
    assert len(described.models) >= 1
    assert described.remarks == ()
    for path, study in STUDIES.items():
        if study["experiment"] != f"{file.name}:{described.name}":
            continue
        space = Space.from_plain(described.models[study["model"]].space)
        assert set(study.get("space", {})) <= set(space.parameters), path
        assert set(study) <= {"name", "experiment", "model", "space", *SETTINGS}, path
        for section, names in SETTINGS.items():
            assert set(study.get(section, {})) <= names, path


def test_each_study_file_belongs_to_an_example() -> None:
    assert {(FOLDER / study["experiment"].partition(":")[0]).exists() for study in STUDIES.values()} == {True}
    for path in STUDIES:
        assert f"--file examples/{path.name}" in path.read_text()


def test_the_list_of_examples_is_whole() -> None:
    readme = (FOLDER / "README.md").read_text()
    assert [file.name for file in FOLDER.glob("*.py") if f"[{file.name}]({file.name})" not in readme] == []
