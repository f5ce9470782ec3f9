"""Seeds made from seeds; without torch, so that a command that only plans studies need not load it."""

import hashlib


def derive(seed: int, *labels: str | int) -> int:
    """A 63-bit seed made from another and a path of labels, for example ``derive(7, "final", 3)``."""
    text = "\0".join([str(seed), *(f"{type(label).__name__}:{label}" for label in labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
