"""Patience with the database: pauses double up to their limit, begin anew after an answer, and hide no other error."""

import logging

import pytest

from hpo.errors import DatabaseUnreachable
from hpo.worker.backoff import FIRST_PAUSE, LONGEST_PAUSE, Backoff


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


class Database:
    """Does not answer the first `away` times."""

    def __init__(self, away: int) -> None:
        self.away, self.asked = away, 0

    def __call__(self) -> str:
        self.asked += 1
        if self.asked <= self.away:
            raise DatabaseUnreachable("nobody there")
        return "answer"


def test_insisting_waits_longer_and_longer() -> None:
    """0.5, 1, 2, ... 30, 30 seconds, until there is an answer."""
    clock, pauses = Clock(), list[float]()

    def wait(seconds: float) -> None:
        pauses.append(seconds)
        clock.wait(seconds)

    database = Database(away=9)
    assert Backoff(clock).insist(database, wait) == "answer"
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert (FIRST_PAUSE, LONGEST_PAUSE) == (0.5, 30)


def test_an_attempt_is_not_made_before_it_is_due(caplog: pytest.LogCaptureFixture) -> None:
    """Until the pause is over the database is left alone; the log says when it is asked again, and what it costs."""
    clock, database = Clock(), Database(away=2)
    backoff = Backoff(clock)
    with caplog.at_level(logging.WARNING, "hpo.worker.backoff"):
        assert backoff.attempt(database, "3 trial(s) train on") is None
        assert backoff.attempt(database) is None
        assert (database.asked, backoff.remaining) == (1, 0.5)
        clock.wait(0.5)
        assert backoff.attempt(database) is None
        assert (database.asked, backoff.remaining) == (2, 1.0)
        clock.wait(1.0)
        assert backoff.attempt(database) == "answer"
    assert caplog.messages[0].startswith("the database does not answer; 3 trial(s) train on; next try in 0.5 s: ")
    assert len(caplog.messages) == 2


def test_an_answer_ends_the_patience() -> None:
    """The next time that it does not answer, the first pause is short again."""
    clock = Clock()
    backoff = Backoff(clock)
    backoff.insist(Database(away=5), clock.wait)
    assert backoff.attempt(Database(away=1)) is None
    assert backoff.remaining == FIRST_PAUSE


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("Record does not exist.")])
def test_other_errors_are_raised(error: Exception) -> None:
    """Waiting mends no mistake."""

    def wrong() -> None:
        raise error

    with pytest.raises(type(error)):
        Backoff().attempt(wrong)
    with pytest.raises(type(error)):
        Backoff().insist(wrong, lambda seconds: pytest.fail("waited"))
