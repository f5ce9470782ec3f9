"""`hpo experiment`: experiments of the user's, begun from a template and checked before they cost time."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.context import format_option, print_json, print_message
from hpo.study import limits

if TYPE_CHECKING:
    from hpo.worker.check import Cost

CHECK_EPOCHS = 2  # what hpo.worker.check.EPOCHS is; a test holds the two together


@click.group()
def experiment() -> None:
    """Begin and check experiments of your own.

    \b
    Example:
      hpo experiment new mine
      hpo experiment check mine.py
    """


@experiment.command()
@click.argument("name")
def new(name: str) -> None:
    """Write NAME.py, a commented experiment to change into yours.

    \b
    Example:
      hpo experiment new mine
    """
    import importlib.util

    from hpo.errors import UsageError
    from hpo.experiment.template import TEMPLATE
    from hpo.files import write_new

    path = Path(f"{name.removesuffix('.py')}.py")
    if not path.stem.isidentifier() or not path.stem.isascii() or path.stem.startswith("_") or len(path.stem) > 40:
        raise UsageError(f"{name!r} cannot be an experiment's name: take letters, digits and '_', a letter first")
    if path.exists():
        raise UsageError(f"{path} is there already; take another name, or delete it")
    if importlib.util.find_spec(path.stem) is not None:
        raise UsageError(f"a module called {path.stem} is installed, which {path} would hide; take another name")
    write_new(path, [TEMPLATE.format(name=path.stem, variable=path.stem).encode()])
    print_message(f"{path} is written; change it into yours, then `hpo experiment check {path}`")


@experiment.command()
@click.argument("locator", metavar="FILE[:NAME]")
@click.option("--model", multiple=True, help="A model to check; may be repeated. [default: all]")
@click.option("--epochs", type=click.IntRange(1, limits.COUNT), default=CHECK_EPOCHS, help="Epochs of each training.")
@click.option("--device", default="cpu", help="Where to train: cpu, cuda, cuda:1.")
@format_option
def check(locator: str, model: tuple[str, ...], epochs: int, device: str, form: str) -> None:
    """Look for mistakes that would cost a week.

    Trains the reference of each model six times or so with few epochs, in processes of their own, and compares: one
    seed twice, another seed, a warm process, with and without reports, without what judges it. Nothing is stored, and
    no test score is shown. Exit code 1 where something is wrong.

    \b
    Example:
      hpo experiment check cancer.py
      hpo experiment check cancer.py:cancer --model forest --epochs 10
    """
    from hpo.experiment.prepare import prepared
    from hpo.worker import check as checks

    description = prepared(locator)
    findings, costs = checks.check(description, model, epochs=epochs, device=device)
    names = model or tuple(description.models)
    if form == "table":
        print_message(f"each of {len(names)} models is trained {checks.TRAININGS} times or more, for {epochs} epochs")
    widths = max(len(name) for name in names), max(len(name) for name in checks.CHECKS)
    seen = []
    for finding in findings:
        seen.append(finding)
        if form == "table":
            place = f"{finding.model or '-':{widths[0]}}  {finding.check:{widths[1]}}"
            click.echo(f"{finding.level:4}  {place}  {' '.join(finding.text.split())}")
    pairs = len(description.models) * (len(description.models) + 1) // 2
    rounds = checks.fewest_rounds(pairs)
    if form == "json":
        print_json(
            {
                "findings": [vars(finding) for finding in seen],
                "costs": [vars(cost) for cost in costs],
                "fewest_rounds": rounds,
                "not_checked": checks.not_checked(seen),
            }
        )
    else:
        _print_rest(costs, rounds, checks.not_checked(seen))
    if any(finding.level == "BAD" for finding in seen):
        raise SystemExit(1)


def _print_rest(costs: "list[Cost]", rounds: int, left_out: list[str]) -> None:
    """What the whole comparison would cost here, and what was not looked at."""
    for cost in costs:
        memory = "" if cost.memory is None else f", {cost.memory >> 20:,} MB of memory"
        time = _duration(cost.trainings * cost.seconds)
        click.echo(
            f"cost  {cost.model}: {cost.trainings} trainings of about {_duration(cost.seconds)} each, {time} on one "
            f"worker{memory}"
        )
    click.echo(f"cost  no difference between two models can be clear with fewer than {rounds} final rounds")
    for text in left_out:
        click.echo(f"not checked: {text}")


def _duration(seconds: float) -> str:
    """A time as people say it."""
    for unit, size in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.2g} s"
