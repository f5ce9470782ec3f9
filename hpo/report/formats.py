"""Formats: numbers as tables and sentences show them; an unknown one is a dash."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from hpo.study.labels import PAPER, PUBLISHED, TUNED

if TYPE_CHECKING:  # they load scipy, which takes a second
    from hpo.analysis.comparison import Summary
    from hpo.analysis.stats import Interval

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
CONFIGURATIONS = {
    PUBLISHED: "paper, as published",
    PAPER: "paper's, re-run",
    TUNED: "tuned",
}


def mean_std(column: "Summary") -> str:
    """Mean ± standard deviation of a column in percent."""
    return plus_minus(column.mean, column.std)


def plus_minus(mean: float | None, std: float | None) -> str:
    """Mean ± standard deviation in percent."""
    return percent(mean, 1) + ("" if mean is None or std is None else f" ± {percent(std, 1)}")


def interval_percent(interval: "Interval | None") -> str:
    """An interval of accuracies in percent."""
    return NOTHING if interval is None else f"{100 * interval.low:.1f} to {100 * interval.high:.1f}"


def interval_points(interval: "Interval | None") -> str:
    """An interval of differences in points."""
    if interval is None:
        return NOTHING
    return f"[{signed(100 * interval.low, 2)}, {signed(100 * interval.high, 2)}]"


def with_interval(value: float | None, interval: "Interval | None") -> str:
    """A value in percent with its interval in brackets."""
    if value is None:
        return NOTHING
    inside = "" if interval is None else f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    return f"{100 * value:.1f}{inside}"


def percent(x: float | None, digits: int) -> str:
    """A fraction in percent, for a column whose title has the sign."""
    return NOTHING if x is None else f"{100 * x:.{digits}f}"


def as_percent(x: float | None, digits: int = 1) -> str:
    """A fraction in percent, with the sign."""
    return NOTHING if x is None else f"{percent(x, digits)}%"


def signed(x: float, digits: int) -> str:
    """A number with its sign; the minus is a true one."""
    return f"{x:+.{digits}f}".replace("-", MINUS)


def p_value(p: float) -> str:
    """A p-value."""
    return f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}".replace("-", MINUS)


def value(x: float | None) -> str:
    """A hyperparameter's value."""
    return NOTHING if x is None else f"{x:.3g}"


def counted(things: Sequence[tuple[str, int]]) -> str:
    """Things, each with how often it occurs."""
    return ", ".join(f"{thing} ({count})" for thing, count in things) or NOTHING


def time(seconds: float | None, unit: Literal["minutes", "seconds"] = "minutes") -> str:
    """A time (seconds since 1970) in UTC, to the minute or the second."""
    if seconds is None:
        return NOTHING
    clock = "%H:%M:%S" if unit == "seconds" else "%H:%M"
    return datetime.fromtimestamp(seconds, tz=UTC).strftime(f"%Y-%m-%d {clock} UTC")
