"""The searches and their learning curves."""

from collections.abc import Iterable, Sequence

from hpo.analysis import search_history
from hpo.report import chart_data
from hpo.report.charts import curves, search
from hpo.report.html import Part, plotly_figure
from hpo.results.records import StudyResult


def search_parts(results: Sequence[StudyResult]) -> Iterable[Part]:
    """How each search went; nothing where nothing was searched."""
    searches = [history for result in results if (history := search_history.search_data(result)).trials]
    if not searches:
        return
    yield plotly_figure(
        "history",
        "Validation accuracy of each search trial, in the order in which they finished; the line is the best complete "
        "trial so far. Triangles and crosses at the lower edge stand for trials below it.",
        search.history_chart(searches),
    )
    budgets = [budget for history in searches if (budget := search_history.budget_data(history)) is not None]
    if budgets:
        yield plotly_figure(
            "budget",
            "Best validation accuracy against the number of trials: what random search is expected to reach (unbiased, "
            "estimated from the random, never pruned start-up trials alone), and what this one search reached.",
            search.budget_chart(budgets),
        )
    for index, history in enumerate(searches):
        if not any(trial.state == "complete" for trial in history.trials):
            continue
        yield plotly_figure(
            f"parallel-{index}",
            f"{history.study}: each complete trial as a line through its hyperparameters to its validation accuracy. "
            "An axis spans the searched range, on a log scale where the search uses one.",
            search.parallel_chart(history),
        )
        yield plotly_figure(
            f"slices-{index}",
            f"{history.study}: validation accuracy against each hyperparameter, the others varying too.",
            search.slices_chart(history),
        )


def curves_parts(results: Sequence[StudyResult]) -> Iterable[Part]:
    """Learning curves of the confirm and final rounds."""
    learning_curves = [curve for result in results for curve in chart_data.curves_data(result)]
    if learning_curves:
        yield plotly_figure(
            "curves",
            "Mean over the rounds after each epoch; the band reaches from the lowest round to the highest. Validation "
            "accuracy (%) comes from the confirm rounds, training loss from the final rounds.",
            curves.curves_chart(learning_curves),
        )
