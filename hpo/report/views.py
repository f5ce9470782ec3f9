"""What an experiment's own sections see, made of what the database holds; what they give, put into the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from sqlalchemy import Engine

from hpo.experiment.view import FinalRound, StudyView, View
from hpo.report.shipped import ShippedReport
from hpo.results.queries import final_columns, final_outputs, shown_label
from hpo.results.records import StudyResult, TrainingRecord
from hpo.study.labels import TUNED

Columns = Mapping[tuple[str, int], Mapping[str, NDArray[Any]]]
"""Of a study's final rounds, by label and round: scores and other columns (n,) or (n, u) of the test items."""


def read_columns(engine: Engine, result: StudyResult, shipped: ShippedReport | None) -> Columns:
    """The columns of a study's final rounds that are done; those of the first format as `shipped` reads them."""
    if not any(run.done for run in result.final_runs):
        return {}
    if not result.is_shipped:
        return final_columns(engine, result.id)
    outputs = final_outputs(engine, result.id)
    by_label = {(shown_label(result.spec, label) or "", number): packed for (label, number), packed in outputs.items()}
    return {} if shipped is None else shipped.columns(result, by_label)


def view_of(experiment: str, results: Sequence[StudyResult], columns: Mapping[int, Columns]) -> View:
    """All that `results` have of an experiment; `columns` by study id."""
    return View(
        studies=tuple(
            _study(result, results, columns.get(result.id, {})) for result in results if result.experiment == experiment
        )
    )


def _study(result: StudyResult, results: Sequence[StudyResult], columns: Columns) -> StudyView:
    opened = {opening.slot_id for opening in result.openings}
    rounds: dict[str, list[FinalRound]] = {}
    for run in result.final_runs:
        if run.done and run.label is not None and run.round is not None:
            of_items = columns.get((run.label, run.round), {})
            rounds.setdefault(run.label, []).append(_round(run, result, run.slot_id in opened, of_items))
    tuned = result.final_of(TUNED)
    if tuned is not None and tuned.same_as in rounds:
        rounds[TUNED] = rounds[tuned.same_as]
    return StudyView(
        name=result.name,
        model=result.model,
        version=result.spec.version,
        phase=result.phase,
        data_digest=result.data_digest,
        still_tuned=tuple(
            other.name
            for other in results
            if other.data_digest == result.data_digest and other.phase in ("search", "confirm")
        ),
        reference_label=result.reference_label,
        params={final.label: final.params for final in result.final},
        rounds={label: tuple(of_label) for label, of_label in rounds.items()},
    )


def _round(run: TrainingRecord, result: StudyResult, opened: bool, columns: Mapping[str, NDArray[Any]]) -> FinalRound:
    first_two = zip((metric.name for metric in result.metrics), (run.value, run.loss), strict=False)
    return FinalRound(
        number=run.round or 0,
        slot=run.slot_id,
        seed=run.slot_seed,
        opened=opened,
        metrics=run.metrics or dict(first_two),
        columns=columns,
    )
