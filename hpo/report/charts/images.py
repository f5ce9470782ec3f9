"""PNG: a small grey picture as the bytes of a PNG file, without a library for pictures."""

import struct
import zlib
from collections.abc import Sequence


def grey_png(rows: Sequence[Sequence[int]]) -> bytes:
    """A PNG (W3C, 3rd edition) of rows of grey values, 0 black to 255 white, 8 bits each, no filter."""
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0)  # depth 8, greyscale, the only methods
    lines = b"".join(b"\0" + bytes(row) for row in rows)  # a line begins with its filter
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
