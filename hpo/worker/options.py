"""How a worker runs; loads nothing, so that the command line can tell the defaults."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LEASE_SECONDS = 60.0  # until the slots of a worker that is not heard of go to others
CHECKPOINT_SECONDS = 60.0  # between two checkpoints of all lanes


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a worker runs."""

    study_names: Sequence[str] = ()  # none: all studies
    device: str = "auto"  # auto | cpu | cuda | cuda:1
    lanes: int | None = None  # None: chosen by the device; of functions so many are trained at once, None: one
    threads: int = 1  # that a function may use
    refused: Sequence[str] = ()  # why experiments that it was to serve cannot be described
    drain: bool = False  # end when nothing is left
    idle_minutes: float | None = None  # end when nothing could be claimed for so long
    heartbeat: Path | None = None  # file whose time of change says that this worker lives
    max_trials: int | None = None  # end after so many
    lease_seconds: float = LEASE_SECONDS
    artifacts: str | None = None  # a folder or s3://BUCKET for checkpoints; None: `default_folder`
    checkpoint_seconds: float = CHECKPOINT_SECONDS
