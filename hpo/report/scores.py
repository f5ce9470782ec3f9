"""Scores: the single test items of all studies, read from the database."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Engine

from hpo.analysis.items import ItemScores, item_scores_of
from hpo.report.shipped import ShippedReport
from hpo.report.views import Columns, read_columns
from hpo.results.records import StudyResult


def read_scores(
    engine: Engine, results: Sequence[StudyResult], shipped: ShippedReport | None = None
) -> dict[int, ItemScores]:
    """The scores of the final rounds' single test items by study id; those of the first format as `shipped` reads."""
    return scores_of(results, {result.id: read_columns(engine, result, shipped) for result in results})


def scores_of(results: Sequence[StudyResult], columns: Mapping[int, Columns]) -> dict[int, ItemScores]:
    """The same from the columns of the final rounds, by study id."""
    scores = {result.id: item_scores_of(result, columns[result.id]) for result in results}
    return {study_id: of_study for study_id, of_study in scores.items() if of_study is not None}
