"""What the report asks of the experiment that ships with hpo: how to read its first results, and its own sections."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from numpy.typing import NDArray

from hpo.experiment.page import Section
from hpo.experiment.view import View
from hpo.results.records import StudyResult


class ShippedReport(Protocol):
    """Its part of the report; one is made for each report."""

    def columns(
        self, result: StudyResult, outputs: Mapping[tuple[str, int], bytes]
    ) -> Mapping[tuple[str, int], Mapping[str, NDArray[Any]]]:
        """What `queries.final_outputs` gave, as columns of the test items; none where they cannot be read."""

    def sections(self, view: View) -> Sequence[Section]:
        """Its own sections, of these results."""

    def about(self, data_digest: str) -> str:
        """Which data these are, in words."""

    def needs_no_folder(self, data_digest: str) -> bool:
        """Whether every installation has these data."""
