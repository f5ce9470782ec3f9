"""The file of a SQLite database: where it may lie, and which one it is."""

import os
import re
from pathlib import Path

from hpo.errors import DatabaseError

_NETWORK_FILE_SYSTEMS = re.compile(
    r"9p|afs|beegfs|ceph|cifs|davfs|glusterfs|gpfs|lustre|ncpfs|nfs4?|ocfs2|smb[23]|smbfs"
    r"|fuse\.(ceph|gcsfuse|glusterfs|goofys|juicefs|mount\.davfs2|rclone|s3fs|s3ql|smbnetfs|sshfs)"
)


def check_place(path: Path) -> None:
    """Raise DatabaseError where no SQLite database can be, or none that several processes use."""
    folder = path.absolute().parent
    if not folder.is_dir():
        raise DatabaseError(f"{path}: the folder {folder} does not exist; make it or name another database")
    if path.is_dir():
        raise DatabaseError(f"{path} is a folder; name a file in it, such as {path / 'hpo.db'}")
    if not os.access(folder, os.W_OK | os.X_OK):  # beside the file stand its -wal and -shm
        raise DatabaseError(f"{path}: the folder {folder} is not writable; change that or name another database")
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        raise DatabaseError(f"{path} is not readable and writable; change that or name another database")
    kind = file_system(folder)
    if kind is not None and _NETWORK_FILE_SYSTEMS.fullmatch(kind):
        raise DatabaseError(
            f"{path} lies on a network file system ({kind}), where SQLite loses data; use a local folder, or "
            "PostgreSQL for workers on several machines"
        )


def file_system(folder: Path, mounts: Path = Path("/proc/mounts")) -> str | None:
    """The type of the file system that holds `folder`, or None where the system does not provide it."""
    try:
        lines = mounts.read_text().splitlines()
    except OSError:  # not Linux
        return None
    folder, best, kind = folder.resolve(), -1, None
    for line in lines:
        _, where, what, *_ = line.split()
        mount = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), where))
        # Of two mounts on one folder the later hides the earlier.
        if folder.is_relative_to(mount) and len(mount.parts) >= best:
            best, kind = len(mount.parts), what
    return kind


def which(path: str) -> tuple[int, int] | None:
    """Device and inode of the file that is there, None where there is none."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino
