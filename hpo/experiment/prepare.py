"""Describing an experiment and writing its pools as files: `python -m hpo.experiment.prepare LOCATOR FOLDER`.

The process never trains. It fills FOLDER with the pools of rows, a and b, and description.json, or with refused.json,
which says in one line why that cannot be done.
"""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpo.errors import ExperimentError
from hpo.experiment import pool_files
from hpo.experiment.description import Description, ModelDescription
from hpo.experiment.experiment import Experiment
from hpo.experiment.load import describe, load
from hpo.experiment.model import Model
from hpo.experiment.rows import Rows
from hpo.files import write_atomically

DESCRIPTION, REFUSED = "description.json", "refused.json"


def prepared(locator: str) -> Description:
    """The experiment at a locator, described by a process of its own; ExperimentError, in one line, where it fails.

    A relative file is looked for in the working directory.
    """
    place, _, name = locator.partition(":")
    absolute = f"{Path(place).resolve()}:{name}" if place.endswith(".py") else locator
    folder = Path(tempfile.mkdtemp(prefix="hpo-experiment-"))
    command = [sys.executable, "-m", "hpo.experiment.prepare", absolute.rstrip(":"), str(folder)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if (refused := folder / REFUSED).exists():
        raise ExperimentError(json.loads(refused.read_text())["why"])
    if not (description := folder / DESCRIPTION).exists():
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"code {done.returncode}")
        raise ExperimentError(f"experiment {locator}: the process that was to load it ended ({last})")
    return Description.from_plain(json.loads(description.read_text()))


def prepare(locator: str, folder: Path) -> Description:
    """Write the pools and the description; ExperimentError where that cannot be done."""
    experiment = load(locator)
    about = {} if not isinstance(experiment.data, Rows) else _write_pools(locator, experiment.data, folder)
    codes = model_digests(experiment, locator)
    description = Description(
        locator=locator,
        folder=folder,
        name=experiment.name,
        version=experiment.version,
        metrics=tuple(metric.info for metric in experiment.metrics),
        models={name: _describe(model, codes[name]) for name, model in experiment.models.items()},
        defaults={section: dict(values) for section, values in experiment.defaults.items()},
        options=_options(experiment),
        **(about or {"data_digest": experiment.data.digest, "about": experiment.data.about}),  # type: ignore[union-attr]
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / DESCRIPTION, json.dumps(description.to_plain()))
    return description


def _write_pools(locator: str, data: Rows, folder: Path) -> dict[str, Any]:
    try:
        split = data.split()
    except ExperimentError:
        raise
    except Exception as error:  # whatever the user's own code raises
        raise ExperimentError(f"experiment {locator}: its data cannot be loaded: {describe(error)}") from error
    for name, pool in (("a", split.a), ("b", split.b)):
        pool_files.save(pool, folder / name)
    sizes = {name: len(pool.items) for name, pool in (("a", split.a), ("b", split.b))}
    return {"data_digest": split.digest, "remarks": split.remarks, "sizes": sizes}


def _describe(model: Model, code: str) -> ModelDescription:
    return ModelDescription(
        space=model.parsed_space.to_plain(),
        reference=dict(model.reference),
        label=model.label,
        epochs=model.epochs,
        published=dict(model.published),
        code_digest=code,
    )


def model_digests(experiment: Experiment, locator: str) -> dict[str, str]:
    """By model, the digest of what its training runs: of the whole file that has the experiment."""
    place = locator.partition(":")[0]
    content = Path(place).read_bytes() if place.endswith(".py") else place.encode()
    return dict.fromkeys(experiment.models, hashlib.sha256(content).hexdigest())


def _options(experiment: Experiment) -> dict[str, Any]:
    return dataclasses.asdict(experiment.options())


def main(arguments: Sequence[str]) -> int:
    """The process; returns its exit code."""
    locator, folder = arguments
    try:
        prepare(locator, Path(folder))
    except ExperimentError as error:
        Path(folder).mkdir(parents=True, exist_ok=True)
        write_atomically(Path(folder) / REFUSED, json.dumps({"why": str(error)}))
        return error.exit_code
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of the user's code may not end
