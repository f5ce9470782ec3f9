"""`hpo study plan`: how many rounds and repeats a comparison takes."""

import click

from hpo.cli.context import Context, FiniteRange, format_option, pass_context, print_json, print_table


@click.command()
@click.option(
    "--difference",
    type=FiniteRange(1e-12, 1e12),
    required=True,
    help="What is to be found, in the metric's unit: points of an accuracy; 0.05 of a ratio of 1.05.",
)
@click.option(
    "--power",
    type=FiniteRange(0.05, 0.999),
    default=0.8,
    help="The share of cases in which it is to be found.",
)
@click.option("--looks", type=click.IntRange(1, 20), default=1, help="Looks, after equal parts of the rounds.")
@click.option(
    "--spread",
    type=FiniteRange(1e-12, 1e12),
    help="Standard deviation of the paired difference between rounds. [default: as measured in the database]",
)
@click.option(
    "--search-spread",
    type=FiniteRange(1e-12, 1e12),
    help="The same between repeats of the searches. [default: as measured in the database]",
)
@click.option("--models", type=click.IntRange(1, 100), default=3, help="How many models, where a spread is given.")
@format_option
@pass_context
def plan(
    context: Context,
    difference: float,
    power: float,
    looks: int,
    spread: float | None,
    search_spread: float | None,
    models: int,
    form: str,
) -> None:
    """Say how many rounds and repeats it takes to find a difference.

    More rounds show more surely which of these configurations is better, more repeats which model is, whatever
    its search came upon. How much rounds and repeats differ is measured in the database's results, or given.

    \b
    Example:
      hpo study plan --difference 0.5 --power 0.8
      hpo study plan --difference 0.5 --spread 0.9 --looks 3
    """
    from dataclasses import asdict

    from hpo.analysis.planning import families, need, needs_of
    from hpo.errors import UsageError
    from hpo.report.terminal_plan import in_unit, needs_table

    given = [(spread, "rounds"), (search_spread, "repeats")]
    needs = [
        need(what, difference, power, width, comparisons=comparisons, unit=unit, looks=looks if unit == "rounds" else 1)
        for width, unit in given
        if width is not None
        for what, comparisons in families(models)
    ]
    if not needs:
        from hpo.analysis.comparison import compare
        from hpo.report.contents import shipped_report_of
        from hpo.report.scores import scores_of
        from hpo.report.views import read_columns
        from hpo.results import queries
        from hpo.results.records import models_of

        engine = context.engine()
        results, shipped = queries.all_results(engine), shipped_report_of(None)
        comparison = compare(results, scores_of(results, {r.id: read_columns(engine, r, shipped) for r in results}))
        metrics, models = {pair.metric for pair in comparison.pairs}, len(models_of(results))
        if len(metrics) > 1:
            names = ", ".join(sorted(metric.name for metric in metrics))
            raise UsageError(f"the results here are of several metrics ({names}): give --spread, in the unit of one")
        needs = [need for metric in metrics for need in needs_of(comparison, in_unit(metric, difference), power, looks)]
    if not needs:
        raise UsageError(
            "no two configurations here have two final rounds in common whose difference varies, so nothing is known "
            "of its spread: give --spread"
        )
    if form == "json":
        print_json([asdict(need) for need in needs])
    else:
        print_table(needs_table(needs, difference, power, models=models))
