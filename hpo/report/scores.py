"""Scores: the single test items of all studies, read from the database."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Engine

from hpo.analysis.items import ItemScores, item_scores_of
from hpo.report.shipped import ShippedReport
from hpo.report.views import Columns, read_columns
from hpo.results.records import StudyResult


def read_scores(engine: Engine, results: Sequence[StudyResult]) -> dict[int, ItemScores]:
    """The scores of the final rounds' single test items by study id, where they are stored as such."""
    return scores_of(results, {result.id: read_columns(engine, result, None) for result in results}, None)


def scores_of(
    results: Sequence[StudyResult], columns: Mapping[int, Columns], shipped: ShippedReport | None
) -> dict[int, ItemScores]:
    """The same from the columns of the final rounds, by study id."""
    scores: dict[int, ItemScores] = {}
    for result in results:
        units = {"units": shipped.units} if shipped is not None and result.is_digits else {}
        of_study = item_scores_of(result, columns[result.id], **units)
        if of_study is not None:
            scores[result.id] = of_study
    return scores
