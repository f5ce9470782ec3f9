"""Cells: numbers as the report's tables show them; what is not known is a dash."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hpo.study.labels import PAPER, TUNED

if TYPE_CHECKING:  # they load scipy, which who shows a few numbers need not wait for
    from hpo.analysis.comparison import Summary
    from hpo.analysis.stats import Interval

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
CONFIGURATIONS = {
    "published": "paper, as published",  # comparison.PUBLISHED_LABEL
    PAPER: "paper's, re-run",
    TUNED: "tuned",
}


def mean_std(column: "Summary") -> str:
    """Mean ± standard deviation in percent."""
    if column.mean is None:
        return NOTHING
    return f"{100 * column.mean:.1f}" + ("" if column.std is None else f" ± {100 * column.std:.1f}")


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
    """A fraction in percent."""
    return NOTHING if x is None else f"{100 * x:.{digits}f}"


def signed(x: float, digits: int) -> str:
    """A number with its sign, minus as minus."""
    return f"{x:+.{digits}f}".replace("-", MINUS)


def p_value(p: float) -> str:
    """A p-value."""
    return f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}".replace("-", MINUS)


def value(x: float | None) -> str:
    """A hyperparameter's value."""
    return NOTHING if x is None else f"{x:.3g}"


def counted(things: Sequence[tuple[str, int]]) -> str:
    """Things with how often they came."""
    return ", ".join(f"{thing} ({count})" for thing, count in things) or NOTHING


def time(seconds: float | None) -> str:
    """A time (seconds since 1970) in UTC."""
    if seconds is None:
        return NOTHING
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
