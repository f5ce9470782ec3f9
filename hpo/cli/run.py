"""`hpo run`: everything on this machine, from an empty database to the report."""

from pathlib import Path

import click

from hpo.cli.context import (
    AutoOrCount,
    Context,
    accept_option,
    experiment_option,
    format_option,
    pass_context,
    print_message,
)
from hpo.cli.report import print_report
from hpo.study import limits


@click.command()
@click.option("--model", multiple=True, help="A model to compare; may be repeated. [default: all]")
@experiment_option
@click.option("--file", "paths", type=click.Path(path_type=Path), multiple=True, help="A study file; may be repeated.")
@click.option("--trials", type=click.IntRange(0, limits.TRIALS), help="Search trials of each model.")
@click.option("--epochs", type=click.IntRange(1, limits.COUNT), help="Epochs of every training.")
@click.option("--rounds", type=click.IntRange(1, limits.ROUNDS), help="Final rounds of each configuration.")
@click.option("--quick", is_flag=True, help="A small budget: 40 trials of 8 epochs, 10 final rounds.")
@click.option("--demo", is_flag=True, help="The demo's tiny budget: 36 trials of 5 epochs, 10 final rounds.")
@click.option(
    "--workers",
    type=AutoOrCount(limits.WORKERS),
    default="auto",
    help="Local workers: auto (one a GPU, else one a core, within the quotas of a container) or a number.",
)
@click.option("--out", type=click.Path(path_type=Path), default="report", help="The report's folder.")
@accept_option
@format_option
@pass_context
def run(
    context: Context,
    model: tuple[str, ...],
    experiment: str | None,
    paths: tuple[Path, ...],
    trials: int | None,
    epochs: int | None,
    rounds: int | None,
    quick: bool,
    demo: bool,
    workers: int | None,
    out: Path,
    accept_changes: bool,
    form: str,
) -> None:
    """Tune, confirm, evaluate and report on this machine.

    Creates what is missing, starts workers, shows their progress. After Ctrl-C or a reboot the same command
    continues where it stopped.

    \b
    Example:
      hpo run --quick
      hpo run --model ws --model ws-aux --trials 60 --epochs 12
      hpo run --experiment cancer.py --trials 40 --rounds 20
      hpo run --file studies/ws.toml --file mine.toml
    """
    from hpo.api import run as runs
    from hpo.api.progress import Bars
    from hpo.errors import UsageError

    if quick and demo:
        raise UsageError("--quick and --demo are two budgets: give one")
    options = runs.RunOptions(
        experiment=experiment,
        models=model,
        files=paths,
        trials=trials,
        epochs=epochs,
        rounds=rounds,
        budget="quick" if quick else "demo" if demo else "full",
        workers=workers,
        out=out,
        accept_changes=accept_changes,
        log_options=context.log_options,
    )
    end = runs.run(context, options, Bars())
    if end.written is None:
        print_message("stopped: the same command continues from here")
        raise SystemExit(128 + (end.caught or 0))
    print_report(end.written, form)
    for problem in end.problems:
        print_message(problem)
    raise SystemExit(1 if end.problems else 0)
