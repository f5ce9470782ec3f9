"""MNIST's files: every way they can be wrong, and fetching them from a server of our own."""

import contextlib
import gzip
import hashlib
import re
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpo.digits import download
from hpo.digits import idx as idx_module
from hpo.digits.download import CHECKSUMS, MIRRORS, fetch
from hpo.digits.load import info, load
from hpo.digits.pools import FinalPermit
from hpo.errors import DataError

NOISE = hashlib.shake_256(b"digits").digest(15 * 28 * 28)  # as good as random, the same everywhere
IMAGES = np.frombuffer(NOISE, np.uint8).reshape(15, 28, 28)
LABELS = np.arange(15, dtype=np.uint8) % 10
TRAIN = 9  # of the 15; the others are test images


def idx(array: np.ndarray) -> bytes:
    """Write an array of bytes as an IDX file."""
    return struct.pack(f">{1 + array.ndim}I", 0x800 + array.ndim, *array.shape) + array.tobytes()


def parts() -> dict[str, bytes]:
    """The four files, by their usual names."""
    return {
        "train-images-idx3-ubyte": idx(IMAGES[:TRAIN]),
        "train-labels-idx1-ubyte": idx(LABELS[:TRAIN]),
        "t10k-images-idx3-ubyte": idx(IMAGES[TRAIN:]),
        "t10k-labels-idx1-ubyte": idx(LABELS[TRAIN:]),
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the four files, not zipped."""
    for name, content in parts().items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def refused(folder: Path) -> str:
    """Return what is said about a folder that cannot be loaded."""
    with pytest.raises(DataError) as caught:
        load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("zipped", [False, True])
def test_both_names_zipped_or_not(tmp_path: Path, dotted: bool, zipped: bool) -> None:
    """The same digits whichever way the files are named and packed: A is the training set, B the test set."""
    for name, content in parts().items():
        stored = name.replace("-idx", ".idx") if dotted else name
        if zipped:
            (tmp_path / f"{stored}.gz").write_bytes(gzip.compress(content))
        else:
            (tmp_path / stored).write_bytes(content)
    digits = load(tmp_path)
    assert np.array_equal(digits.pool_a_images(), IMAGES[:TRAIN])
    assert np.array_equal(digits.pool_a_labels(), LABELS[:TRAIN])
    pool = digits.open_pool_b(FinalPermit(slot_id=1, attempt=1, worker="test"))
    assert np.array_equal(pool.images, IMAGES[TRAIN:])
    assert np.array_equal(pool.labels, LABELS[TRAIN:])
    told = info(tmp_path)
    assert told.pool_a == (1,) * 9 + (0,)
    assert told.pool_b == (1, 1, 1, 1, 1, 0, 0, 0, 0, 1)
    golden = "d9e8353c28859334a703d2faf75a25b0875f43281fc9e4473adcc921a388447a"
    assert told.digest == digits.digest == golden
    assert told.source == f"the files in {tmp_path} (not the published MNIST): 9 training and 6 test images"
    assert not told.published


@pytest.mark.parametrize("place", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("change", [str.upper, str.title])
def test_torchvision_places_and_any_case(tmp_path: Path, place: str, change: Callable[[str], str]) -> None:
    """The root that torchvision was given will do, and file systems that know no case."""
    folder = tmp_path / place
    folder.mkdir(parents=True, exist_ok=True)
    for i, (name, content) in enumerate(parts().items()):
        (folder / change(f"{name}.gz" if i % 2 else name)).write_bytes(gzip.compress(content) if i % 2 else content)
    assert np.array_equal(load(tmp_path).pool_a_images(), IMAGES[:TRAIN])
    assert info(tmp_path).source.startswith(f"the files in {folder} (")


@pytest.mark.parametrize("name", sorted(parts()))
@pytest.mark.parametrize("other", ["{}.gz", "{}.GZ", "dotted"])
def test_two_versions_of_a_file(folder: Path, name: str, other: str) -> None:
    """Of packed beside unpacked, or of two names, none wins unseen: they must hold the same."""
    second = folder / (name.replace("-idx", ".idx") if other == "dotted" else other.format(name))
    packed = second.suffix.lower() == ".gz"
    for content, same in ((parts()[name], True), (parts()[name][:-1] + b"\1", False)):
        second.write_bytes(gzip.compress(content) if packed else content)
        if same:
            assert len(load(folder).pool_a) == TRAIN
        else:
            message = refused(folder)
            assert name in message
            assert f"{second.name} differ" in message or f"and {name} differ" in message


def test_files_in_two_places(folder: Path) -> None:
    """A folder and torchvision's below it: the user says which."""
    (folder / "MNIST" / "raw").mkdir(parents=True)
    (folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(b"")
    assert f"in {folder} and in {folder}/MNIST/raw; name one of these folders" in refused(folder)


@pytest.mark.parametrize("repeated", [[0], [2, 5], list(range(6))])
def test_an_image_in_both_pools(folder: Path, repeated: list[int]) -> None:
    """The test must be on unseen images, whatever their labels are and wherever they stand."""
    images = IMAGES[TRAIN:].copy()
    images[repeated] = IMAGES[:TRAIN][::-1][repeated]
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(images))
    assert f"{len(repeated)} of the 6 test images are training images too (the first is number {repeated[0]})" in (
        refused(folder)
    )


@pytest.mark.parametrize("changed", [None, *sorted(parts())])
def test_the_published_set_is_known(folder: Path, monkeypatch: pytest.MonkeyPatch, changed: str | None) -> None:
    """By the digests of all four files, and it is taken as it is, even with an image in both parts."""
    repeated = IMAGES[TRAIN:].copy()
    repeated[0] = IMAGES[0]
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(repeated))
    digests = {
        path.name.rpartition("-idx")[0]: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
    }
    assert set(digests) == set(idx_module._PUBLISHED)
    if changed is not None:
        digests[changed.rpartition("-idx")[0]] = "0" * 64
    monkeypatch.setattr(idx_module, "_PUBLISHED", digests)
    if changed is None:
        assert info(folder).published
        assert info(folder).source.startswith("the published MNIST in ")
    else:
        assert "1 of the 6 test images are training images too" in refused(folder)


