"""Counter-based random streams: every number is a function of (seed, purpose, step) and its index alone.

No generator has a state, so the same slot sees the same numbers bit for bit whatever the worker, the lane,
its neighbours, a restart or the device. The hash is splitmix64's finalizer (Steele, Lea, Flood: "Fast
splittable pseudorandom number generators", OOPSLA 2014) on int64 tensors, whose products wrap as unsigned
ones do. A key is hashed before an index is added: else seed s, index i would equal seed s-1, index i+1.

Shapes: P lanes, N numbers.
"""

import hashlib
from typing import NamedTuple

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: the increment of splitmix64
DECISIONS = 4  # of 16 bits, in a word
_M1, _M2 = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def _signed(x: int) -> int:
    return x - (1 << 64) if x >> 63 else x


_GAMMA_S, _M1_S, _M2_S = _signed(_GAMMA), _signed(_M1), _signed(_M2)


def _mix_(z: Tensor) -> Tensor:
    """splitmix64's finalizer in place; the masks make int64's arithmetic shift a logical one."""
    z.bitwise_xor_((z >> 30).bitwise_and_((1 << 34) - 1)).mul_(_M1_S)
    z.bitwise_xor_((z >> 27).bitwise_and_((1 << 37) - 1)).mul_(_M2_S)
    return z.bitwise_xor_((z >> 31).bitwise_and_((1 << 33) - 1))


def key(seed: int, purpose: str) -> int:
    """The 64-bit key (as a signed integer) of one purpose's stream under a seed."""
    return _signed(int.from_bytes(hashlib.sha256(f"{seed}\0{purpose}".encode()).digest()[:8], "big"))


def step_keys(keys: Tensor, steps: Tensor) -> Tensor:
    """Keys (P,) for one step each, steps (P,); both int64."""
    return _mix_(keys ^ _mix_((steps + 1) * _GAMMA_S))


def counters(n: int, device: torch.device | str = "cpu") -> Tensor:
    """The n counters (N,) that `words` adds to a key; made once, for they never change."""
    return torch.arange(1, n + 1, dtype=torch.int64, device=device) * _GAMMA_S


def words(keys: Tensor, counters: Tensor) -> Tensor:
    """Random 64-bit words (P, N) for keys (P,) and counters (N,)."""
    return _mix_(keys[:, None] + counters)


def mask_counters(decisions: int, device: torch.device | str = "cpu") -> Tensor:
    """The counters with which `keep_masks` gives at least so many decisions."""
    return counters(-(-decisions // DECISIONS), device)


def uniform(key: int, n: int, device: torch.device | str = "cpu") -> Tensor:
    """n float64 numbers in [0, 1) of one stream, each a multiple of 2^-53."""
    bits = words(torch.tensor([key], device=device), counters(n, device))[0]
    return ((bits >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53


def permutations(keys: Tensor, counters: Tensor) -> Tensor:
    """One permutation (P, N) of 0..N-1 for each key (P,), the same on every device.

    It sorts words whose low bits are replaced by the index, so no two are equal and no sort can differ.
    """
    n = counters.numel()
    low = (1 << max(1, (n - 1).bit_length())) - 1
    index = torch.arange(n, device=keys.device)
    order = (words(keys, counters) & ~low) | index
    return order.argsort(dim=-1)


def permutation(key: int, n: int) -> Tensor:
    """One permutation (N,) of 0..n-1 on the CPU."""
    return permutations(torch.tensor([key]), counters(n))[0]


class Thresholds(NamedTuple):
    """From which 16 bits on a number is kept, and what it is multiplied by then."""

    least: Tensor  # (P,) or (P, 4N) int16
    scale: Tensor  # likewise, float32


def thresholds(drop: Tensor) -> Thresholds:
    """Those of a probability drop (P,) or (P, 4N).

    The probability in force is drop rounded to 1/65536, and the scale is that of the rounded one: a mask's mean is
    exactly 1.
    """
    threshold = (drop.to(torch.float64) * 65536).round_().clamp_(0, 65535)
    scale = (65536 / (65536 - threshold)).to(torch.float32)
    return Thresholds((threshold - 32768).to(torch.int16), scale)


def keep_masks(keys: Tensor, counters: Tensor, at: Thresholds) -> Tensor:
    """Scaled dropout masks (P, 4N) float32, 0 where a number is dropped; each word gives four decisions of 16 bits."""
    least, scale = (values if values.ndim == 2 else values[:, None] for values in at)
    keep = words(keys, counters).view(torch.int16) >= least
    return keep.to(torch.float32).mul_(scale)
