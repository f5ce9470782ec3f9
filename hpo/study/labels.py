"""Labels of the configurations that every comparison has; others are named by whoever adds their final rounds."""

import re
from typing import Final, Literal

ConfigurationLabel = Literal["paper", "tuned"]

PAPER: Final = "paper"
TUNED: Final = "tuned"
PUBLISHED: Final = "published"  # the paper's published accuracies, which no study measured

_CLAIMS = frozenset({PAPER, TUNED, PUBLISHED, "aspublished", "reference"})


def claims_origin(label: str) -> bool:
    """Whether a label says where a configuration comes from, however it is written."""
    return re.sub("[^a-z]", "", label.lower()) in _CLAIMS
