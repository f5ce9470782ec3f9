"""Cases of a parametrised test that `make test` leaves to `make test-long`: others of the test stand for them."""

from collections.abc import Iterable

import pytest
from _pytest.mark import ParameterSet


def too_long(*cases: object) -> Iterable[ParameterSet]:
    """The cases, marked."""
    return [pytest.param(case, marks=pytest.mark.long) for case in cases]
