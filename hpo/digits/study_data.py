"""The images, as studies of them are created."""

import functools
from collections.abc import Callable

from hpo.digits import pools
from hpo.digits.pools import Digits
from hpo.errors import SpecError
from hpo.study.digits_spec import MOST_BATCH, MOST_VALIDATION_PAIRS
from hpo.study.study_spec import StudySpec
from hpo.training.augmentation import SAMPLES_PER_PAIR


class DigitsData:
    """The images, as studies of them are created and evaluated with; loaded when they are asked for."""

    locator: None = None  # every worker has them

    def __init__(self, load: Callable[[], Digits]) -> None:
        """`load` gives the images."""
        self._load = functools.cache(load)

    @property
    def digest(self) -> str:
        """Of images, labels and split."""
        return self._load().digest

    def check(self, spec: StudySpec) -> None:
        """Raise SpecError where a study cannot be trained, DataError where the images are too few for its draws.

        For new studies alone: one that was stored before a rule came is still read, listed and shown.
        """
        protocol = spec.protocol
        for key, value, most, why in (
            (
                "batch_size",
                protocol.batch_size,
                protocol.samples,
                f"an epoch has no more samples, {SAMPLES_PER_PAIR} a training pair",
            ),
            ("batch_size", protocol.batch_size, MOST_BATCH, "a step needs about 140 KB a sample, in each lane"),
            (
                "validation_pairs",
                protocol.validation_pairs,
                MOST_VALIDATION_PAIRS,
                "every epoch is judged by all of them",
            ),
        ):
            if value > most:
                raise SpecError(f"study {spec.name}: protocol.{key}: must be at most {most} ({why}), not {value}")
        pools.check_enough(self._load(), protocol.training_pairs, protocol.validation_pairs, protocol.test_pairs)

    def code_digest(self, model: str) -> str | None:
        """None: hpo's own code trains them."""
        return None
