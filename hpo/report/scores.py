"""Scores: the single test items of all studies, read from the database."""

from collections.abc import Sequence

from sqlalchemy import Engine

from hpo.analysis.items import ItemScores, item_scores_of
from hpo.results.queries import final_columns
from hpo.results.records import StudyResult


def read_scores(engine: Engine, results: Sequence[StudyResult]) -> dict[int, ItemScores]:
    """The scores of the final rounds' single test items by study id, where they are stored."""
    scores: dict[int, ItemScores] = {}
    for result in results:
        if not result.is_digits and any(run.done for run in result.final_runs):
            of_study = item_scores_of(result, final_columns(engine, result.id))
            if of_study is not None:
                scores[result.id] = of_study
    return scores
