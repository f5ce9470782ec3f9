"""Describing an experiment and writing its pools as files: `python -m hpo.experiment.prepare LOCATOR FOLDER`.

The process never trains. It fills FOLDER with the pools of rows, a and b, and description.json, or with refused.json,
which says in one line why that cannot be done; inputs.json has what both depend on, for the cache.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpo.errors import ExperimentError
from hpo.experiment import cache, pool_files
from hpo.experiment.checked import fitted_globals, long_globals
from hpo.experiment.code import code_digest, count_as_users, fixed_seeds, users_files, users_modules
from hpo.experiment.description import Description, ModelDescription
from hpo.experiment.experiment import Data, Experiment
from hpo.experiment.inputs import INPUTS, WatchedFiles, inputs
from hpo.experiment.load import describe, load
from hpo.experiment.model import Model, check_recipe_space
from hpo.experiment.rows import Rows
from hpo.files import write_atomically
from hpo.training.recipe import Recipe

DESCRIPTION, REFUSED = "description.json", "refused.json"


def absolute(locator: str) -> str:
    """The locator as any process understands it: a file's place in full."""
    place, _, name = locator.partition(":")
    if not place.endswith(".py"):
        return locator
    return f"{Path(place).resolve()}:{name}".rstrip(":")


def prepared(locator: str) -> Description:
    """The experiment at a locator, described by a process of its own; ExperimentError, in one line, where it fails.

    A relative file is looked for in the working directory. What has been described before is taken from the cache,
    as long as all that it was made from is as it was.
    """
    full = absolute(locator)
    place = cache.folder()
    if place is None:
        return _described(locator, full, Path(tempfile.mkdtemp(prefix="hpo-experiment-")))
    if (known := cache.find(place, full)) is not None:
        return _read(known)
    with cache.new_entry(place, full) as entry:
        _described(locator, full, entry.folder)
    return _read(entry.folder)


def _described(locator: str, full: str, folder: Path) -> Description:
    command = [sys.executable, "-m", "hpo.experiment.prepare", full, str(folder)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if (refused := folder / REFUSED).exists():
        raise ExperimentError(json.loads(refused.read_text())["why"])
    if not (folder / DESCRIPTION).exists():
        last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"code {done.returncode}")
        raise ExperimentError(f"experiment {locator}: the process that was to load it ended ({last})")
    return _read(folder)


def _read(folder: Path) -> Description:
    described = Description.from_plain(json.loads((folder / DESCRIPTION).read_text()))
    return dataclasses.replace(described, folder=folder)


def prepare(locator: str, folder: Path) -> Description:
    """Write the pools and the description; ExperimentError where that cannot be done."""
    place = locator.partition(":")[0]
    with WatchedFiles() as watched:
        experiment = load(locator)
        about = _data(locator, experiment, folder)
    description = Description(
        locator=locator,
        folder=folder,
        name=experiment.name,
        version=experiment.version,
        metrics=tuple(metric.info for metric in experiment.metrics),
        models=_described_models(experiment, locator),
        defaults={section: dict(values) for section, values in experiment.defaults.items()},
        options=dataclasses.asdict(experiment.options()),
        **about,
    )
    folder.mkdir(parents=True, exist_ok=True)
    named = experiment.data.files if isinstance(experiment.data, Rows) else ()
    made_from = inputs([*users_files(place.partition(".")[0]), *named, *watched.files], seen_whole=watched.whole)
    write_atomically(folder / INPUTS, json.dumps(made_from))
    write_atomically(folder / DESCRIPTION, json.dumps(description.to_plain()))
    return description


_READ = "trainings that read such globals see what judges them"


def _data(locator: str, experiment: Experiment, folder: Path) -> Mapping[str, Any]:
    """What the description says of the data; pools of rows are written."""
    data = experiment.data
    if isinstance(data, Data):
        return {"data_digest": data.digest, "about": data.about}
    try:
        split = data.split()
    except ExperimentError as error:
        raise ExperimentError(f"experiment {locator}: {error}") from error
    except Exception as error:  # whatever the user's own code raises
        raise ExperimentError(f"experiment {locator}: its data cannot be loaded: {describe(error)}") from error
    for name, pool in (("a", split.a), ("b", split.b)):
        pool_files.save(pool, folder / name)
    sizes = {name: len(pool.items) for name, pool in (("a", split.a), ("b", split.b))}
    lengths = {sum(sizes.values()), *sizes.values()}
    seen = []  # in the user's modules, what may hold rows that judge
    for module in users_modules():
        where = f"in {module.__name__}.py"
        if names := long_globals(module, lengths):
            long = f"{', '.join(names)} {where}"
            seen.append(f"{long}: as long as the data; trainings that read such globals see what judges them")
        seen += [
            f"{name} {where} was fitted when the file was imported, to rows that judge; fit it in train"
            for name in fitted_globals(module)
        ]
    return {"data_digest": split.digest, "remarks": (*split.remarks, *seen), "sizes": sizes}


def _described_models(experiment: Experiment, locator: str) -> dict[str, ModelDescription]:
    code, models = code_digests(experiment, locator), {}
    for name, model in experiment.models.items():
        try:
            models[name] = _describe(model, code[name])
        except ExperimentError as error:
            raise ExperimentError(f"experiment {locator}: model {name}: {error}") from error
    return models


def _describe(model: Model, code: str) -> ModelDescription:
    needed = None
    if isinstance(model.train, Recipe):
        from hpo.experiment.recipes import needed_by

        needed = needed_by(model.train, {**model.parsed_space.constants, **model.reference})
        check_recipe_space(model.parsed_space, needed, model.train.structure)
    seeds = [f"a seed is fixed in the code ({place})" for place in fixed_seeds(*model.code)]
    return ModelDescription(
        space=model.parsed_space.to_plain(),
        reference=dict(model.reference),
        label=model.label,
        epochs=model.epochs,
        published=dict(model.published),
        code_digest=code,
        remarks=tuple(seeds),
        needed=needed,
        structure=model.train.structure if isinstance(model.train, Recipe) else (),
        by_lanes=needed is not None and not model.new_process,
    )


def code_digests(experiment: Experiment, locator: str) -> dict[str, str]:
    """By model, a digest of all code of the user's that its results depend on: training, prediction, draws, metrics."""
    place, data = locator.partition(":")[0], experiment.data
    if not place.endswith(".py"):
        count_as_users(place.partition(".")[0])
    loads = [data.a, data.b] if isinstance(data, Data) else []  # of rows the data's digest tells
    shared = [experiment.draw, experiment.draw_test, *(metric.score for metric in experiment.metrics), *loads]
    return {name: code_digest(*model.code, *shared) for name, model in experiment.models.items()}


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
    os._exit(main(sys.argv[1:]))  # threads of the user's code may not end
