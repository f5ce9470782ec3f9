"""What the terminal and the table of workers show of a fleet: spans of time, rates, digests of code."""

from dataclasses import replace

import pytest

from hpo.report.formats import duration, rate
from hpo.training.code import code_digest
from hpo.worker.serving import Serving
from tests.support.described import described


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3.0, "0 s"),
        (0.0, "0 s"),
        (119.4, "119 s"),
        (120.0, "2.0 min"),
        (1800.0, "30 min"),
        (7200.0, "2.0 h"),
        (100_000.0, "28 h"),
        (172_800.0, "2.0 days"),
        (2_592_000.0, "30 days"),
    ],
)
def test_a_span_has_the_largest_unit_of_which_there_are_two(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0.0, "0"), (0.1234, "0.123"), (12.34, "12.3"), (99.96, "100"), (12345.6, "12346")]
)
def test_a_rate_is_short_and_never_in_powers_of_ten(count: float, text: str) -> None:
    assert rate(count) == text


def test_workers_with_the_same_code_show_the_same() -> None:
    """Of hpo where no experiment is served, else of all models, in whatever order the experiments were given."""

    def never() -> object:
        raise AssertionError("the images are not needed")

    first, second = described(), described(name="another")
    shown = [Serving(never, given).code_digest for given in ((), (first,), (first, second), (second, first))]  # type: ignore[arg-type]
    assert shown[0] == code_digest()
    assert len(set(shown[:3])) == 3
    assert shown[2] == shown[3]
    models = {name: replace(model, code_digest="e" * 64) for name, model in first.models.items()}
    assert Serving(never, (described(models=models),)).code_digest != shown[1]  # type: ignore[arg-type]
