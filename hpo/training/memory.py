"""Memory: how the C library keeps it, how torch reports that there is none left, or that a device is gone."""

import ctypes
import sys

import torch

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_NEVER = 1 << 30  # bytes


def keep_freed_memory() -> bool:
    """Have glibc keep freed memory in the process instead of returning it; returns whether it could be arranged.

    A training step frees and allocates the same tens of megabytes again. Returned to the kernel, they come back
    as page faults: a quarter of the time of a step of four lanes (BENCHMARKS.md). Applies to the whole process; does
    nothing without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(_M_MMAP_THRESHOLD, _NEVER), mallopt(_M_TRIM_THRESHOLD, _NEVER)])


# What torch says where it raises a plain RuntimeError: its CPU allocator, the CUDA runtime, cuBLAS.
_NO_MEMORY = "can't allocate memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that the device or the host has run out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


class DeviceLost(RuntimeError):
    """A device on which every call fails from now on, in this process."""


def check_device(device: torch.device) -> None:
    """Raise DeviceLost where a GPU does not answer any more: after an error that stays, as a failed assertion does."""
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
    except RuntimeError as error:
        raise DeviceLost(str(error).partition("\n")[0]) from error
