"""Labels of the configurations that every comparison has; others are named by whoever adds their final rounds."""

from typing import Final, Literal

ConfigurationLabel = Literal["paper", "tuned"]

PAPER: Final = "paper"
TUNED: Final = "tuned"
PUBLISHED: Final = "published"  # the paper's published accuracies, which no study measured
