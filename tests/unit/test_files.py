"""Writing files atomically: whole or not at all, through no planted link, with the mode that the umask asks for."""

import errno
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hpo.errors import HpoError
from hpo.files import temporaries_of, write_atomically
from hpo.study.operations import write as write_export
from hpo.worker import stores
from hpo.worker.stores import Folder, NoArtifacts

WRITERS: dict[str, Callable[[Path], None]] = {
    "write_atomically": lambda path: write_atomically(path, b"new"),
    "a checkpoint": lambda path: Folder(path.parent).replace(path.name, b"new"),
    "study export --out": lambda path: write_export(path, "new"),
}


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest) -> Callable[[Path], None]:
    """Everything that puts a file into a folder which others may write to."""
    return WRITERS[request.param]


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """os.umask, undone when the test ends."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_file_takes_the_place_of_the_old(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """A name without a file and one with, and nothing is left beside it."""
    path = tmp_path / "file"
    write(path)
    assert path.read_bytes() == b"new"
    path.write_bytes(b"older and longer")
    write(path)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["file"]


def test_text_is_utf_8(tmp_path: Path) -> None:
    """Whatever the locale says, and with the line ends that it was given."""
    write_atomically(tmp_path / "file", "2 ≤ 7\r\n")
    assert (tmp_path / "file").read_bytes() == b"2 \xe2\x89\xa4 7\r\n"


def test_a_link_at_the_target_is_replaced(tmp_path: Path, write: Callable[[Path], None]) -> None:
    """What it points to stays as it was."""
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(b"precious")
    path.symlink_to(victim)
    write(path)
    assert victim.read_bytes() == b"precious"
    assert not path.is_symlink()
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("plant", ["link", "dangling link", "file"])
def test_a_planted_temporary_file_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: str
) -> None:
    """Even one whose name was guessed: neither a link nor a file under it is followed, overwritten or removed."""
    monkeypatch.setattr(secrets, "token_hex", lambda size: "guessed")
    victim, path, planted = tmp_path / "victim", tmp_path / "file", tmp_path / ".file.guessed"
    victim.write_bytes(b"precious")
    match plant:
        case "link":
            planted.symlink_to(victim)
        case "dangling link":
            planted.symlink_to(tmp_path / "nowhere")
        case "file":
            planted.write_bytes(b"another writer's")
    before = names(tmp_path)
    with pytest.raises(FileExistsError):
        write_atomically(path, b"new")
    assert victim.read_bytes() == b"precious"
    assert names(tmp_path) == before


def test_names_of_temporary_files_cannot_be_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None]
) -> None:
    """Links planted under every name of an earlier temporary file, under process and thread, catch nothing."""
    victim, opened = tmp_path / "victim", list[Path]()
    victim.write_bytes(b"precious")
    folder = tmp_path / "shared"
    folder.mkdir()
    inner = os.open

    def watched(path: Path, *rest: int) -> int:
        opened.append(Path(path))
        return inner(path, *rest)

    monkeypatch.setattr(os, "open", watched)
    write(folder / "file")
    planted = {path.name for path in opened}
    assert planted
    pid, thread = os.getpid(), threading.get_ident()
    planted |= {f".probe-{pid}", f".file.{pid}", f".file.{pid}.{thread}"}
    for name in planted:
        (folder / name).symlink_to(victim)
    opened.clear()
    write(folder / "file")
    assert victim.read_bytes() == b"precious"
    assert not planted & {path.name for path in opened}
    assert (folder / "file").read_bytes() == b"new"


def test_probes_of_two_containers_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Process numbers in containers are small and equal: two workers that open one folder at once both may."""
    probes: list[Path] = []

    def meanwhile(path: Path, body: bytes) -> None:
        probes.append(path)
        if len(probes) == 1:
            Folder(tmp_path)  # the other one comes and goes while this one's probe is being written
        write_atomically(path, body)

    monkeypatch.setattr(stores, "write_atomically", meanwhile)
    Folder(tmp_path)
    assert len(set(probes)) == 2
    assert names(tmp_path) == []


def test_the_mode_is_the_umasks(tmp_path: Path, umask: Callable[[int], int], write: Callable[[Path], None]) -> None:
    """As for any other new file: a group that shares a folder may read in it, or nobody else may."""
    for mask, mode in ((0o022, 0o644), (0o002, 0o664), (0o077, 0o600)):
        umask(mask)
        write(tmp_path / "file")
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


@pytest.mark.parametrize("broken", ["replace", "fsync", "interrupted"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    """A full disk at the end of the write or at the rename, Ctrl-C between them."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    error = KeyboardInterrupt() if broken == "interrupted" else OSError(errno.ENOSPC, "No space left on device")

    def fail(*words: object) -> None:
        raise error

    monkeypatch.setattr(os, "fsync" if broken == "fsync" else "replace", fail)
    with pytest.raises(type(error)):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    """No folder, a file for a folder, a folder for a file, the root: an error for a person, and nothing is left."""
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "nowhere" / "a", tmp_path / "file" / "a", tmp_path / "folder", Path("/")):
        with pytest.raises(HpoError, match=r"^cannot write "):
            write_export(path, "new")
    with pytest.raises(NoArtifacts, match="--artifacts"):
        Folder(tmp_path / "file")
    assert names(tmp_path) == ["file", "folder"]
    assert names(tmp_path / "folder") == []


def test_concurrent_writers_leave_a_whole_file(tmp_path: Path) -> None:
    """Four write one name while a fifth reads: it never sees half a file or a mixture."""
    path, size = tmp_path / "file", 200_000
    write_atomically(path, b"0" * size)
    mixed: list[bytes] = []
    start = threading.Barrier(4)

    def write_often(letter: bytes) -> None:
        start.wait()
        for _ in range(20):
            write_atomically(path, letter * size)

    threads = [threading.Thread(target=write_often, args=[letter]) for letter in (b"1", b"2", b"3", b"4")]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        content = path.read_bytes()
        if content != content[:1] * size:
            mixed.append(content)
    assert not mixed
    assert names(tmp_path) == ["file"]


def test_temporary_files_are_found_by_the_file_they_are_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a file is being written its temporary one is found; those for other names are not."""
    during: list[list[str]] = []
    rename = os.replace

    def watched(source: Path, target: Path) -> None:
        during.append([path.name for path in temporaries_of(target)])
        assert source.name in during[-1]
        rename(source, target)

    monkeypatch.setattr(os, "replace", watched)
    for name in (".other.12", ".file2.12"):
        (tmp_path / name).write_bytes(b"half")
    write_atomically(tmp_path / "file", b"new")
    assert [len(actual) for actual in during] == [1]
    assert list(temporaries_of(tmp_path / "file")) == []
