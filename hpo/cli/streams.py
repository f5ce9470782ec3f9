"""Standard streams that hold wherever hpo is started: closed, full, cut off, or too poor in characters."""

import codecs
import io
import os
import sys

# What the terminal gets beyond ASCII: dash, minus, plus-minus, ellipsis.
_IN_ASCII = {"\u2013": "-", "\u2212": "-", "\u00b1": "+-", "\u2026": "..."}


def prepare() -> None:
    """Make the three streams usable before anything is printed or opened.

    A descriptor that is closed becomes /dev/null, else the first file to be opened, perhaps the database, would get
    its number and what is printed. Whatever stderr cannot take is dropped: it holds messages, and none is worth a
    training. What stdout cannot take is an error, for it holds data; a character that its encoding lacks is none.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number: this one
    encoding = sys.stderr.encoding if sys.stderr else "utf-8"
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Lossy(2, "w", closefd=False)), encoding, "backslashreplace", line_buffering=True
    )
    codecs.register_error("hpo", _in_ascii)
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8")
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="hpo")


class _Lossy(io.FileIO):
    """A file that drops what it cannot write: a full disk, a closed pipe, a terminal that is gone."""

    def write(self, data: "bytes | bytearray | memoryview") -> int:  # type: ignore[override]  # typeshed: any buffer
        """Write what can be written, and take the rest for written."""
        try:
            written = super().write(data)
        except OSError:
            written = None
        return len(data) if written is None else written


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    """Characters near those that an encoding lacks; a question mark where there is none."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(_IN_ASCII.get(character, "?") for character in missing), error.end
