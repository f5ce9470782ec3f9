"""What the paper reports: EE-559, "Development of a deep neural network comparing hand written digits" (2019)."""

from typing import NamedTuple

EPOCHS, ROUNDS = 40, 20


class Published(NamedTuple):
    """Accuracies over the rounds."""

    train_mean: float
    train_std: float
    test_mean: float
    test_std: float


ACCURACIES = {
    "simple": Published(0.992, 0.004, 0.841, 0.012),
    "ws": Published(0.993, 0.007, 0.872, 0.011),
    "ws-aux": Published(0.998, 0.003, 0.971, 0.009),
}