def test_missing_folder_and_files(folder: Path) -> None:
    """What is missing is named with the command that gets it; a file in a folder's place is no missing folder."""
    (folder.parent / "file").write_text("")
    assert "is a file; name the folder" in refused(folder.parent / "file")
    assert f"no such folder; `hpo data fetch {folder / 'nowhere'}`" in refused(folder / "nowhere")
    for name in parts():
        content = (folder / name).read_bytes()
        (folder / name).unlink()
        assert f"no {name} (or .gz) in it; `hpo data fetch {folder}`" in refused(folder)
        (folder / name).write_bytes(content)


def test_wrong_magic_number(folder: Path) -> None:
    """Labels where images should be, and a file that is something else."""
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes((folder / "t10k-labels-idx1-ubyte").read_bytes() + bytes(20))
    told = f"{path}: not an IDX file of images: magic number 0x00000801, not 0x00000803"
    assert refused(folder).startswith(told)
    path.write_bytes(parts()[path.name])
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"<html>Not found</html>")
    assert "not an IDX file of labels: magic number 0x3c68746d, not 0x00000801" in refused(folder)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("kept", [0, 3, 15, 16, 784, -1])
def test_cut_short(folder: Path, kept: int, zipped: bool) -> None:
    """In the header, in the pixels, and by one byte."""
    path = folder / "train-images-idx3-ubyte"
    content = path.read_bytes()[:kept]
    if zipped:
        path.unlink()
        path = folder / f"{path.name}.gz"
        content = gzip.compress(content)
    path.write_bytes(content)
    assert refused(folder).startswith(f"{path}: cut short: ")


