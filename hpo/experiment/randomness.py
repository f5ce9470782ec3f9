"""The global generators of Python, numpy and torch: seeded before a user's code runs, put back after a measurement."""

import hashlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_TORCH_BITS = 63


def seed_all(seed: int, *labels: str | int) -> None:
    """Seed `random`, numpy's global generator and torch's (where it is loaded), by a seed and a purpose."""
    key = hashlib.sha256("\0".join([str(seed), *map(str, labels)]).encode()).digest()
    words = np.frombuffer(key, dtype=np.uint32)
    random.seed(key)
    np.random.seed(words)
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(int.from_bytes(key[:8], "big") >> (64 - _TORCH_BITS))  # CUDA's too


def generator(seed: int, *labels: str | int) -> np.random.Generator:
    """A generator of its own for a seed and a purpose."""
    key = hashlib.sha256("\0".join([str(seed), *map(str, labels)]).encode()).digest()
    return np.random.default_rng(np.frombuffer(key, dtype=np.uint32))


@contextmanager
def kept_state() -> Iterator[None]:
    """Put the global generators back as they were: a measurement in the middle of a training changes nothing in it."""
    torch: Any = sys.modules.get("torch")
    python, numpy = random.getstate(), np.random.get_state()
    torch_state = None if torch is None else torch.get_rng_state()
    cuda = torch.cuda.get_rng_state_all() if torch is not None and torch.cuda.is_initialized() else None
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        if torch_state is not None:
            torch.set_rng_state(torch_state)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
