"""Torch's generators, for modules that draw from them in a forward: `hpo.training.streams` is what lanes draw from."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[Callable[[], bool]]:
    """The CPU's generator and the device's begin at a seed, and are as they were afterwards.

    Gives what says whether anything has been drawn from them since; that does not wait for the device.
    """
    cuda = device.type == "cuda"

    def states() -> list[torch.Tensor]:
        return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if cuda else [])]  # both on the CPU

    with torch.random.fork_rng(devices=[device] if cuda else []):
        torch.manual_seed(seed)
        begun = states()
        yield lambda: not all(map(torch.equal, states(), begun))
