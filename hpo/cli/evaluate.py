"""`hpo evaluate`: final rounds of any configuration."""

from pathlib import Path

import click

from hpo.cli.context import Context, experiment_option, format_option, pass_context, print_json, print_message
from hpo.study import limits


@click.command()
@click.argument("config", type=click.Path(path_type=Path), required=False)
@experiment_option
@click.option("--study", "name", help="Evaluate in this study; without CONFIG its tuned configuration.")
@click.option("--rounds", type=click.IntRange(1, limits.ROUNDS), help="Final rounds. [default: the study's]")
@click.option("--epochs", type=click.IntRange(1, limits.COUNT), help="Epochs, if this creates the study.")
@click.option("--label", help="The configuration's name in the report. [default: tuned, or the reference's]")
@click.option("--open-early", is_flag=True, help="Do not wait for searches on the same data; it stays on record.")
@format_option
@pass_context
def evaluate(
    context: Context,
    config: Path | None,
    experiment: str | None,
    name: str | None,
    rounds: int | None,
    epochs: int | None,
    label: str | None,
    open_early: bool,
    form: str,
) -> None:
    """Add final rounds of any configuration.

    Workers run them.
    CONFIG is a study file: its [tuned] configuration is measured, or the one to compare with ([reference], [paper])
    under its label (reference, paper) or where there is no tuned one. The rounds go to the study that the file names,
    which is created without a search if it does not exist. Rounds that a label already has are not added again.
    While a search on the same data goes on nothing is tested: what the test says could serve that search.

    \b
    Example:
      hpo evaluate studies/ws.toml --rounds 20
      hpo evaluate --study ws --rounds 40
      hpo evaluate ws-tuned.toml --study ws --label colleague
    """
    from dataclasses import asdict

    from hpo.errors import UsageError
    from hpo.server.notes import update_notes
    from hpo.study import operations

    if config is None and name is None:
        raise UsageError("evaluate what? give a file (`hpo evaluate studies/ws.toml`) or --study NAME")
    if config is None and experiment is not None:
        raise UsageError("--experiment belongs to a file: a study knows its own")
    file = None if config is None else context.requests.studies(experiment=experiment, model=None, path=config)[0]
    engine = context.engine(create=file is not None)
    evaluation = operations.evaluate(
        engine,
        file=file,
        name=name,
        rounds=rounds,
        epochs=epochs,
        label=label,
        open_early=open_early,
    )
    if evaluation.added:
        update_notes(engine, [evaluation.study], lambda: context.digits)
    if form == "json":
        print_json({**asdict(evaluation), "beyond": evaluation.beyond})
        return
    trained = "" if evaluation.epochs is None else f" ({evaluation.epochs} epochs)"
    print_message(
        f"study {evaluation.study}{trained}: {evaluation.added} final rounds of {evaluation.label!r} added, "
        f"{evaluation.rounds} asked for in all"
    )
    if evaluation.beyond:
        looks, first = ", ".join(map(str, evaluation.looks)), evaluation.first_tested_by
        if first is None:
            declared = f"that the study was created with ({looks})"
            advice = "; a study created with --looks can be looked at again"
        else:
            known = looks or "none with this seed of the protocol"
            declared = f"that had been declared when study {first} tested this configuration first ({known})"
            advice = " where it compares with what had been tested by then"
        print_message(
            f"{evaluation.beyond} of them are beyond the rounds {declared}: the report shows them, and judges by the "
            f"others{advice}"
        )
    print_message("next: `hpo worker --drain` runs them")
