"""The searches and their learning curves."""

from collections.abc import Iterable, Sequence

from hpo.analysis import search_history
from hpo.report import chart_data
from hpo.report.charts import curves, search
from hpo.report.html import Part, drawn
from hpo.results.records import StudyResult


def search_parts(results: Sequence[StudyResult]) -> Iterable[Part]:
    """How each search went; nothing where nothing was searched."""
    searches = [one for result in results if (one := search_history.search_data(result)).trials]
    if not searches:
        return
    yield drawn(
        "history",
        "Validation accuracy of each search trial as it finished; the line is the best complete trial so far. "
        "Triangles and crosses at the lower edge lie below it.",
        search.history_chart(searches),
    )
    budgets = [budget for one in searches if (budget := search_history.budget_data(one)) is not None]
    if budgets:
        yield drawn(
            "budget",
            "Best validation accuracy against the number of trials: what random trials lead one to expect (unbiased, "
            "from the random and never pruned start-up trials alone), and what this one search found.",
            search.budget_chart(budgets),
        )
    for index, one in enumerate(searches):
        if not any(trial.state == "complete" for trial in one.trials):
            continue
        yield drawn(
            f"parallel-{index}",
            f"{one.study}: every complete trial as a line over its hyperparameters (between the ends of the "
            "searched ranges, logarithmic where the search is) to its validation accuracy.",
            search.parallel_chart(one),
        )
        yield drawn(
            f"slices-{index}",
            f"{one.study}: validation accuracy against each hyperparameter while the others vary too.",
            search.slices_chart(one),
        )


def curves_parts(results: Sequence[StudyResult]) -> Iterable[Part]:
    """Learning curves of the confirm and final rounds."""
    found = [curve for result in results for curve in chart_data.curves_data(result)]
    if found:
        yield drawn(
            "curves",
            "Mean over the rounds by epoch; the band reaches from the lowest round to the highest. Validation "
            "accuracy (%) comes from the confirm rounds, training loss from the final ones.",
            curves.curves_chart(found),
        )
