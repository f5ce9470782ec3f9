"""The device that a worker is given: the one that is asked for is the process's current one, too."""

import pytest
import torch

from hpo.worker.device import NoDevice, choose_device


def test_the_second_gpu_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's kernels and captured graphs go to the current one; `cuda` leaves what is."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert choose_device("cuda:1") == torch.device("cuda:1")
    assert chosen == [torch.device("cuda:1")]
    assert choose_device("auto") == torch.device("cuda")
    assert len(chosen) == 1
    with pytest.raises(NoDevice, match="finds 2 CUDA device"):
        choose_device("cuda:2")
