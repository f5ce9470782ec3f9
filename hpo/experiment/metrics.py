"""Metrics: what judges a predictor, item by item where there are items, and how the items' scores make one number.

n items, C classes.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpo.errors import ExperimentError
from hpo.experiment.metric_info import Combine, MetricInfo

Array = NDArray[np.float64]
_COLUMNS: Mapping[Combine, int] = {"mean": 1, "root": 1, "ratio": 2, "exp_ratio": 2, "geometric": 1}
_SIGNATURES = (("outputs", "y"), ("y_true", "y_pred"), ("y_true", "y_score"))


@dataclass(frozen=True)
class Probabilities:
    """What a classifier gives that names its classes, as scikit-learn's do."""

    values: Array  # (n, C), rows sum to 1
    classes: NDArray[Any]  # (C,) the label of each column

    def __len__(self) -> int:
        return len(self.values)

    @property
    def labels(self) -> NDArray[Any]:
        """(n,) the most probable class of each item."""
        return np.asarray(self.classes[self.values.argmax(1)])

    def of(self, y: ArrayLike) -> Array:
        """(n,) the probability of each item's true class; 0 where the classifier does not know the class."""
        hits = array_of(y)[:, None] == self.classes[None, :]
        return np.asarray((self.values * hits).sum(1))


@dataclass(frozen=True, kw_only=True)
class Score:
    """A metric on some items."""

    value: float  # NaN or infinite: the training has diverged
    items: Array | None  # (n,), or (n, 2) numerators and denominators; None: there is none for single items
    blocks: NDArray[np.int64] | None = None  # (n,) of which the items are pseudo-values: single ones have no scores


@dataclass(frozen=True)
class Metric:
    """A way to judge a predictor.

    `score` is a function of (outputs, y), or as scikit-learn's of (y_true, y_pred) or (y_true, y_score), told apart by
    the names of its arguments. It returns one number an item (n,); numerator and denominator of each (n, 2); one number
    where single items have none, as for an area under a curve; or None where it does not apply to such outputs. Without
    a `score` the outputs are the scores.
    """

    name: str
    score: Callable[..., Any] | None
    diverged: float  # finite: what the search is told of a training that diverged
    maximize: bool = True
    combine: Combine = "mean"  # of squared errors `root` makes an RMSE; of counts and totals `ratio` a rate
    unit: str = ""
    margin: float | None = None  # a difference of so much is no difference in practice; in the metric's own unit

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.isidentifier():
            raise ExperimentError(f"metric {self.name!r}: its name must be a Python identifier")
        if self.combine not in _COLUMNS:
            raise ExperimentError(
                f"metric {self.name}: combine must be one of {', '.join(_COLUMNS)}, not {self.combine!r}"
            )
        if not math.isfinite(self.diverged):
            raise ExperimentError(f"metric {self.name}: diverged must be a finite number, not {self.diverged!r}")
        if self.margin is not None and not (math.isfinite(self.margin) and self.margin > 0):
            raise ExperimentError(f"metric {self.name}: margin must be above 0, not {self.margin!r}")
        self._arguments  # noqa: B018  checked now, where the user sees it

    @property
    def info(self) -> MetricInfo:
        """What a study stores of it."""
        return MetricInfo(
            name=self.name,
            maximize=self.maximize,
            diverged=self.diverged,
            combine=self.combine,
            unit=self.unit,
            margin=self.margin,
        )

    def but(self, **changes: Any) -> "Metric":
        """The same metric with other properties: `hpo.rmse.but(unit="mmHg", margin=1.0)`."""
        return replace(self, **changes)

    @property
    def _arguments(self) -> tuple[str, str]:
        if self.score is None:
            return _SIGNATURES[0]
        required = tuple(
            name
            for name, parameter in inspect.signature(self.score).parameters.items()
            if parameter.default is inspect.Parameter.empty and parameter.kind is not inspect.Parameter.VAR_KEYWORD
        )
        for names in _SIGNATURES:
            if required == names:
                return names
        raise ExperimentError(
            f"metric {self.name}: score takes ({', '.join(required)}), but must take (outputs, y), (y_true, y_pred) or "
            "(y_true, y_score)"
        )

    def evaluate(self, outputs: Any, y: Any, n: int) -> Score | None:
        """The metric of outputs for n items; None where it does not apply to such outputs.

        Raises ExperimentError where the score has another shape than it must have.
        """
        first, second = self._arguments
        given = {"outputs": outputs, "y": y, "y_true": y}
        if second == "y_pred":
            given["y_pred"] = labels_of(outputs)
        elif second == "y_score":
            given["y_score"] = _scores_of(outputs)
        score = _outputs_themselves if self.score is None else self.score
        scored = score(**{name: given[name] for name in (first, second)})
        if scored is None:
            return None
        items = np.asarray(scored, dtype=np.float64)
        if items.ndim == 0:
            return Score(value=float(items), items=None)
        expected = (n,) if _COLUMNS[self.combine] == 1 else (n, 2)
        if items.shape != expected:
            raise ExperimentError(
                f"metric {self.name}: its scores have the shape {items.shape}, but {n} items combined by "
                f"{self.combine} need {expected}"
            )
        return Score(value=self.combined(items), items=items)

    def combined(self, items: Array) -> float:
        """One number of the scores (n,) or (n, 2) of items; NaN where there are none."""
        return self.info.combined(items)

    def better(self, a: float, b: float) -> bool:
        """Whether a is better than b."""
        return a > b if self.maximize else a < b


