"""Measuring a predictor: outputs chunk by chunk, scored by every metric."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from hpo.errors import ExperimentError
from hpo.experiment.items import Items, length
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
    on_outputs: Callable[[Any, Items], None] = lambda outputs, part: None,
) -> list[Score | None]:
    """The predictor's score by each metric; None where a metric does not apply to its outputs.

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
        if not whole and any(score is None or score.items is None for score in parts[0]):
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
    return scores


def _joined(outputs: Sequence[Any]) -> Any:
    first = outputs[0]
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
