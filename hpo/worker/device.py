"""Which device a worker trains on."""

import torch

from hpo.errors import HpoError


class NoDevice(HpoError):
    """The device that was asked for is not there."""


class DeviceGone(HpoError):
    """The device has ended every training at once: the worker ends, others go on from the last checkpoints."""

    def __init__(self, device: torch.device, why: Exception) -> None:
        super().__init__(
            f"{device} does not answer any more ({why}); its trials were given back: "
            "see what nvidia-smi says, then start the worker again"
        )


def choose_device(asked: str) -> torch.device:
    """The torch device for `--device`; NoDevice where CUDA is asked for and missing."""
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise NoDevice(f"--device {asked}: no such device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise NoDevice(
                f"--device {asked}: torch {torch.__version__} finds {count} CUDA device(s) here; use --device cpu, "
                "or see `hpo doctor`"
            )
        if device.index is not None:
            torch.cuda.set_device(device)  # for what names none: Triton's kernels, captured graphs
    elif device.type != "cpu":
        raise NoDevice(f"--device {asked}: not supported; use auto, cpu, cuda or cuda:N")
    return device
