"""Small grey images of digits, as the bytes of a PNG file (17 lines; an imaging library would be 10 MB)."""

import struct
import zlib
from collections.abc import Sequence

from hpo.digits.hard_pairs import DARKEST, Gallery, HardPair, Picture
from hpo.experiment.page import PageImage
from hpo.report.charts.theme import colours_of

_GAP = 1  # pixels between a pair's images


def grey_png(rows: Sequence[Sequence[int]]) -> bytes:
    """A PNG (W3C, 3rd edition) of rows of grey values, 0 black to 255 white, 8 bits each, no filter."""
    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0)  # depth 8, greyscale, the only methods
    lines = b"".join(b"\0" + bytes(row) for row in rows)  # a line begins with its filter
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def gallery_images(gallery: Gallery) -> tuple[PageImage, ...]:
    """Each pair as one image, dark on white; its question above, the number of wrong trainings by model below."""
    colours = colours_of(count.model for pair in gallery.pairs for count in pair.counts)
    return tuple(
        PageImage(
            png=grey_png(_side_by_side(*(gallery.pictures[image] for image in pair.images))),
            above=_question(pair),
            below=tuple((f"{count.wrong} of {count.trainings}", colours[count.model]) for count in pair.counts),
        )
        for pair in gallery.pairs
    )


def _side_by_side(left: Picture, right: Picture) -> list[list[int]]:
    gap = (0,) * _GAP
    return [[DARKEST - ink for ink in (*a, *gap, *b)] for a, b in zip(left, right, strict=True)]


def _question(pair: HardPair) -> str:
    a, b = pair.digits
    return f"{a} \N{LESS-THAN OR EQUAL TO} {b}: {'yes' if a <= b else 'no'}"
