"""The searches and their learning curves."""

from collections.abc import Iterable, Sequence

from hpo.analysis import search_history
from hpo.analysis.search_history import SearchHistory
from hpo.experiment.page import Part, plotly_figure
from hpo.report import chart_data
from hpo.report.charts import curves, search
from hpo.report.formats import Scale, by_metric
from hpo.results.records import StudyResult


def search_parts(results: Sequence[StudyResult]) -> Iterable[Part]:
    """How each search went; nothing where nothing was searched."""
    searches = [history for result in results if (history := search_history.search_data(result)).trials]
    models = [result.model for result in results]
    for place, of_metric in enumerate(by_metric(searches)):
        suffix, scale = f"-{place}" if place else "", Scale(of_metric[0].metric)
        edge = (
            "lower edge stand for trials below it" if scale.metric.maximize else "upper edge stand for trials above it"
        )
        yield plotly_figure(
            f"history{suffix}",
            f"Validation {scale.name} of each search trial, in the order in which they finished; the line is the best "
            f"complete trial so far. Triangles and crosses at the {edge}.",
            search.history_chart(of_metric, models),
        )
        budgets = [budget for history in of_metric if (budget := search_history.budget_data(history)) is not None]
        if budgets:
            yield plotly_figure(
                f"budget{suffix}",
                f"Best validation {scale.name} against the number of trials: what random search reaches in half of all "
                "cases (estimated from the random, never pruned start-up trials alone), with a 95% band that holds for "
                "all numbers of trials together, whatever the values' distribution, and ends where so few trials bound "
                "nothing (Lourie et al., 2024); and what this one search reached.",
                search.budget_chart(budgets, models),
            )
    for index, history in enumerate(searches):
        if any(trial.state == "complete" for trial in history.trials):
            yield from _parameters_parts(index, history, models)


def _parameters_parts(index: int, history: SearchHistory, models: Sequence[str]) -> Iterable[Part]:
    """A search's trials against what was tuned."""
    name = Scale(history.metric).name
    spans = "An axis spans the searched range, on a log scale where the search uses one."
    if any(trial.params[i] is None for trial in history.trials for i in range(len(history.names))):
        spans += " A line below an axis: the hyperparameter is inactive there."
    yield plotly_figure(
        f"parallel-{index}",
        f"{history.study}: each complete trial as a line through its hyperparameters to its validation {name}. {spans}",
        search.parallel_chart(history),
    )
    yield plotly_figure(
        f"slices-{index}",
        f"{history.study}: validation {name} against each hyperparameter, the others varying too.",
        search.slices_chart(history, models),
    )


def curves_parts(results: Sequence[StudyResult]) -> Iterable[Part]:
    """Learning curves of the confirm and final rounds."""
    learning_curves = [curve for result in results for curve in chart_data.curves_data(result)]
    if not learning_curves:
        return
    scales = {Scale(curve.metric) for curve in learning_curves if curve.metric is not None}
    names = " or ".join(sorted(f"{scale.name} (%)" if scale.is_percent else scale.name for scale in scales))
    sources = []
    if scales:
        sources.append(f"Validation {names} comes from the confirm rounds")
    if any(curve.metric is None for curve in learning_curves):
        sources.append(f"{'training' if sources else 'Training'} loss from the final rounds")
    yield plotly_figure(
        "curves",
        "Mean over the rounds after each epoch; the band reaches from the lowest round to the highest. "
        f"{', '.join(sources)}.",
        curves.curves_chart(learning_curves, [result.model for result in results]),
    )