def test_too_long(folder: Path) -> None:
    """More bytes than announced is no IDX file either."""
    path = folder / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes() + b"\0")
    assert f"{path}: too long: 7 bytes after the header, which announces 6" in refused(folder)


def test_huge_announcement(folder: Path) -> None:
    """A damaged header asks for more than 64 bits of memory and gets a message."""
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(struct.pack(">4I", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(100))
    assert "cut short: 100 bytes after the header" in refused(folder)


def test_damaged_gzip(folder: Path) -> None:
    """No gzip file, one cut short, and one with a flipped byte in its data."""
    (folder / "train-images-idx3-ubyte").unlink()
    path = folder / "train-images-idx3-ubyte.gz"
    packed = gzip.compress(parts()["train-images-idx3-ubyte"])
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    for content in (b"no gzip at all", packed[:-20], packed[:5], bytes(flipped)):
        path.write_bytes(content)
        assert f"{path}: damaged or cut short gzip file (" in refused(folder)


def test_images_and_labels_must_match(folder: Path) -> None:
    """Each image has one label."""
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[:8]))
    assert "9 images, but train-labels-idx1-ubyte has 8 labels" in refused(folder)


def test_labels_are_digits(folder: Path) -> None:
    """A label above 9 is told with its place."""
    labels = LABELS[TRAIN:].copy()
    labels[4] = 10
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(labels))
    assert "t10k-labels-idx1-ubyte: label 10 at index 4; digits are 0 to 9" in refused(folder)


def test_images_of_another_size(folder: Path) -> None:
    """14x14 images are not what the pooling expects."""
    (folder / "train-images-idx3-ubyte").write_bytes(idx(IMAGES[:TRAIN, ::2, ::2]))
    assert "images of 14x14 pixels; digits have 28x28" in refused(folder)


def test_a_file_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's own reason is passed on."""

    def denied(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", denied)
    assert "cannot be read: Permission denied" in refused(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(parts())),
    zipped=st.booleans(),
    place=st.integers(0, 40),
    value=st.integers(0, 255),
    cut=st.none() | st.integers(0, 60),
)
def test_any_damage_is_told_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, name: str, zipped: bool, place: int, value: int, cut: int | None
) -> None:
    """Whatever byte changes, wherever the file ends: digits or DataError, never another exception."""
    folder = tmp_path_factory.mktemp("idx")
    for other, content in parts().items():
        (folder / other).write_bytes(content)
    content = gzip.compress(parts()[name], mtime=0) if zipped else parts()[name]
    damaged = bytearray(content)
    damaged[min(place, len(content) - 1)] = value
    (folder / name).unlink()
    (folder / (f"{name}.gz" if zipped else name)).write_bytes(bytes(damaged[:cut]))
    with contextlib.suppress(DataError):
        assert len(load(folder).pool_a) == TRAIN


@dataclass
class Server:
    """A web server on loopback that notes requests and can be made to misbehave."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path and Range of each request
    ranges: bool = True  # answers Range
    break_after: int | None = None  # hangs up after so many bytes of a body

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        name, wanted = request.path.lstrip("/"), request.headers.get("Range")
        self.asked.append((name, wanted))
        content = self.files.get(name)
        if content is None:
            request.send_error(404, "Not Found")
            return
        start = 0
        if wanted is not None and self.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])  # type: ignore[index]  # a failure is a failure
            if start >= len(content):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(content)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        request.wfile.write(content[start:][: self.break_after])


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server with the four zipped files."""
    state = Server(files={f"{name}.gz": gzip.compress(content) for name, content in parts().items()})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        state.url = f"http://127.0.0.1:{running.server_address[1]}/"
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        running.shutdown()
        thread.join()


