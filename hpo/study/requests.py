"""What people ask for, as specs: a model, an experiment, a study file; each with the data that it needs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hpo.errors import SpecError, UsageError
from hpo.experiment import shipped
from hpo.experiment.description import Description
from hpo.experiment.prepare import prepared
from hpo.experiment.shipped import ShippedData
from hpo.study.experiment_spec import is_locator, spec_from
from hpo.study.search import check_sampler
from hpo.study.spec import MODELS, StudySpec, builtin_spec, load_spec, read_file


class StudyData(Protocol):
    """What a study must know of the data on this machine."""

    @property
    def digest(self) -> str:
        """Of all that results depend on."""

    @property
    def locator(self) -> str | None:
        """Where the experiment is, for workers; None: they need not be told."""

    def check(self, spec: StudySpec) -> None:
        """Raise SpecError or DataError where the study cannot be trained on these data."""

    def code_digest(self, model: str) -> str | None:
        """Of the user's code that trains a model; None: hpo's own code trains it."""


@dataclass(frozen=True)
class DescribedData:
    """Those of a user's experiment."""

    description: Description

    @property
    def digest(self) -> str:
        """Of its data."""
        return self.description.data_digest

    @property
    def locator(self) -> str | None:
        """Where it is: an absolute place."""
        return self.description.locator

    def check(self, spec: StudySpec) -> None:
        """Raise SpecError where the sampler cannot search the model's space."""
        if spec.budget.trials:
            check_sampler(spec)

    def code_digest(self, model: str) -> str | None:
        """Of the code that trains the model."""
        return self.description.models[model].code_digest


@dataclass(frozen=True, kw_only=True)
class Requested:
    """A study as somebody wants it."""

    spec: StudySpec
    data: StudyData


class Requests:
    """Turns what is asked for into specs; data and experiments are loaded when they are needed, once."""

    def __init__(self, shipped_data: Callable[[], ShippedData]) -> None:
        """`shipped_data` loads the shipped experiment's."""
        self._shipped_data = shipped_data
        self._described: dict[str, DescribedData] = {}

    def studies(self, *, experiment: str | None, model: str | None, path: Path | None) -> list[Requested]:
        """What `--experiment`, `--model` (one, or "all") and `--file` name."""
        if path is not None:
            return [self._of_file(path, experiment, model)]
        if experiment is not None:
            data = self._describe(experiment)
            names = data.description.models if model in (None, "all") else [model]
            return [
                Requested(spec=spec_from(data.description, {"model": name}, experiment), data=data) for name in names
            ]
        if model is None:
            raise UsageError(
                "which study? give --model simple, ws, ws-aux or all, --file studies/ws.toml, or --experiment FILE.py"
            )
        return self._of_shipped([builtin_spec(name) for name in (MODELS if model == "all" else [model])])

    def _of_file(self, path: Path, experiment: str | None, model: str | None) -> Requested:
        tree = read_file(path)
        names = tree.get("experiment") if isinstance(tree, Mapping) else None
        if not isinstance(tree, Mapping) or (experiment is None and "experiment" not in tree):
            (requested,) = self._of_shipped([load_spec(path)])
            _check_model(model, requested.spec.model, path)
            return requested
        locator = experiment or (_beside(path, str(names)) if is_locator(names) else None)
        if locator is None:
            raise SpecError(
                f"{path}: experiment: {names!r} does not say where it is; write FILE.py:NAME there, or add "
                "--experiment FILE.py"
            )
        _check_model(model, tree.get("model", model), path)
        data = self._describe(locator)
        whole: dict[str, Any] = {**tree} if model is None else {**tree, "model": model}
        return Requested(spec=spec_from(data.description, whole, str(path)), data=data)

    def _of_shipped(self, specs: Sequence[StudySpec]) -> list[Requested]:
        data: StudyData = shipped.part("study_data").DigitsData(self._shipped_data)
        return [Requested(spec=spec, data=data) for spec in specs]

    def _describe(self, locator: str) -> DescribedData:
        if locator not in self._described:
            self._described[locator] = DescribedData(prepared(locator))
        return self._described[locator]


def _check_model(model: str | None, in_file: object, path: Path) -> None:
    if model is not None and model != in_file:
        raise UsageError(f"--model {model}: {path} is a study of model {in_file}; leave --model out")


def _beside(path: Path, locator: str) -> str:
    """A study file's locator: a relative one is relative to the file."""
    place, colon, name = locator.partition(":")
    return f"{path.parent / place}{colon}{name}" if place.endswith(".py") else locator
