"""Files that are written whole or not at all, in folders that other processes and other users may write to, and files
that are read within bounds, whoever has put them there."""

import errno
import glob
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

MOST_BYTES = 1_000_000  # of a file that a user writes: a study, a database's URL
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def write_new(path: Path, chunks: Iterable[bytes | memoryview]) -> None:
    """Write a file that is not there yet, and flush it to the disk; its mode is what the umask leaves of 0666.

    OSError where that fails, or where there is something at `path`, be it a link; what was written by then is gone.
    """
    descriptor = os.open(path, _FLAGS, 0o666)
    try:
        with open(descriptor, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        with suppress(OSError):  # the error that came first is the one to report
            path.unlink()
        raise


def write_atomically(path: Path, body: bytes | str) -> None:
    """Put `body` (text as UTF-8) in place of what is at `path`: a reader finds the old file or the new one, whole.

    It is written to a temporary file in the same folder, under a name that nobody can guess and that must not exist,
    flushed to the disk and renamed. Its mode is what the umask leaves of 0666. OSError where that fails; then the old
    file is as it was, and the temporary file is gone.
    """
    content = body.encode() if isinstance(body, str) else body
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    write_new(temporary, [content])
    try:
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def open_regular(path: Path | str, *, follow: bool = True) -> tuple[BinaryIO, int]:
    """Open a file for reading, without a buffer; returns it with its size. OSError, at once, where it is none.

    A pipe would be waited for, and a device may have no end. Without `follow` a link is none either.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK  # which opens a pipe without a writer
    descriptor = os.open(path, flags if follow else flags | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        return open(descriptor, "rb", buffering=0), status.st_size
    except BaseException:
        os.close(descriptor)
        raise


def read_bounded(path: Path | str, most: int = MOST_BYTES, *, follow: bool = True) -> bytes:
    """Read a whole file; OSError, at once, where it is none of at most so many bytes."""
    file, size = open_regular(path, follow=follow)
    with file:
        content = bytearray()
        while size <= most and len(content) <= most and (chunk := file.read(most + 1 - len(content))):
            content += chunk
    if max(size, len(content)) > most:
        raise OSError(errno.EFBIG, f"larger than {most:,} bytes", str(path))
    return bytes(content)


def temporaries_of(path: Path) -> Iterator[Path]:
    """The temporary files for `path`: their writers are at work, or were killed."""
    return path.parent.glob(f".{glob.escape(path.name)}.*")
