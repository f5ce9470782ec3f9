"""`hpo evaluate`: final rounds of any configuration."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.context import Context, experiment_option, format_option, pass_context, print_json, print_message
from hpo.study import limits

if TYPE_CHECKING:  # it loads the database
    from hpo.study.operations import RequestedRounds


@click.command()
@click.argument("config", type=click.Path(path_type=Path), required=False)
@experiment_option
@click.option("--study", "name", help="Evaluate in this study; without CONFIG what it compares.")
@click.option("--rounds", type=click.IntRange(1, limits.ROUNDS), help="Final rounds. [default: the study's]")
@click.option("--epochs", type=click.IntRange(1, limits.COUNT), help="Epochs, if this creates the study.")
@click.option("--label", help="The configuration's name in the report. [default: tuned, reference or paper, as it is]")
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
    which is created without a search if it does not exist. Without CONFIG and --label a study's tuned configuration and
    its reference get rounds, so that both come to the next look. Rounds that a label already has are not added again.
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
    asked = operations.evaluate(
        engine,
        file=file,
        name=name,
        rounds=rounds,
        epochs=epochs,
        label=label,
        open_early=open_early,
    )
    if any(of_configuration.added for of_configuration in asked):
        update_notes(engine, [asked[0].study], lambda: context.digits)
    if form == "json":
        print_json([{**asdict(of_configuration), "beyond": of_configuration.beyond} for of_configuration in asked])
        return
    for of_configuration in asked:
        for line in _lines(of_configuration):
            print_message(line)
    print_message("next: `hpo worker --drain` runs them")


def _lines(asked: "RequestedRounds") -> Iterable[str]:
    """What was asked for of one configuration, and what of it counts."""
    trained = "" if asked.epochs is None else f" ({asked.epochs} epochs)"
    yield (
        f"study {asked.study}{trained}: {asked.added} final rounds of {asked.label!r} added, {asked.rounds} asked for "
        "in all"
    )
    if not asked.beyond:
        return
    looks, first = ", ".join(map(str, asked.looks)), asked.first_tested_by
    if asked.next_look is not None:
        yield (
            f"{asked.beyond} of them belong to the look at {asked.next_look} rounds: until --rounds {asked.next_look} "
            "has added the others the report shows them, and judges without them"
        )
        return
    if first is None:
        declared = f"that the study was created with ({looks})"
        advice = "; a study created with --looks can be looked at again" if len(asked.looks) == 1 else ""
    else:
        known = looks or "none with this seed of the protocol"
        declared = f"that had been declared when study {first} tested this configuration first ({known})"
        advice = " where it compares with what had been tested by then"
    yield (
        f"{asked.beyond} of them are beyond the rounds {declared}: the report shows them, and judges by the "
        f"others{advice}"
    )
