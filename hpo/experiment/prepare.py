"""Writing an experiment's pools as files: `python -m hpo.experiment.prepare LOCATOR FOLDER`.

The process never trains. It makes FOLDER with the pools of rows, a and b, and about.json: the data's digest, the pools'
sizes and remarks, or why they cannot be made.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpo.errors import ExperimentError
from hpo.experiment import pool_files
from hpo.experiment.load import describe, load
from hpo.experiment.rows import Rows
from hpo.files import write_atomically


def prepare(locator: str, folder: Path) -> dict[str, Any]:
    """Write the pools and return what is to be known of them; ExperimentError where they cannot be made."""
    data = load(locator).data
    if not isinstance(data, Rows):
        return {"digest": data.digest, "remarks": []}
    try:
        split = data.split()
    except ExperimentError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise ExperimentError(f"experiment {locator}: its data cannot be loaded: {describe(error)}") from error
    for name, pool in (("a", split.a), ("b", split.b)):
        pool_files.save(pool, folder / name)
    sizes = {name: len(pool.items) for name, pool in (("a", split.a), ("b", split.b))}
    return {"digest": split.digest, "remarks": list(split.remarks), **sizes}


def main(arguments: Sequence[str]) -> int:
    """The process; returns its exit code."""
    locator, folder = arguments
    code = 0
    try:
        about = prepare(locator, Path(folder))
    except ExperimentError as error:
        about, code = {"refused": str(error)}, error.exit_code
    Path(folder).mkdir(parents=True, exist_ok=True)
    write_atomically(Path(folder) / "about.json", json.dumps(about))
    return code


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