# --- Outputs ------------------------------------------------------------------------------------------------


def array_of(outputs: Any) -> NDArray[Any]:
    """Outputs as an array on the CPU: tensors of any device, lists, arrays."""
    return np.asarray(outputs.detach().cpu().numpy() if hasattr(outputs, "detach") else outputs)


def labels_of(outputs: Any) -> NDArray[Any]:
    """(n,) the labels that outputs stand for: they themselves, or the class with the highest score (n, C)."""
    if isinstance(outputs, Probabilities):
        return outputs.labels
    values = array_of(outputs)
    return values.argmax(1) if values.ndim == 2 else values


def _scores_of(outputs: Any) -> NDArray[Any]:
    """What a score of scikit-learn's takes: (n,) those of the second of two classes, else (n, C)."""
    values = outputs.values if isinstance(outputs, Probabilities) else array_of(outputs)
    return values[:, 1] if values.ndim == 2 and values.shape[1] == 2 else values


# --- The metrics that are shipped -----------------------------------------------------------------------------


def _accuracy(outputs: Any, y: Any) -> Array:
    return np.asarray(labels_of(outputs) == array_of(y), dtype=np.float64)


def _macro_f1(outputs: Any, y: Any) -> float:
    from sklearn.metrics import f1_score  # type: ignore[import-untyped]  # ships no types

    return float(f1_score(array_of(y), labels_of(outputs), average="macro"))


def _auc(outputs: Any, y: Any) -> float | None:
    from sklearn.metrics import roc_auc_score

    scores = _scores_of(outputs)
    if scores.dtype.kind != "f" or len(np.unique(array_of(y))) < 2:
        return None  # labels alone, or a single class
    several = {"multi_class": "ovr", "average": "macro"} if scores.ndim == 2 else {}
    return float(roc_auc_score(array_of(y), scores, **several))


def _brier(outputs: Any, y: Any) -> Array | None:
    if not isinstance(outputs, Probabilities):
        return None
    hits = array_of(y)[:, None] == outputs.classes[None, :]
    unknown = ~hits.any(1)  # their class has no column: all of its probability is missing
    squares = ((outputs.values - hits) ** 2).sum(1) + unknown
    return np.asarray(squares / 2 if len(outputs.classes) == 2 else squares)


def _log_loss(outputs: Any, y: Any) -> Array | None:
    if not isinstance(outputs, Probabilities):
        return None
    return np.asarray(-np.log(np.maximum(outputs.of(y), np.finfo(np.float64).eps)))


def _cross_entropy(outputs: Any, y: Any) -> Array | None:
    logits = None if isinstance(outputs, Probabilities) else array_of(outputs).astype(np.float64)
    if logits is None or logits.ndim != 2:
        return None
    highest = logits.max(1, keepdims=True)
    log_sum = highest[:, 0] + np.log(np.exp(logits - highest).sum(1))
    return np.asarray(log_sum - logits[np.arange(len(logits)), array_of(y)])


def _errors(outputs: Any, y: Any) -> Array:
    values, truth = array_of(outputs).astype(np.float64), array_of(y).astype(np.float64)
    if values.ndim == 2 and values.shape[1] == 1:  # a network's one output
        values = values[:, 0]
    if values.shape != truth.shape:
        raise ExperimentError(f"outputs of the shape {values.shape} for targets of the shape {truth.shape}")
    return values - truth


def _outputs_themselves(outputs: Any, y: Any) -> Array:
    return array_of(outputs).astype(np.float64)


accuracy = Metric("accuracy", _accuracy, diverged=0.0)
macro_f1 = Metric("macro_f1", _macro_f1, diverged=0.0)
auc = Metric("auc", _auc, diverged=0.5)
brier = Metric("brier", _brier, diverged=2.0, maximize=False)  # of two classes the squared error of one, as usual
log_loss = Metric("log_loss", _log_loss, diverged=40.0, maximize=False, unit="nats")
cross_entropy = Metric("cross_entropy", _cross_entropy, diverged=40.0, maximize=False, unit="nats")
mae = Metric("mae", lambda outputs, y: np.abs(_errors(outputs, y)), diverged=1e9, maximize=False)
rmse = Metric("rmse", lambda outputs, y: _errors(outputs, y) ** 2, diverged=1e9, maximize=False, combine="root")
perplexity = Metric("perplexity", None, diverged=1e9, maximize=False, combine="exp_ratio")