@pytest.fixture
def checksums(server: Server) -> dict[str, str]:
    """What the server's files should hash to."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in server.files.items()}


IMAGE_FILE = "train-images-idx3-ubyte.gz"


def test_fetch_brings_what_load_reads(tmp_path: Path, server: Server, checksums: dict[str, str]) -> None:
    """Four files into a folder that did not exist, nothing else in it, with progress."""
    told: list[tuple[str, int, int | None]] = []
    target = tmp_path / "new" / "mnist"
    fetched = fetch(target, server.url, checksums=checksums, progress=lambda *event: told.append(event))
    assert sorted(path.name for path in target.iterdir()) == sorted(checksums)
    assert [one.path.name for one in fetched] == list(checksums)
    assert all(one.transferred == one.size == len(server.files[one.path.name]) for one in fetched)
    assert told[-1][1] == told[-1][2] == len(server.files[told[-1][0]])
    assert load(target).pool_a_images().shape == (TRAIN, 28, 28)


def test_what_is_right_is_not_fetched_again(tmp_path: Path, server: Server, checksums: dict[str, str]) -> None:
    """A second fetch asks nothing of the network; a damaged file alone comes again."""
    fetch(tmp_path, server.url, checksums=checksums)
    server.asked.clear()
    assert [one.transferred for one in fetch(tmp_path, server.url, checksums=checksums)] == [0, 0, 0, 0]
    assert server.asked == []
    (tmp_path / IMAGE_FILE).write_bytes(b"damaged")
    fetch(tmp_path, server.url, checksums=checksums)
    assert server.asked == [(IMAGE_FILE, None)]
    assert (tmp_path / IMAGE_FILE).read_bytes() == server.files[IMAGE_FILE]


def test_a_broken_download_goes_on(tmp_path: Path, server: Server, checksums: dict[str, str]) -> None:
    """The bytes that came are kept, and only the others are asked for."""
    server.files[IMAGE_FILE] = bytes(range(256)) * 40
    checksums[IMAGE_FILE] = hashlib.sha256(server.files[IMAGE_FILE]).hexdigest()
    server.break_after = 9000
    with pytest.raises(DataError, match=r"; 8192 bytes are kept, run it again to continue$") as caught:
        fetch(tmp_path, server.url, checksums=checksums)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [f"{IMAGE_FILE}.part"]
    server.break_after = None
    server.asked.clear()
    first, *_ = fetch(tmp_path, server.url, checksums=checksums)
    assert server.asked[0] == (IMAGE_FILE, "bytes=8192-")
    assert (first.size, first.transferred) == (
        len(server.files[IMAGE_FILE]),
        len(server.files[IMAGE_FILE]) - 8192,
    )
    assert first.path.read_bytes() == server.files[IMAGE_FILE]
    assert not list(tmp_path.glob("*.part"))


def test_a_server_without_ranges_sends_all_of_it(tmp_path: Path, server: Server, checksums: dict[str, str]) -> None:
    """What was kept is not put in front of the whole file."""
    (tmp_path / f"{IMAGE_FILE}.part").write_bytes(server.files[IMAGE_FILE][:500])
    server.ranges = False
    first, *_ = fetch(tmp_path, server.url, checksums=checksums)
    assert server.asked[0] == (IMAGE_FILE, "bytes=500-")
    assert first.transferred == first.size


@pytest.mark.parametrize("longer", [0, 10])
def test_a_partial_file_that_is_not_shorter(
    tmp_path: Path, server: Server, checksums: dict[str, str], longer: int
) -> None:
    """The server cannot go on where nothing is left: it all comes again."""
    (tmp_path / f"{IMAGE_FILE}.part").write_bytes(server.files[IMAGE_FILE] + bytes(longer))
    first, *_ = fetch(tmp_path, server.url, checksums=checksums)
    assert [wanted for name, wanted in server.asked if name == IMAGE_FILE][1:] == [None]
    assert first.path.read_bytes() == server.files[IMAGE_FILE]


def test_the_wrong_half_is_thrown_away(tmp_path: Path, server: Server, checksums: dict[str, str]) -> None:
    """A kept half of another file fails the checksum once, then all of it comes."""
    (tmp_path / f"{IMAGE_FILE}.part").write_bytes(bytes(500))
    first, *_ = fetch(tmp_path, server.url, checksums=checksums)
    assert [wanted for name, wanted in server.asked if name == IMAGE_FILE] == ["bytes=500-", None]
    assert first.path.read_bytes() == server.files[IMAGE_FILE]


def test_another_file_than_the_published_one(tmp_path: Path, server: Server, checksums: dict[str, str]) -> None:
    """What fails the checksum is not kept, and is asked for once."""
    server.files[IMAGE_FILE] = b"something else"
    with pytest.raises(DataError, match="is not the published file"):
        fetch(tmp_path, server.url, checksums=checksums)
    assert len(server.asked) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_with_a_password(tmp_path: Path) -> None:
    """An error names the mirror alone."""
    with pytest.raises(DataError, match=r"http://\*\*\*@127\.0\.0\.1:9/train-images") as caught:
        fetch(tmp_path, "http://me:secret@127.0.0.1:9")
    assert "secret" not in str(caught.value)


def test_a_server_that_has_it_not(tmp_path: Path, server: Server, checksums: dict[str, str]) -> None:
    """The server's answer is told, in one line."""
    del server.files[IMAGE_FILE]
    with pytest.raises(DataError, match=r"the server answers 404 Not Found$"):
        fetch(tmp_path, server.url, checksums=checksums)


