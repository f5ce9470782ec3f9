"""`hpo study`: create, list, show, extend, pause, resume, delete, export."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.api.run import trials_text
from hpo.cli.context import (
    Context,
    accept_option,
    experiment_option,
    format_option,
    pass_context,
    print_json,
    print_message,
    print_table,
)
from hpo.cli.plan import plan as plan_command
from hpo.study import limits

if TYPE_CHECKING:
    from hpo.study.spec import StudySpec


class RoundNumbers(click.ParamType[tuple[int, ...]]):
    """Numbers of rounds, separated by commas."""

    name = "N,N,..."

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The numbers; whether they are in order the spec says."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(number) for number in value.split(","))
        except ValueError:
            self.fail(f"{value!r} are not numbers separated by commas, as 20,40,60", param, ctx)


@click.group()
def study() -> None:
    """Create and manage studies.

    \b
    Example:
      hpo study create --model ws --trials 50
      hpo study show ws
    """


study.add_command(plan_command)


@study.command()
@click.option("--model", metavar="MODEL", help="simple, ws, ws-aux, one of the experiment's, or all.")
@experiment_option
@click.option("--name", help="The study's name; if left out the model's, or EXPERIMENT-MODEL.")
@click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path),
    help="A study file, like studies/ws.toml, or the JSON of `study export`.",
)
@click.option(
    "--trials", type=click.IntRange(0, limits.TRIALS), help="Search trials, the reference configuration included."
)
@click.option("--epochs", type=click.IntRange(1, limits.COUNT), help="Epochs of every training.")
@click.option("--rounds", type=click.IntRange(1, limits.ROUNDS), help="Final rounds of each configuration.")
@click.option(
    "--looks",
    type=RoundNumbers(),
    help="Rounds after which results will be looked at, as 20,40,60: the study begins with the first, `hpo evaluate` "
    "adds the next.",
)
@click.option("--seed", type=click.IntRange(0, limits.SEED), help="Seed of the search.")
@click.option(
    "--repeat", type=click.IntRange(1, limits.REPEATS), default=1, help="Independent repeats, each with its own seed."
)
@click.option("--open-early", is_flag=True, help="Its final rounds wait for no search on the same data.")
@click.option("--skip-if-exists", is_flag=True, help="If the study exists, change nothing and exit with 0.")
@accept_option
@click.option("--dry-run", is_flag=True, help="Check everything and report what would be created.")
@format_option
@pass_context
def create(
    context: Context,
    model: str | None,
    experiment: str | None,
    name: str | None,
    path: Path | None,
    trials: int | None,
    epochs: int | None,
    rounds: int | None,
    looks: tuple[int, ...] | None,
    seed: int | None,
    repeat: int,
    open_early: bool,
    skip_if_exists: bool,
    accept_changes: bool,
    dry_run: bool,
    form: str,
) -> None:
    """Create a study.

    A study is one model's tuning, confirmation and final rounds; workers carry it out.

    \b
    Example:
      hpo study create --model all
      hpo study create --file studies/ws.toml --name ws-long --trials 200
      hpo study create --experiment cancer.py --model forest
    """
    from hpo.server.notes import update_notes
    from hpo.study import operations

    asked = context.requests.studies(experiment=experiment, model=model, path=path)
    if looks is not None and rounds is None:
        rounds = looks[0]

    def wanted(spec: "StudySpec") -> "StudySpec":
        return spec.with_options(name=name, trials=trials, epochs=epochs, rounds=rounds, seed=seed, looks=looks)

    plan = operations.repeats([replace(study, spec=wanted(study.spec)) for study in asked], repeat)
    plan = [replace(planned, open_early=open_early) for planned in plan]
    for planned in plan:
        planned.data.check(planned.spec)  # before a database is created for nothing
    if dry_run:
        existing = context.engine_if_made()
        new = (
            [True] * len(plan)
            if existing is None
            else operations.check_new(existing, plan, skip_if_exists, accept_changes)
        )
    else:
        engine = context.engine(create=True)
        new = operations.create(engine, plan, skip_if_exists, accept_changes)
        update_notes(engine, [planned.spec.name for planned, created in zip(plan, new, strict=True) if created])
    states = {True: "would be created" if dry_run else "created", False: "exists"}
    described = [_described(planned.spec, states[is_new]) for planned, is_new in zip(plan, new, strict=True)]
    if form == "json":
        print_json(described)
        return
    for planned, created in zip(plan, described, strict=True):
        budget = f"{trials_text(planned.spec)}, {planned.spec.protocol.final_rounds} final rounds"
        print_message(f"study {created['name']}: {created['state']} ({budget})")
    if repeat > 1:
        models = len({(p.spec.experiment, p.spec.model) for p in plan})
        print_message(_what_repeats_decide(repeat, models, min(p.spec.protocol.final_rounds for p in plan)))
    if not dry_run:
        places = dict.fromkeys(place for planned in plan if (place := planned.data.locator) is not None)
        options = "".join(f" --experiment {place}" for place in places)
        print_message(f"next: `hpo worker{options} --drain` trains them; `hpo study list` shows how far they are")


def _what_repeats_decide(repeat: int, models: int, rounds: int) -> str:
    """What so many repeats of so many models can show at best, with so many final rounds."""
    from hpo.study.repeats import LEVEL, comparisons_of, fewest_repeats, smallest_p

    comparisons = comparisons_of(models)
    smallest, enough = smallest_p(min(repeat, rounds), comparisons), fewest_repeats(comparisons)
    several = "" if comparisons == 1 else f", corrected for {comparisons} comparisons"
    number, unit = (repeat, "repeats") if repeat <= rounds else (rounds, "final rounds")
    few = "too few" if unit == "repeats" else f"{number} final rounds are too few"
    verdict = "" if smallest < LEVEL else f": {few} to decide anything, {enough} are the fewest that can"
    return f"{repeat} repeats: the smallest p that their comparison can give is {smallest:.2g}{several}{verdict}"


def _described(spec: "StudySpec", state: str) -> dict[str, object]:
    return {
        "name": spec.name,
        "experiment": spec.experiment,
        "model": spec.model,
        "state": state,
        "trials": spec.budget.trials,
        "epochs": spec.budget.epochs,
        "rounds": spec.protocol.final_rounds,
        "seed": spec.seed,
        "digest": spec.digest,
    }


@study.command(name="list")
@format_option
@pass_context
def list_(context: Context, form: str) -> None:
    """List all studies with their phase and counts.

    \b
    Example:
      hpo study list --format json
    """
    from hpo.report import terminal
    from hpo.results import queries
    from hpo.results.summary import summary

    results = queries.all_results(context.engine())
    if form == "json":
        print_json([summary(result) for result in results])
        return
    if not results:
        print_message("no studies yet: `hpo study create --model all` makes three")
        return
    print_table(terminal.study_table(results))


@study.command()
@click.argument("name")
@format_option
@pass_context
def show(context: Context, name: str, form: str) -> None:
    """Show one study.

    Its phase, counts, best trial, tuned configuration and final rounds; what went wrong, and how it was handled.

    \b
    Example:
      hpo study show ws --format json
    """
    from hpo.report import terminal
    from hpo.results import queries
    from hpo.results.summary import summary

    result = queries.study_result(context.engine(), name)
    if form == "json":
        print_json(summary(result))
    else:
        print_table(terminal.study_detail(result))


@study.command()
@click.argument("name")
@click.option("--trials", type=click.IntRange(1, limits.TRIALS), required=True, help="How many more.")
@pass_context
def extend(context: Context, name: str, trials: int) -> None:
    """Add search trials to a study.

    Only before its confirm phase, which chooses among the trials that exist when it starts.

    \b
    Example:
      hpo study extend ws --trials 50
    """
    from hpo.study import operations

    total = operations.extend(context.engine(), name, trials)
    print_message(f"study {name}: {trials} trials added, {total} in all")


@study.command()
@click.argument("name")
@pass_context
def pause(context: Context, name: str) -> None:
    """Stop handing out a study's slots; running ones finish.

    \b
    Example:
      hpo study pause ws
    """
    from hpo.storage import studies

    engine = context.engine()
    studies.set_paused(engine, studies.get_study(engine, name).id, True)
    print_message(f"study {name}: paused; `hpo study resume {name}` continues it")


@study.command()
@click.argument("name")
@pass_context
def resume(context: Context, name: str) -> None:
    """Continue after a pause or a failure.

    What failed in the present phase is queued again: final rounds, confirm rounds, and the trials of a search of which
    more than a quarter failed.

    \b
    Example:
      hpo study resume ws
    """
    from hpo.study import operations

    requeued = operations.resume(context.engine(), name)
    print_message(f"study {name}: continues" + (f", {requeued} failed trials queued again" if requeued else ""))


@study.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Really delete it.")
@pass_context
def delete(context: Context, name: str, yes: bool) -> None:
    """Delete a study with all its trials and results.

    What it opened of the test pool stays in `hpo ledger`, and every report counts it.

    \b
    Example:
      hpo study delete ws --yes
    """
    from hpo.errors import UsageError
    from hpo.storage import studies

    engine = context.engine()
    row = studies.get_study(engine, name)
    if not yes:
        raise UsageError(f"study {name}: deleting loses all its results; confirm with --yes")
    studies.delete_study(engine, row.name)
    print_message(f"study {name}: deleted")


@study.command()
@click.argument("name")
@click.option("--as-created", is_flag=True, help="Without results: the study as it was created, to create it again.")
@click.option("--label", help="The configuration of the final rounds under this label. [default: the tuned one]")
@click.option("--out", type=click.Path(path_type=Path), help="Write to this file instead of stdout.")
@click.option("--format", "form", type=click.Choice(["toml", "json"]), default="toml", help="The output format.")
@pass_context
def export(context: Context, name: str, as_created: bool, label: str | None, out: Path | None, form: str) -> None:
    """Write a study with its tuned configuration, as TOML or JSON.

    `hpo study create --file` and `hpo evaluate` read it back. As its search would try that configuration, it is
    another study than this one; --as-created, in any phase, writes the one that was created.

    \b
    Example:
      hpo study export ws --out ws-tuned.toml
      hpo study export ws --as-created --out ws.toml
    """
    from hpo.errors import UsageError
    from hpo.study import operations
    from hpo.study.spec import to_toml

    if as_created and label is not None:
        raise UsageError("--as-created writes the study without results: leave --label out")
    engine = context.engine()
    spec = operations.created_spec(engine, name) if as_created else operations.tuned_spec(engine, name, label)
    text = to_toml(spec) if form == "toml" else spec.model_dump_json(indent=2) + "\n"
    if out is None:
        click.echo(text, nl=False)
        return
    operations.write(out, text)
    print_message(f"study {name}: written to {out}")
