"""Labels of the two configurations that every study has; others are named by whoever adds their final rounds."""

from typing import Final, Literal

ConfigurationLabel = Literal["paper", "tuned"]

PAPER: Final = "paper"
TUNED: Final = "tuned"