def test_the_next_mirror_is_tried(
    tmp_path: Path, server: Server, checksums: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One mirror being away is no reason to give up; all away are all named."""
    away = "http://127.0.0.1:9"  # the discard port: nothing listens
    monkeypatch.setattr(download, "MIRRORS", (away, server.url))
    assert len(fetch(tmp_path / "one", checksums=checksums)) == 4
    monkeypatch.setattr(download, "MIRRORS", (away, away + "/x"))
    with pytest.raises(
        DataError, match=r"9/train.*no connection, or it broke off; .*9/x/train.*no connection"
    ) as caught:
        fetch(tmp_path / "two", checksums=checksums)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("bundle", "reason"),
    [
        ("no/such/file", "Could not find a suitable TLS CA certificate bundle"),
        ("empty", "no certificate or crl found"),
        ("", "wrong version number|WRONG_VERSION_NUMBER"),  # the server speaks no TLS
    ],
)
def test_a_connection_without_tls(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch, bundle: str, reason: str
) -> None:
    """Neither the folder nor the network is to blame, and the setting that is has its name."""
    (tmp_path / "empty").write_text("no certificate")
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / bundle) if bundle else "")
    with pytest.raises(DataError, match=rf"no TLS connection \(.*({reason}).*\); REQUESTS_CA_BUNDLE") as caught:
        fetch(tmp_path / "mnist", server.url.replace("http:", "https:"))
    assert "written" not in str(caught.value)
    assert (str(tmp_path / bundle) in str(caught.value)) == bool(bundle)


def test_a_folder_that_cannot_be_made(tmp_path: Path, server: Server, checksums: dict[str, str]) -> None:
    """A file stands where the folder should be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="file: cannot be written: File exists"):
        fetch(tmp_path / "file", server.url, checksums=checksums)


def test_two_fetches_at_once(tmp_path: Path, server: Server, checksums: dict[str, str]) -> None:
    """The second waits for the first and finds everything there."""
    both: list[int] = []

    def race() -> None:
        both.append(sum(done.transferred for done in fetch(tmp_path, server.url, checksums=checksums)))

    threads = [threading.Thread(target=race) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(both) == [0, sum(map(len, server.files.values()))]
    assert len(server.asked) == 4


def test_published_checksums() -> None:
    """The four names that every copy of MNIST has, with SHA-256 sums, over secure mirrors."""
    assert set(CHECKSUMS) == {f"{name}.gz" for name in parts()}
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in CHECKSUMS.values())
    assert all(mirror.startswith("https://") for mirror in MIRRORS)
