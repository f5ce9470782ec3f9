"""The site's parts that need no server: addresses, failed logins, how progress and curves are shown."""

import itertools

import pytest

from hpo.errors import UsageError
from hpo.experiment.metric_info import MetricInfo
from hpo.report.formats import NOTHING, Scale
from hpo.results.learning_curves import LearningCurve
from hpo.results.progress_records import EstimatedEnd, PhaseProgress
from hpo.server import shown
from hpo.server.address import SiteAddress, parsed_public_url
from hpo.server.failed_logins import (
    ADDRESS_FAILURES,
    ADDRESS_SECONDS,
    FREE_FAILURES,
    LONGEST_WAIT,
    FailedLogins,
    LoginRefused,
)
from hpo.server.passwords import FEWEST_CHARACTERS, is_password, password_hash


@pytest.mark.parametrize(
    ("given", "parsed"),
    [
        ("https://lab.example", "https://lab.example"),
        ("HTTPS://Lab.Example/", "https://lab.example"),
        ("http://gpu7:8080", "http://gpu7:8080"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("https://[2001:DB8:0:0::1]", "https://[2001:db8::1]"),
        ("https://lab.example:0443", "https://lab.example:443"),
        (None, None),
    ],
)
def test_public_urls(given: str | None, parsed: str | None) -> None:
    assert parsed_public_url(given) == parsed


@pytest.mark.parametrize(
    "wrong",
    ["", "lab.example", "ftp://lab.example", "https://", "https://u:p@lab.example", "https://lab.example/x",
     "https://lab.example?x", "https://lab.example?", "https://lab.example#", "https://lab.example:99999",
     "https://lab.example:0", "https://lab.example:", "https://[::1", "https://[1.2]", "https://a b", "https://a\tb",
     " https://lab.example", "https://läb.example", "https://a,b", "https://-", "https://\udcff"],
)  # fmt: skip
def test_what_is_no_public_url(wrong: str) -> None:
    with pytest.raises(UsageError, match="--public-url"):
        parsed_public_url(wrong)


@pytest.mark.parametrize(
    ("public_url", "host", "origin", "allowed"),
    [
        ("https://lab.example", "lab.example", "https://lab.example", True),
        ("https://lab.example", "LAB.example:443", "https://lab.example:443", True),
        ("https://lab.example", "lab.example", "http://lab.example", False),
        ("https://lab.example:8443", "lab.example:8443", "https://lab.example:8443", True),
        ("https://lab.example:8443", "lab.example", None, False),
        ("https://lab.example", "localhost", None, False),
        ("https://lab.example", "", None, False),
        (None, "localhost:9999", "http://localhost:9999", True),
        (None, "localhost:9999", "http://localhost:9998", False),
        (None, "lab.example", None, False),
        (None, "localhost", "http://[::1", False),
        ("https://lab.example", "lab.example", "https://[", False),
        ("https://lab.example", "lab.example", "null", False),
    ],
)
def test_hosts_and_origins(public_url: str | None, host: str, origin: str | None, allowed: bool) -> None:
    environ = {"HTTP_HOST": host, "REQUEST_METHOD": "POST"} | ({} if origin is None else {"HTTP_ORIGIN": origin})
    assert (SiteAddress(public_url=public_url).refusal(environ) is None) == allowed


class Failures(FailedLogins):
    """By a clock that a test sets."""

    def __init__(self) -> None:
        super().__init__(lambda: self.now)
        self.now = 0.0

    def wait(self, name: str = "ada", address: str = "10.0.0.1") -> float:
        """Try; the seconds to wait where the try is not looked at."""
        try:
            self.count(name, address)
        except LoginRefused as error:
            return error.wait
        return 0.0


def test_each_failed_login_waits_twice_as_long() -> None:
    """Up to a limit; another address, and a login that was right, begin anew."""
    failures = Failures()
    waits: list[float] = []
    for _ in range(FREE_FAILURES + 9):
        assert failures.wait() == 0.0
        waits.append(wait := failures.wait() if len(waits) + 1 >= FREE_FAILURES else 0.0)
        failures.now += wait
    growing = waits[FREE_FAILURES - 1 :]
    assert all(after == min(LONGEST_WAIT, 2 * before) for before, after in itertools.pairwise(growing))
    assert growing[-1] == LONGEST_WAIT
    assert failures.wait(address="10.0.0.2") == 0.0
    failures.forget("ada", "10.0.0.1")
    assert failures.wait() == 0.0


@pytest.mark.parametrize(
    "addresses",
    [("10.0.0.1",), ("2001:db8::1", "2001:db8::2", "2001:db8:0:0:ffff::"), ("no address",)],
    ids=["IPv4", "a network of IPv6", "odd"],
)
def test_an_address_waits_whatever_the_names(addresses: tuple[str, ...]) -> None:
    """After many failures, and then each may be followed by one more every few seconds; others do not wait."""
    failures = Failures()
    for number in range(ADDRESS_FAILURES):
        assert failures.wait(f"user{number}", addresses[number % len(addresses)]) == 0.0
    for number in range(5):
        assert failures.wait(f"other{number}", addresses[0]) == ADDRESS_SECONDS
        failures.now += ADDRESS_SECONDS
        assert failures.wait(f"other{number}", addresses[-1]) == 0.0
    assert failures.wait(address="10.0.0.2") == 0.0
    assert failures.wait(address="2001:db8:0:1::1") == 0.0


def test_right_logins_are_no_failures() -> None:
    """However many users of one address log in."""
    failures = Failures()
    for number in range(3 * ADDRESS_FAILURES):
        assert failures.wait(f"user{number}") == 0.0
        failures.forget(f"user{number}", "10.0.0.1")


def test_passwords() -> None:
    stored = password_hash("a password of some length")
    assert is_password(stored, "a password of some length")
    assert not is_password(stored, "another password of some length")
    assert not is_password(None, "nobody has this password")
    assert not is_password(stored, "x" * 10_000)
    with pytest.raises(UsageError):
        password_hash("x" * (FEWEST_CHARACTERS - 1))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "1 h 0 min"), (7260, "2 h 1 min"), (3 * 86400 + 7200, "3 d 2 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert shown.duration(seconds) == text


def test_what_remains() -> None:
    end = EstimatedEnd(earliest=1000 + 60, expected=1000 + 120, latest=1000 + 300)
    assert shown.remaining(end, 1000.0) == "2 min (1 min to 5 min)"
    assert shown.remaining(end, 5000.0) == "0 s"  # overdue
    assert shown.remaining(None, 0.0) == NOTHING


def phase(**counts: int) -> PhaseProgress:
    """A search phase with these counts."""
    whole = {"waiting": 0, "running": 0, "done": 0, "failed": 0, "claims": 0, "reclaims": 0, "lost_leases": 0} | counts
    return PhaseProgress(kind="search", **{"total": 0} | whole)


def test_bars() -> None:
    parts = shown.bar(phase(waiting=4, running=1, done=3, failed=2, total=10))
    assert [(part.state, part.start, part.width) for part in parts] == [
        ("done", 0.0, 30.0),
        ("failed", 30.0, 20.0),
        ("running", 50.0, 10.0),
    ]
    assert shown.bar(phase()) == []
    assert shown.in_words(phase(running=1, done=3, failed=2, total=10)) == "search: 3 of 10 done, 1 running, 2 failed"


def test_curves_fit_their_drawing() -> None:
    """All points inside, the best one marked, flat and single-point curves too; without values there is none."""
    scale = Scale(MetricInfo(name="accuracy"))
    curves = [
        LearningCurve(kind="search", number=3, is_running=False, steps=(1, 2, 3), values=(0.5, 0.9, 0.8)),
        LearningCurve(kind="confirm", number=3, is_running=True, steps=(1,), values=(0.7,)),
    ]
    drawing = shown.drawing(curves, scale, 3)
    assert drawing is not None
    assert [curve.style for curve in drawing.curves] == ["best", "c1"]
    assert [text for _, text in drawing.heights] == ["50.0", "70.0", "90.0"]
    for curve in drawing.curves:
        for point in curve.points.split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= shown.CURVE_WIDTH
            assert 0 <= y <= drawing.bottom
    assert shown.drawing(curves[1:], scale, None) is not None
    assert shown.drawing([], scale, None) is None
