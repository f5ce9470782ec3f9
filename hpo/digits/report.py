"""The digits' part of every report: how their first results are read, and their own sections."""

from collections.abc import Mapping

import numpy as np

from hpo.digits.answers import AnswerColumns, DrawPairs, columns_of, pair_draws
from hpo.digits.bundled import BUNDLED_DIGEST
from hpo.digits.load import load
from hpo.digits.pools import Digits
from hpo.experiment.page import Section
from hpo.experiment.view import View
from hpo.results.records import StudyResult

ABOUT_BUNDLED = (
    "the bundled 5,000 MNIST digits (pool A 3,000, pool B 2,000): every test draw uses all of B, re-paired, and "
    "training draws share two thirds of their images, so all intervals are conditional on these pools"
)


class Images:
    """The images at hand: those given with --data, and the bundled ones, read when first needed."""

    def __init__(self, given: Digits | None) -> None:
        self._by_digest = {} if given is None else {given.digest: given}

    def of(self, digest: str) -> Digits | None:
        """The images of that digest, None where they are not at hand."""
        if digest == BUNDLED_DIGEST and digest not in self._by_digest:
            self._by_digest[digest] = load()
        return self._by_digest.get(digest)


def report_part(given: Digits | None) -> "DigitsReport":
    """A report's part that is the digits'; `given` are the images of --data."""
    return DigitsReport(given)


class DigitsReport:
    """One report's; it remembers what it could not read, and says so in its sections."""

    def __init__(self, given: Digits | None) -> None:
        """`given` are the images of --data."""
        self._images = Images(given)
        self._draws: dict[str, DrawPairs] = {}
        self._refused: dict[int, int] = {}  # rounds, by study id
        self._without_images: dict[int, str] = {}  # names by study id

    def columns(
        self, result: StudyResult, outputs: Mapping[tuple[str, int], bytes]
    ) -> Mapping[tuple[str, int], AnswerColumns]:
        """The answers of a study's final rounds; none where its images are not at hand."""
        if not outputs:
            return {}
        draw = self._draw(result.data_digest)
        if draw is None:
            self._without_images[result.id] = result.name
            return {}
        columns, self._refused[result.id] = columns_of(result, outputs, draw)
        return columns

    def _draw(self, digest: str) -> DrawPairs | None:
        if digest not in self._draws:
            digits = self._images.of(digest)
            if digits is None:
                return None
            self._draws[digest] = pair_draws(digits.pool_b_labels().astype(np.int64))
        return self._draws[digest]

    def sections(self, view: View) -> list[Section]:
        """Where the models go wrong, and what inference costs."""
        from hpo.digits.sections import sections_of  # loads plotly, which notes in the dashboard do without

        return sections_of(
            view,
            self._images.of,
            refused=sum(self._refused.values()),
            without_images=tuple(self._without_images.values()),
        )

    def about(self, data_digest: str) -> str:
        """Which images these are."""
        return ABOUT_BUNDLED if data_digest == BUNDLED_DIGEST else "images given with --data"

    def needs_no_folder(self, data_digest: str) -> bool:
        """Whether they are bundled."""
        return data_digest == BUNDLED_DIGEST
