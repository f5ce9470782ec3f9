"""Files that are written whole or not at all, in folders that other processes and other users may write to, and files
that users name, read within bounds."""

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

MOST_BYTES = 1_000_000  # of a file that a user writes: a study, a database's URL
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


def write_atomically(path: Path, body: bytes | str) -> None:
    """Put `body` (text as UTF-8) in place of what is at `path`: a reader finds the old file or the new one, whole.

    It is written to a temporary file in the same folder, under a name that nobody can guess and that must not exist,
    flushed to the disk and renamed. Its mode is what the umask leaves of 0666. OSError where that fails; then the old
    file is as it was, and the temporary file is gone.
    """
    content = body.encode() if isinstance(body, str) else body
    temporary = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    descriptor = os.open(temporary, _FLAGS, 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # the error that came first is the one to report
            temporary.unlink()
        raise


def read_bounded(path: Path | str) -> bytes:
    """Read a file that a user has named; OSError, at once, where it is none of at most MOST_BYTES.

    A pipe would be waited for, and a device may have no end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # which opens a pipe without a writer
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(MOST_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"larger than {MOST_BYTES:,} bytes", str(path))
    return content


def temporaries_of(path: Path) -> Iterator[Path]:
    """The temporary files for `path`: their writers are at work, or were killed."""
    return path.parent.glob(f".{path.name}.*")
