"""Downloading the full MNIST into a folder: mirrors, checksums, and resuming an interrupted download."""

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.errors import DataError
from hpo.text import without_credentials

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist",
)
CHECKSUMS: Mapping[str, str] = {  # SHA-256 of the files as published
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
}
_CHUNK = 1 << 12  # bytes written at a time: the most that a broken connection can lose
_TIMEOUT = (10, 60)  # seconds to connect, seconds without a byte

Progress = Callable[[str, int, int | None], None]
"""Called with a file's name, the bytes received so far, and the total where the server gives one."""


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """One downloaded file."""

    path: Path
    size: int  # bytes
    transferred: int  # bytes received over the network; 0: the file was already there


def fetch(
    folder: Path,
    base_url: str | None = None,
    *,
    checksums: Mapping[str, str] = CHECKSUMS,
    progress: Progress | None = None,
) -> list[Fetched]:
    """Download MNIST's files into a folder; valid files are kept, partial ones resumed.

    base_url replaces the public mirrors, which are tried in turn; checksums maps file names to SHA-256 (hex).
    Raises DataError where a file cannot be downloaded, or is not the published one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(folder):
            sources = MIRRORS if base_url is None else (base_url,)
            return [_fetch_file(folder, name, digest, sources, progress) for name, digest in checksums.items()]
    except OSError as error:  # requests' errors are OSErrors too, but _fetch_file has dealt with them
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Make a second fetch wait: two at once would write to the same partial file."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # which unlocks


def _fetch_file(folder: Path, name: str, digest: str, sources: tuple[str, ...], progress: Progress | None) -> Fetched:
    import pooch  # type: ignore[import-untyped]  # has no types; imported here because it is slow to load
    import requests  # comes with pooch

    pooch.get_logger().setLevel("WARNING")  # `progress` reports instead
    urls = [f"{source.rstrip('/')}/{name}" for source in sources]
    failures: list[str] = []
    hint = ""
    while urls:
        url = urls.pop(0)
        download = _Resumable(folder / f"{name}.part", name, progress)
        try:
            pooch.retrieve(url, known_hash=f"sha256:{digest}", fname=name, path=folder, downloader=download)
        except requests.RequestException as error:
            failures.append(f"{url}: {_reason(error)}")
            if isinstance(error, requests.exceptions.SSLError):
                hint = f"; {_certificates()}"
        except ValueError:  # pooch: the hash differs; it has deleted the file
            if download.resumed:  # the partial file may have been of another file: download all of it
                urls.insert(0, url)
            else:
                failures.append(f"{url} is not the published file (checksum)")
        else:
            path = folder / name
            return Fetched(path=path, size=path.stat().st_size, transferred=download.transferred)
    part = folder / f"{name}.part"
    kept = part.stat().st_size if part.exists() else 0
    rest = f"; {kept} bytes are kept, run it again to continue" if kept else ""
    raise DataError(without_credentials(f"cannot fetch {name}: {'; '.join(failures)}{hint}{rest}"))


class _Resumable:
    """A downloader for pooch that continues an interrupted download (HTTP Range)."""

    def __init__(self, part: Path, name: str, progress: Progress | None) -> None:
        self.part = part
        self.name = name
        self.progress = progress
        self.transferred = 0  # bytes
        self.resumed = False

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        """Download url to the partial file, then hand that to pooch, which checks and renames it."""
        import requests

        existing = self.part.stat().st_size if self.part.exists() else 0
        with _get(url, existing) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                self.part.unlink()  # longer than the file, so not part of it
            else:
                self._receive(response, existing)
        if not self.part.exists():
            with _get(url, 0) as response:
                self._receive(response, 0)
        os.replace(self.part, output_file)

    def _receive(self, response: Any, existing: int) -> None:
        response.raise_for_status()
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        self.resumed = response.status_code == 206 and start is not None and int(start[1]) == existing
        done = existing if self.resumed else 0  # a server without ranges sends the whole file
        length = response.headers.get("Content-Length")
        total = done + int(length) if length is not None else None
        with open(self.part, "ab" if self.resumed else "wb") as file:
            for chunk in response.iter_content(_CHUNK):
                file.write(chunk)
                self.transferred += len(chunk)
                done += len(chunk)
                if self.progress is not None:
                    self.progress(self.name, done, total)


def _get(url: str, start: int) -> Any:
    import requests

    headers = {"Accept-Encoding": "identity"}  # the published bytes, which ranges and checksums refer to
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        return requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT)
    except requests.RequestException:
        raise
    except OSError as error:  # requests' word for a bundle of certificates that is not there
        raise requests.exceptions.SSLError(error) from error


def _reason(error: Any) -> str:
    """Return the reason for one of requests' errors in short; their own text is very long."""
    if error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    name = type(error).__name__
    if name == "SSLError":
        return _tls_reason(error)
    return {
        "ConnectionError": "no connection, or it broke off",
        "ChunkedEncodingError": "the connection broke off",
        "ConnectTimeout": "no connection in time",
        "ReadTimeout": "the server fell silent",
    }.get(name, f"{name}: {' '.join(str(error).split())[:200]}")


def _tls_reason(error: Any) -> str:
    """What openssl or requests says, without the layers around it."""
    text = " ".join(str(error).split())
    inner = re.search(r"\[(?:SSL|X509)[^\]]*\] (.*?) ?\(_ssl", text)
    return f"no TLS connection ({inner[1] if inner else text[:200]})"


def _certificates() -> str:
    """Which certificates are trusted, as requests decides it."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if os.environ.get(name):
            return f"{name}={os.environ[name]} names the certificates to trust"
    return "REQUESTS_CA_BUNDLE can name a file with the certificates to trust, a proxy's for example"
