"""Formats: numbers as tables and sentences show them; an unknown one is a dash.

A metric's values are shown by its `Scale`: an accuracy in percent, anything else in its unit.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from hpo.experiment import shipped
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.spaces import Value
from hpo.storage.studies import CodeChange
from hpo.study.labels import PAPER, PUBLISHED, TUNED

if TYPE_CHECKING:  # they load scipy, which takes a second
    from hpo.analysis.comparison import Summary
    from hpo.analysis.stats import Interval

NOTHING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"
_WORDS = {  # of shipped metrics, by name, where they are not the name itself
    "auc": "AUC",
    "brier": "Brier score",
    "macro_f1": "macro F1",
    "mae": "MAE",
    "rmse": "RMSE",
}
CONFIGURATIONS = {
    PUBLISHED: "as published",
    PAPER: "paper's, re-run",
    TUNED: "tuned",
}


def configuration(label: str) -> str:
    """A configuration's name in tables and charts."""
    return CONFIGURATIONS.get(label, label)


def model_title(experiment: str, model: str) -> str:
    """A model's name among those of several experiments; the one that comes with hpo goes without saying."""
    return model if experiment == shipped.NAME else f"{experiment}: {model}"


def reference(label: str) -> str:
    """The configuration to compare with, in a sentence."""
    return "the paper's configuration" if label == PAPER else "the reference configuration"


def references(label: str) -> str:
    """The same in a table, where "configuration" is understood."""
    return "the paper's" if label == PAPER else f"the {label}" if label == "reference" else label


def values_of(label: str) -> str:
    """The values of that configuration, where a search starts."""
    return "the paper's values" if label == PAPER else "the reference's values"


def decimals(values: Iterable[float | None], figures: int) -> int:
    """How many decimals show the largest of the values with so many figures."""
    largest = max((abs(x) for x in values if x is not None and math.isfinite(x)), default=0.0)
    return max(0, figures - 1 - math.floor(math.log10(largest))) if largest else figures - 1


@dataclass(frozen=True)
class Scale:
    """How the values of a metric are shown."""

    metric: MetricInfo

    @property
    def is_percent(self) -> bool:
        """Whether a value is a fraction, shown in percent, and a difference a number of points."""
        return self.metric.name == "accuracy"

    @property
    def name(self) -> str:
        """The metric's in words."""
        return _WORDS.get(self.metric.name, self.metric.name.replace("_", " "))

    @property
    def unit(self) -> str:
        """Behind a number in a sentence, with the blank before it; empty where there is none."""
        return "%" if self.is_percent else f" {self.metric.unit}" if self.metric.unit else ""

    @property
    def better(self) -> str:
        """Which values are the better."""
        return "higher is better" if self.metric.maximize else "lower is better"

    @property
    def apart(self) -> str:
        """The unit of a difference in a sentence, with the blank before it."""
        return " points" if self.is_percent else "" if self.metric.is_relative else self.unit

    @property
    def title(self) -> str:
        """The metric with its unit, where it is named alone."""
        return self.axis("").strip()

    def column(self, what: str) -> str:
        """The title of a column of numbers; `title` where there is nothing to say before it."""
        return f"{what} %" if self.is_percent else f"{what} {self.name}{_in_brackets(self.metric.unit)}"

    def axis(self, what: str) -> str:
        """The title of an axis."""
        return f"{what} {self.name}{_in_brackets('%' if self.is_percent else self.metric.unit)}"

    def number(self, x: float | None, digits: int) -> str:
        """A value without its unit; accuracies with so many decimals, others with four figures or more."""
        if x is None:
            return NOTHING
        return percent(x, digits) if self.is_percent else figures(x, max(4, digits + 2))

    def value(self, x: float | None, digits: int = 1) -> str:
        """A value with its unit."""
        return NOTHING if x is None else f"{self.number(x, digits)}{self.unit}"

    def mean_std(self, mean: float | None, std: float | None) -> str:
        """Mean ± standard deviation without the unit; said in words where there is none."""
        if mean is not None and std == 0:
            return f"{self.number(mean, 1)} (no spread)"
        if mean is None or std is None or self.is_percent:
            return self.number(mean, 1) + ("" if mean is None or std is None else f" ± {percent(std, 1)}")
        places = decimals([mean, std], 4)
        return f"{plain(mean, places)} ± {plain(std, places)}"

    def summary(self, column: "Summary") -> str:
        """Mean ± standard deviation of a column."""
        return self.mean_std(column.mean, column.std)

    def interval(self, interval: "Interval | None", between: str = " to ") -> str:
        """An interval of values."""
        if interval is None:
            return NOTHING
        if self.is_percent:
            return f"{100 * interval.low:.1f}{between}{100 * interval.high:.1f}"
        places = decimals([interval.low, interval.high], 4)
        return f"{plain(interval.low, places)}{between}{plain(interval.high, places)}"

    def with_interval(self, value: float | None, interval: "Interval | None") -> str:
        """A value with its interval in brackets."""
        if value is None:
            return NOTHING
        return self.number(value, 1) + ("" if interval is None else f" [{self.interval(interval, ', ')}]")

    def difference(self, improvement: float, interval: "Interval | None" = None) -> str:
        """A - B (A / B of a metric that is compared by ratios) with its interval, for a table."""
        inside = None if interval is None else self._turned(interval.low, interval.high)
        places = 2 if self.is_percent else decimals([self._shown(x) for x in (improvement, *(inside or ()))], 3)
        text = self._signed(improvement, places)
        if inside is None:
            return text
        return f"{text} [{', '.join(self._signed(x, places) for x in inside)}]"

    def difference_interval(self, interval: "Interval | None") -> str:
        """An interval of differences alone."""
        if interval is None:
            return NOTHING
        inside = self._turned(interval.low, interval.high)
        places = 2 if self.is_percent else decimals([self._shown(x) for x in inside], 3)
        return f"[{', '.join(self._signed(x, places) for x in inside)}]"

    def in_words(self, changes: Sequence[float], *, signed: bool) -> list[str]:
        """Differences (of logarithms where ratios are compared) in a sentence, with the same decimals, without unit."""
        if self.metric.is_relative:
            return [f"{math.exp(x):.3f}" for x in changes]
        scaled = [self._scaled(x) for x in changes]
        places = 1 if self.is_percent else decimals(scaled, 3)
        return [f"{x:{'+' if signed else ''}.{places}f}".replace("-", MINUS) for x in scaled]

    def size(self, x: float) -> str:
        """A difference's size for a column that has no sign."""
        if self.metric.is_relative:
            return f"{math.exp(abs(x)):.3f}"
        return f"{100 * x:.2f}" if self.is_percent else figures(x, 3)

    def drawn(self, values: Iterable[float]) -> list[float]:
        """Values for a figure, rounded to keep the page small."""
        if self.is_percent:
            return [round(100 * value, 3) for value in values]
        return [float(f"{value:.6g}") for value in values]

    @property
    def hover(self) -> str:
        """plotly's format of a value, with the unit."""
        return f".2f}}{self.unit}" if self.is_percent else f".4g}}{self.unit}"

    @property
    def short_hover(self) -> str:
        """The same with one decimal where values are percentages."""
        return f".1f}}{self.unit}" if self.is_percent else self.hover

    def _turned(self, low: float, high: float) -> tuple[float, float]:
        """An interval of improvements with its ends as they are shown: A - B falls where a lower one is better."""
        return (low, high) if self.metric.maximize else (high, low)

    def _scaled(self, x: float) -> float:
        return 100 * x if self.is_percent else x

    def _shown(self, improvement: float) -> float:
        """A difference in the metric's unit, or a ratio."""
        change = self.metric.sign * improvement
        return math.exp(change) if self.metric.is_relative else self._scaled(change)

    def _signed(self, improvement: float, places: int) -> str:
        if self.metric.is_relative:
            return f"{self._shown(improvement):.3f}"
        return signed(self._shown(improvement) + 0.0, places)


