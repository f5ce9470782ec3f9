"""What torch says where memory has run out, or a device is gone, told apart from a training's own errors."""

import pytest
import torch

from hpo.training.memory import DeviceLost, check_device, is_out_of_memory

CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
ASSERTION = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError(CUBLAS), True),
        (RuntimeError(ASSERTION), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"), False),
        (ValueError("CUDA error: out of memory"), False),
    ],
)
def test_memory_that_has_run_out_is_known_by_what_torch_says(error: Exception, memory: bool) -> None:
    assert is_out_of_memory(error) is memory


def test_the_cpus_allocator_is_known_by_what_it_says() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


def test_a_device_that_raises_when_it_is_waited_for_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line; a CPU is never."""

    def fails(device: torch.device) -> None:
        raise RuntimeError(ASSERTION)

    monkeypatch.setattr(torch.cuda, "synchronize", fails)
    check_device(torch.device("cpu"))
    with pytest.raises(DeviceLost, match=r"^CUDA error: device-side assert triggered$"):
        check_device(torch.device("cuda"))
