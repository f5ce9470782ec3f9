"""CSV files as tables, by pandas where it is installed."""

from pathlib import Path
from typing import Any

from hpo.errors import ExperimentError


def read_csv(path: Path) -> Any:
    """The file as a data frame; ExperimentError, in one line, where that cannot be done."""
    try:
        import pandas as pd  # type: ignore[import-untyped]  # ships no types
    except ImportError:
        raise ExperimentError(
            f"rows: reading {path.name} needs pandas: `pip install pandas`, or give rows a function that loads it"
        ) from None
    if not path.is_file():
        raise ExperimentError(f"rows: there is no file {path}")
    separator = "\t" if ".tsv" in path.suffixes else ","
    try:
        frame = pd.read_csv(path, sep=separator)
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        raise ExperimentError(f"rows: {path} cannot be read: {' '.join(str(error).split())}") from error
    if not len(frame):
        raise ExperimentError(f"rows: {path} has no rows")
    return frame
