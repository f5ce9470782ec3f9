"""Studies of a user's experiment made by hand, and all that a report shows of studies."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console

from hpo.analysis.comparison import compare
from hpo.analysis.dependence.interactions import dependence_of
from hpo.analysis.items import ItemScores, item_scores_of
from hpo.analysis.provenance import provenance_of
from hpo.analysis.timeline import timeline_of
from hpo.analysis.tuning import tuning_of
from hpo.experiment.metric_info import MetricInfo
from hpo.experiment.page import PageFigure, Section
from hpo.report import csv_tables, outline, terminal
from hpo.report.contents import Contents
from hpo.report.sentences import conclusions_of
from hpo.report.terminal_comparison import comparison_table
from hpo.report.write import as_json
from hpo.results.records import StudyResult, TrainingRecord
from hpo.study.experiment_spec import spec_from
from hpo.study.spec import StudySpec
from tests.support.described import FLAT, described, described_model
from tests.support.results import run, study

PRESSURE = MetricInfo(name="rmse", maximize=False, diverged=1e9, combine="root", unit="mmHg")
MAE = MetricInfo(name="mae", maximize=False, diverged=1e9, unit="mmHg")
PERPLEXITY = MetricInfo(name="perplexity", maximize=False, diverged=1e9, combine="exp_ratio")
AUC = MetricInfo(name="auc", diverged=0.5)
STARTUP = 3  # random trials

Rounds = Mapping[str, Sequence[float]]  # the first metric's values by label


def measured_spec(model: str, metrics: Sequence[MetricInfo], name: str = "exp", **model_fields: Any) -> StudySpec:
    """The spec of a model with two hyperparameters; `model_fields` are as a ModelDescription's."""
    models = {model: described_model(FLAT, {"rate": 0.5, "depth": 3}, **model_fields)}
    about = described(name=name, metrics=tuple(metrics), models=models, options={})
    tree = {"model": model, "budget": {"trials": 6}, "sampler": {"startup_trials": STARTUP + 1}}
    return spec_from(about, tree, "a test")


def measured(
    model: str,
    rounds: Rounds,
    metrics: Sequence[MetricInfo] = (PRESSURE, MAE),
    *,
    search: Sequence[float] = (),
    name: str = "exp",
    model_fields: Mapping[str, Any] | None = None,
    each: Mapping[str, Any] | None = None,
    **changes: Any,
) -> StudyResult:
    """A study with these values; the other metrics are a tenth of the first. `each` changes its final rounds."""
    spec = measured_spec(model, metrics, name, **(model_fields or {}))
    finals = [
        trained("final", 100 * place + r, metrics, value, label=label, round=r, **(each or {}))
        for place, (label, values) in enumerate(rounds.items())
        for r, value in enumerate(values)
    ]
    trials = [
        trained("search", i, metrics, value, adaptive=i > STARTUP, params={"rate": i / 10, "depth": 1 + i})
        for i, value in enumerate(search)
    ]
    tuned = {"params": {"rate": 0.2, "depth": 3}, "source": 2, "confirm_mean": None}
    return study(model, [*trials, *finals], spec=spec, **({"tuned": tuned} | changes))


def trained(kind: str, idx: int, metrics: Sequence[MetricInfo], value: float, **changes: Any) -> TrainingRecord:
    """A training by a user's function, which has no epochs."""
    others = {metric.name: value / 10 for metric in metrics[1:]}
    given: dict[str, Any] = {
        "value": value,
        "loss": next(iter(others.values()), None),
        "metrics": {metrics[0].name: value, **others},
        "train_accuracy": None,
        "epochs": 0,
        "train_loss": (),
        "validation_accuracy": (),
        "params": {"rate": 0.2, "depth": 3},
        "items": 40,
    }
    return run(kind, idx, **(given | changes))


def scored(result: StudyResult, by_round: Mapping[tuple[str, int], Mapping[str, Any]]) -> ItemScores:
    """The columns of a study's final rounds, as if stored."""
    columns = {place: {name: np.asarray(c) for name, c in stored.items()} for place, stored in by_round.items()}
    scores = item_scores_of(result, columns)
    assert scores is not None
    return scores


def contents(results: Sequence[StudyResult], scores: Mapping[int, ItemScores] | None = None) -> Contents:
    """All that a report of these studies shows."""
    comparison = compare(results, scores or {})
    return Contents(
        chosen=(),
        made_at="now",
        database="sqlite:///hpo.db",
        results=tuple(results),
        comparison=comparison,
        conclusions=conclusions_of(results, comparison),
        ledger=(),
        tuning=tuple(tuning_of(result) for result in results),
        provenance=tuple(provenance_of(result) for result in results),
        dependence=tuple(dependence_of(result) for result in results),
        scores=scores or {},
        timeline=timeline_of(results),
        about_data={},
        contributed={},
    )


def texts_of(report: Contents) -> dict[str, str]:
    """Whatever form the report has, as text: its page (with the figures' titles and labels), JSON, CSV, terminal."""
    console = Console(width=120, file=None, force_terminal=False, no_color=True)
    with console.capture() as captured:
        console.print(comparison_table(report.results, report.comparison, report.conclusions))
        console.print(terminal.study_table(report.results))
        for result in report.results:
            console.print(terminal.study_detail(result))
    return {
        "page": "\n".join(_text(part) for section in sections(report) for part in (section.title, *section.parts)),
        "json": json.dumps(as_json(report), allow_nan=False),
        "csv": "\n".join(str(row) for rows in csv_tables.tables_of(report).values() for row in rows),
        "terminal": captured.get(),
    }


def _text(part: object) -> str:
    """What a reader sees of a part of the page; of a figure its caption, titles, names and labels."""
    return f"{part.caption} {' '.join(_labels(part.spec))}" if isinstance(part, PageFigure) else str(part)


def _labels(tree: object) -> Iterable[str]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if isinstance(value, str) and key in ("text", "name", "hovertemplate"):
                yield value
            elif key in ("ticktext", "categoryarray"):
                yield from map(str, value)
            else:
                yield from _labels(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _labels(value)


def sections(report: Contents) -> list[Section]:
    return outline.sections_of(report)
