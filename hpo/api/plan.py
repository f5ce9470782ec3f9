"""What comparisons take, with the spreads that a database's results have."""

import math
from typing import TYPE_CHECKING

from hpo.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.analysis.planning import Need


def measured_needs(engine: "Engine", difference: float, power: float, *, looks: int) -> tuple[list["Need"], int]:
    """What each comparison of the results takes to find a difference, and of how many models they are.

    The difference is in the metric's unit as people give it: points of an accuracy, 0.05 for a ratio of 1.05.
    Raises UsageError where the results are of several metrics, or tell no spread.
    """
    from hpo.analysis.comparison import compare
    from hpo.analysis.planning import needs_of
    from hpo.report.contents import shipped_report_of
    from hpo.report.formats import Scale
    from hpo.report.scores import read_scores
    from hpo.results.queries import all_results
    from hpo.results.records import models_of
    from hpo.storage.ledger import read_ledger

    results, shipped = all_results(engine), shipped_report_of(None)
    comparison = compare(results, read_scores(engine, results, shipped), read_ledger(engine))
    metrics = {pair.metric for pair in comparison.pairs}
    if len(metrics) > 1:
        names = ", ".join(sorted(metric.name for metric in metrics))
        raise UsageError(f"the results here are of several metrics ({names}): give --spread, in the unit of one")
    needs: list[Need] = []
    for metric in metrics:
        points = 100 if Scale(metric).is_percent else 1
        size = math.log1p(difference) if metric.is_relative else difference / points
        needs += needs_of(comparison, size, power, looks)
    if not needs:
        raise UsageError(
            "no two configurations here have two final rounds in common whose difference varies, so nothing is known "
            "of its spread: give --spread"
        )
    return needs, len(models_of(results))
