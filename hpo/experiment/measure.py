"""Measuring a predictor: outputs chunk by chunk, scored by every metric."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpo.errors import ExperimentError
from hpo.experiment.items import Items, length, take
from hpo.experiment.jackknife import Blocks, pseudo_values
from hpo.experiment.metrics import Metric, Probabilities, Score
from hpo.experiment.model import Predict


def predict_by_default(predictor: Any, x: Any) -> Any:
    """The outputs of a predictor for x.

    A torch module is called on tensors on its device, in evaluation mode and without gradients; another one that can be
    called is called; else its `predict_proba` or `predict` is.
    """
    torch: Any = sys.modules.get("torch")
    if torch is not None and isinstance(predictor, torch.nn.Module):
        with _evaluating(predictor), torch.no_grad():
            return predictor(_on_device_of(predictor, x))
    if callable(predictor):
        return predictor(x)
    if hasattr(predictor, "predict_proba"):
        values = np.asarray(predictor.predict_proba(x), dtype=np.float64)
        return Probabilities(values=values, classes=np.asarray(predictor.classes_))
    if hasattr(predictor, "predict"):
        return predictor.predict(x)
    raise ExperimentError(
        f"train returned a {type(predictor).__name__}, which is no torch module, cannot be called and has no predict; "
        "give the model a predict=..."
    )


def measure(
    predictor: Any,
    items: Items,
    metrics: Sequence[Metric],
    *,
    predict: Predict | None = None,
    chunk: int = 1000,
    blocks: Blocks | None = None,
    on_outputs: Callable[[Any, Items], None] = lambda outputs, part: None,
) -> list[Score | None]:
    """The predictor's score by each metric; None where a metric does not apply to its outputs.

    With `blocks` (n,) of units, a first metric that has no scores of single items is scored without each of them too.
    `on_outputs` is called with the outputs for each chunk of the items, and that chunk.

    Raises ExperimentError where the outputs are as many as the items are not, or scores have a wrong shape.
    """
    n = len(items)
    parts: list[list[Score | None]] = []
    kept: list[Any] = []  # all outputs, where a metric needs them together
    whole = n <= chunk
    for start in range(0, n, chunk):
        part = items if whole else items.take(np.arange(start, min(n, start + chunk)))
        outputs = (predict or predict_by_default)(predictor, part.x)
        if length(outputs) != len(part):
            raise ExperimentError(f"predict gave {length(outputs)} outputs for {len(part)} items")
        on_outputs(outputs, part)
        parts.append([metric.evaluate(outputs, part.y, len(part)) for metric in metrics])
        if (not whole or blocks is not None) and any(score is None or score.items is None for score in parts[0]):
            kept.append(outputs)
    if not parts:
        raise ExperimentError("there is no item to measure a predictor on")
    scores: list[Score | None] = []
    for place, metric in enumerate(metrics):
        of_metric = [part[place] for part in parts]
        known = [score.items for score in of_metric if score is not None and score.items is not None]
        if known and len(known) == len(of_metric):
            joined = np.concatenate(known)
            scores.append(Score(value=metric.combined(joined), items=joined))
        else:
            scores.append(of_metric[0] if whole or not kept else metric.evaluate(_joined(kept), items.y, n))
    judged = scores[0] if scores else None
    if blocks is not None and judged is not None and judged.items is None and np.isfinite(judged.value):
        scores[0] = _by_block(judged, metrics[0], _joined(kept), items.y, blocks)
    return scores


def _by_block(score: Score, metric: Metric, outputs: Any, y: Any, blocks: Blocks) -> Score:
    """A score with a jackknife's pseudo-values in the place of items' scores."""

    def without(rest: NDArray[np.bool_]) -> float | None:
        index = np.flatnonzero(rest)
        left = metric.evaluate(_taken(outputs, index), None if y is None else take(y, index), len(index))
        return None if left is None else left.value

    pseudo = pseudo_values(score.value, without, blocks, metric.info)
    return score if pseudo is None else replace(score, items=pseudo, blocks=blocks)


def _taken(outputs: Any, index: NDArray[np.intp]) -> Any:
    if isinstance(outputs, Probabilities):
        return replace(outputs, values=outputs.values[index])
    return take(outputs, index)


def _joined(outputs: Sequence[Any]) -> Any:
    first = outputs[0]
    if isinstance(first, Mapping):
        return {name: _joined([part[name] for part in outputs]) for name in first}
    if isinstance(first, Probabilities):
        return Probabilities(values=np.concatenate([part.values for part in outputs]), classes=first.classes)
    if (torch := sys.modules.get("torch")) is not None and isinstance(first, torch.Tensor):
        return torch.cat(list(outputs))
    return np.concatenate([np.asarray(part) for part in outputs])


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """The module in evaluation mode, each of its parts back in its own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _on_device_of(module: Any, x: Any) -> Any:
    torch: Any = sys.modules["torch"]
    tensor = next(iter(module.parameters()), None)
    device, dtype = (None, None) if tensor is None else (tensor.device, tensor.dtype)
    if isinstance(x, dict):
        return {name: _on_device_of(module, values) for name, values in x.items()}
    values = torch.as_tensor(np.asarray(x) if not isinstance(x, torch.Tensor) else x)
    return values.to(device, dtype) if values.is_floating_point() else values.to(device)
