"""`hpo study plan`: how many rounds and repeats a comparison takes."""

from typing import TYPE_CHECKING

import click

from hpo.cli.context import Context, FiniteRange, format_option, pass_context, print_json, print_table

if TYPE_CHECKING:
    from hpo.analysis.planning import Need


@click.command()
@click.option(
    "--difference",
    type=FiniteRange(1e-12, 1e12),
    required=True,
    help="What is to be found, in the metric's unit: points of an accuracy; 0.05 of a ratio of 1.05.",
)
@click.option(
    "--power",
    type=FiniteRange(0.5, 0.999),
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
    help="The same between repeats of the searches. [default: as measured, where --spread is not given]",
)
@click.option("--models", type=click.IntRange(1, 100), default=3, help="How many models, where --spread is given.")
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

    from hpo.analysis.planning import families, need
    from hpo.api.plan import measured_needs
    from hpo.report.terminal_plan import needs_table

    needs: list[Need] = []
    if spread is None:
        needs, models = measured_needs(context.engine(), difference, power, looks=looks)
        if search_spread is not None:
            needs = [measured for measured in needs if measured.unit == "rounds"]
    for width, unit in ((spread, "rounds"), (search_spread, "repeats")):
        if width is not None:
            seen = looks if unit == "rounds" else 1
            needs += [
                need(what, difference, power, width, comparisons=comparisons, unit=unit, looks=seen)
                for what, comparisons in families(models)
            ]
    if form == "json":
        print_json([asdict(need) for need in needs])
    else:
        print_table(needs_table(needs, difference, power, models=models))
