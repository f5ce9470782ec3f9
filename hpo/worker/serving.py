"""What a worker can train: studies of the images, and those of the experiments that it was started with."""

import functools
import hashlib
import threading
from collections.abc import Callable, Sequence

from hpo.errors import HpoError
from hpo.experiment import shipped
from hpo.experiment.description import Description, ModelDescription
from hpo.experiment.shipped import ShippedData
from hpo.storage.studies import StudyRow
from hpo.study.spec import StudySpec, spec_of
from hpo.training.code import code_digest


class Serving:
    """The experiments of a worker; its threads share it."""

    def __init__(self, digits: Callable[[], ShippedData], experiments: Sequence[Description] = ()) -> None:
        """`digits` loads the images; they are not asked for before a study needs them."""
        self.experiments = {description.name: description for description in experiments}
        self._load, self._lock = digits, threading.Lock()
        self._digits: ShippedData | None = None
        self._no_digits = ""  # why they cannot be loaded

    @property
    def digits(self) -> ShippedData:
        """The images; HpoError where they cannot be loaded."""
        with self._lock:
            if self._digits is None:
                self._digits = self._load()
            return self._digits

    @property
    def data_digest(self) -> str:
        """What the table of workers shows: that of the images, or of the first experiment that it was started with."""
        first = next(iter(self.experiments.values()), None)
        return self.digits.digest if first is None else first.data_digest

    @functools.cached_property
    def code_digest(self) -> str:
        """What it shows of the code: hpo's own, or that of all models of the experiments that it was started with."""
        models = {
            f"{name}:{model}": described.code_digest
            for name, description in sorted(self.experiments.items())
            for model, described in sorted(description.models.items())
        }
        return hashlib.sha256(repr(models).encode()).hexdigest() if models else code_digest()

    def why_not(self, row: StudyRow) -> str | None:
        """Why this worker leaves a study to others, None where it can train it; SpecError where its spec is damaged."""
        spec = spec_of(row)
        if spec.experiment == shipped.NAME:
            return self._why_not_images(row)
        description = self.experiments.get(spec.experiment)
        if description is None:
            return f"is of experiment {spec.experiment}, with which this worker was not started (--experiment)"
        return difference(row, spec, description)

    def _why_not_images(self, row: StudyRow) -> str | None:
        if self._digits is None and not self._no_digits:
            try:
                _ = self.digits
            except HpoError as error:
                self._no_digits = f"needs images that cannot be loaded: {error}"
        if self._no_digits:
            return self._no_digits
        digits = self.digits
        return None if row.data_digest == digits.digest else f"uses other images than {digits.source}"


def difference(row: StudyRow, spec: StudySpec, description: Description) -> str | None:
    """What differs between a study and the experiment at hand, the first of it."""
    if spec.version != description.version:
        return f"is of version {spec.version} of {description.name}, this worker has version {description.version}"
    if row.data_digest != description.data_digest:
        return f"uses other data than those of {description.locator}"
    model: ModelDescription | None = description.models.get(spec.model)
    if model is None:
        return f"is of model {spec.model}, which {description.locator} does not have"
    if row.code_digest != model.code_digest:
        return f"was created with other code of model {spec.model} than {description.locator} has"
    return None