class _Measured(Protocol):
    """What has a metric."""

    @property
    def metric(self) -> MetricInfo:
        """The one that judges it."""


Measured = TypeVar("Measured", bound=_Measured)


def by_metric(records: Iterable[Measured]) -> list[list[Measured]]:
    """Records of one metric together, in the order of the first of each."""
    groups: dict[MetricInfo, list[Measured]] = {}
    for record in records:
        groups.setdefault(record.metric, []).append(record)
    return list(groups.values())


def figures(x: float, count: int) -> str:
    """A number with so many figures."""
    if x and not 1e-4 <= abs(x) < 1e7:
        return f"{x:.{count - 1}e}".replace("-", MINUS)
    return plain(x, decimals([x], count))


def plain(x: float, places: int) -> str:
    """A number with so many decimals; the minus is a true one."""
    return f"{x:.{places}f}".replace("-", MINUS)


def _in_brackets(unit: str) -> str:
    return f" ({unit})" if unit else ""


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


def value(x: Value | None) -> str:
    """A hyperparameter's value; a dash where it is inactive or not known."""
    if x is None:
        return NOTHING
    return str(x) if isinstance(x, str | bool) else f"{x:.3g}" if isinstance(x, float) else f"{x}"


def counted(things: Sequence[tuple[str, int]]) -> str:
    """Things, each with how often it occurs."""
    return ", ".join(f"{thing} ({count})" for thing, count in things) or NOTHING


def code_changes_in_words(changes: Iterable[CodeChange]) -> list[str]:
    """A sentence for each time that a study went on with other code."""
    return [
        f"went on with changed code of its model on {time(change.at)} (--accept-changes), "
        f"{(change.before or 'none')[:12]} before, {(change.after or 'none')[:12]} after"
        for change in changes
    ]


def time(seconds: float | None, unit: Literal["minutes", "seconds"] = "minutes") -> str:
    """A time (seconds since 1970) in UTC, to the minute or the second."""
    if seconds is None:
        return NOTHING
    clock = "%H:%M:%S" if unit == "seconds" else "%H:%M"
    return datetime.fromtimestamp(seconds, tz=UTC).strftime(f"%Y-%m-%d {clock} UTC")


def rate(count: float) -> str:
    """How many in an hour, with three figures where there are fewer than a hundred."""
    return f"{count:.0f}" if count >= 100 else f"{count:.3g}"


def duration(seconds: float) -> str:
    """A time span with two figures or so, in the largest unit of which there are two."""
    for unit, size in (("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"
