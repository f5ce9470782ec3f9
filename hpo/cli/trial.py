"""`hpo trial`: single trials."""

import click

from hpo.cli.context import Context, format_option, pass_context, print_json, print_table
from hpo.study import limits


@click.group()
def trial() -> None:
    """Inspect single trials.

    \b
    Example:
      hpo trial show ws 17
    """


@trial.command(name="show")
@click.argument("name")
@click.argument("number", type=click.IntRange(0, limits.COUNT))
@format_option
@pass_context
def show(context: Context, name: str, number: int, form: str) -> None:
    """Show one trial.

    Its parameters, its result, and the reason where it failed. NAME means the study's search, NAME:confirm and
    NAME:final its rounds; `hpo study show` lists the numbers of failed ones.

    \b
    Example:
      hpo trial show ws 17 --format json
      hpo trial show ws:final 3
    """
    from hpo.report import terminal
    from hpo.results import queries

    detail = queries.trial(context.engine(), name, number)
    if form == "json":
        print_json(detail)
    else:
        print_table(terminal.trial_detail(detail))
