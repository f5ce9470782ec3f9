"""The places for what a worker keeps outside the database: folders and buckets."""

import os
from pathlib import Path

import boto3  # type: ignore[import-untyped]  # ships no types
import pytest

from hpo.storage.engine import open_engine
from hpo.worker.manifests import SignedFolders
from hpo.worker.signing import Damaged
from hpo.worker.stores import CHUNK, Bucket, Folder, NoArtifacts, default_folder
from tests.support.checkpoints import EXPECTED, SIGNER, checkpoint, kept_in, same


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    """One line that names the folder and the option."""
    (tmp_path / "file").write_text("")
    with pytest.raises(NoArtifacts, match="--artifacts"):
        Folder(tmp_path / "file" / "below")


def test_an_endpoint_with_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address of a bucket that does not answer is shown, who asks is not."""
    for name, value in {
        "AWS_ENDPOINT_URL": "http://me:secret@127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hidden",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(NoArtifacts, match=r"http://\*\*\*@127\.0\.0\.1:9") as caught:
        Bucket("s3://bucket/x")
    assert "secret" not in str(caught.value)


def test_half_written_files_of_killed_writers_go(tmp_path: Path) -> None:
    """After a day; a younger one may still be renamed by its writer."""
    old, young = tmp_path / ".one.77", tmp_path / ".two.78"
    for half in (old, young):
        half.write_bytes(b"half")
    os.utime(old, (0, 0))
    Folder(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".two.78"]


def test_a_half_written_file_goes_with_its_checkpoint(tmp_path: Path) -> None:
    """At once, for its training is over; that of another training stays."""
    kept, name = kept_in(tmp_path), SIGNER.name("one")
    kept.save("one", checkpoint())
    for half in (f".{name}.manifest.77", f".{name}.manifest.78", ".two.manifest.77"):
        (tmp_path / half).write_bytes(b"half")
    kept.remove("one")
    assert [path.name for path in tmp_path.iterdir()] == [".two.manifest.77"]


@pytest.mark.parametrize("name", ["*", "[a-z]*", "?" * 4])
def test_a_planted_name_deletes_nothing_else(tmp_path: Path, name: str) -> None:
    """What means many files to a shell is one file here, and its temporary ones."""
    folder = Folder(tmp_path)
    for file in (name, "file", ".file.1", "folder.1"):
        folder.replace(file, b"content")
    assert folder.names(name) == [name]
    folder.delete(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".file.1", "file", "folder.1"]


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A folder that is a link, and one in a folder: what they lead to is neither deleted nor written over."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "state.npy").write_bytes(b"precious")
    folder = Folder(tmp_path / "shared")
    for name in ("link", "real/link"):
        (folder.folder / name).parent.mkdir(exist_ok=True)
        (folder.folder / name).symlink_to(victim)
    with pytest.raises(FileExistsError):
        folder.create("link/state.npy", [b"new"])
    folder.delete("link")
    folder.delete("real")
    assert list(folder.folder.iterdir()) == []
    assert (victim / "state.npy").read_bytes() == b"precious"


# --- In a bucket --------------------------------------------------------------------------------------------


def keys() -> list[str]:
    """What lies in the bucket."""
    return [item["Key"] for item in boto3.client("s3").list_objects_v2(Bucket="hpo").get("Contents", ())]


def test_checkpoints_in_a_bucket(bucket: str) -> None:
    """Written by one worker, read by another, replaced, removed; the prefix keeps others' objects apart."""
    kept, others = kept_in(Bucket(bucket)), kept_in(Bucket("s3://hpo"))
    assert kept.load("one", EXPECTED) is None
    kept.save("one", checkpoint(1))
    last = checkpoint(2)
    kept.save("one", last)
    assert same(last, kept_in(Bucket(bucket)).load("one", EXPECTED))
    assert others.load("one", EXPECTED) is None
    assert len(keys()) == 3  # a manifest, a state, curves
    kept.save("two", checkpoint())
    kept.remove("one")
    kept.remove("one")
    assert kept.load("one", EXPECTED) is None
    assert kept.load("two", EXPECTED) is not None
    kept.remove("two")
    assert keys() == []  # the probes are gone too


@pytest.mark.parametrize("file", ["manifest", "state.npy", "curves.npy"])
@pytest.mark.parametrize("spoil", ["gone", "empty", "longer", "flipped", "huge"])
def test_what_may_happen_in_a_bucket(bucket: str, file: str, spoil: str) -> None:
    """It is noticed, copied aside, and the next checkpoint takes its place."""
    kept, client = kept_in(Bucket(bucket)), boto3.client("s3")
    kept.save("one", checkpoint())
    (key,) = (key for key in keys() if key.endswith(file))
    content = client.get_object(Bucket="hpo", Key=key)["Body"].read()
    flipped = bytes([*content[:-1], content[-1] ^ 1])
    changed = {"empty": b"", "longer": content + b"1", "flipped": flipped, "huge": bytes(2_000_000)}
    if spoil == "gone":
        client.delete_object(Bucket="hpo", Key=key)
    else:
        client.put_object(Bucket="hpo", Key=key, Body=changed[spoil])
    if file == "manifest" and spoil == "gone":
        assert kept.load("one", EXPECTED) is None
        return
    with pytest.raises(Damaged):
        kept.load("one", EXPECTED)
    assert kept.set_aside("one").endswith(".manifest.damaged")
    assert kept.load("one", EXPECTED) is None
    anew = checkpoint(1)
    kept.save("one", anew)
    assert same(anew, kept_in(Bucket(bucket)).load("one", EXPECTED))
    kept.remove("one")
    assert [key.rpartition(".")[2] for key in keys()] == ["damaged"]


def test_a_large_file_goes_to_a_bucket_in_parts(bucket: str) -> None:
    """Of five megabytes at least, as S3 asks for; read piece by piece, bit for bit."""
    folders, name = SignedFolders(Bucket(bucket), SIGNER), SIGNER.name("one")
    pieces = [bytes([number]) * (CHUNK // 2 + number) for number in range(80)]
    folders.save(name, {}, {"model.pt": iter(pieces)})
    manifest = folders.find(name)
    assert manifest is not None
    read = list(folders.chunks(manifest, "model.pt"))
    assert max(map(len, read)) <= CHUNK
    assert b"".join(read) == b"".join(pieces)
    (key,) = (key for key in keys() if key.endswith("model.pt"))
    assert "-" in boto3.client("s3").head_object(Bucket="hpo", Key=key)["ETag"]  # of an object of several parts


def test_a_bucket_that_is_not_there(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No such bucket, nobody listening, no credentials: one line each, before any training."""
    with pytest.raises(NoArtifacts, match=r"--artifacts s3://other: .*NoSuchBucket.*check the bucket's name") as error:
        Bucket("s3://other")
    assert "\n" not in str(error.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(NoArtifacts, match="Could not connect"):
        Bucket(bucket)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", "/nonexistent")
    with pytest.raises(NoArtifacts, match="credentials"):
        Bucket(bucket)


def test_results_lie_beside_a_sqlite_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However it is written."""
    monkeypatch.chdir(tmp_path)
    for url in ("sqlite:///a.db", f"sqlite:///{tmp_path}/a.db"):
        engine = open_engine(url)
        assert default_folder(engine).resolve() == tmp_path / "a.db.artifacts"
        engine.dispose()
