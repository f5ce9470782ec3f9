"""`hpo run`: everything on this machine, from nothing to the report."""

import signal
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from hpo.cli.context import Context, pass_context, print_table, say

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.spec import StudySpec

POLL_SECONDS = 1.0


@click.command()
@click.option("--model", multiple=True, help="A model to compare; may be repeated. [default: all three]")
@click.option("--trials", type=int, help="Search trials of each model.")
@click.option("--epochs", type=int, help="Epochs of every training.")
@click.option("--rounds", type=int, help="Final rounds of each configuration.")
@click.option("--quick", is_flag=True, help="A small budget: 20 trials of 8 epochs, 10 final rounds.")
@click.option("--demo", is_flag=True, help="The demo's tiny budget: 8 trials of 4 epochs, 5 final rounds.")
@click.option("--workers", default="auto", help="Local workers: auto (one a GPU, else one a core) or a number.")
@click.option("--out", type=click.Path(path_type=Path), default="report", help="The report's folder.")
@pass_context
def run(
    context: Context,
    model: tuple[str, ...],
    trials: int | None,
    epochs: int | None,
    rounds: int | None,
    quick: bool,
    demo: bool,
    workers: str,
    out: Path,
) -> None:
    """Tune, confirm, evaluate and report, on this machine; started again, it goes on where it was.

    \b
    Example:
      hpo run --quick
      hpo run --model ws --model ws-aux --trials 60 --epochs 12
    """
    from hpo import launch, planning
    from hpo.errors import UsageError

    if workers != "auto" and not (workers.isdigit() and int(workers) >= 1):
        raise UsageError(f"--workers must be auto or a number from 1 on, got {workers!r}")
    if quick and demo:
        raise UsageError("--quick and --demo are two budgets: give one")
    engine = context.engine(create=True)
    names = []
    for one in model or ("all",):
        for spec in planning.specs(model=one, path=None):
            spec = spec.demo() if demo else spec.quick() if quick else spec
            spec = spec.with_options(trials=trials, epochs=epochs, rounds=rounds)
            planning.create(engine, context.digits, spec, skip=True)
            names.append(spec.name)
            _say_budget(spec, demo or quick)
    count = launch.workers_here() if workers == "auto" else int(workers)
    logs = out / "logs"
    crew = launch.LocalWorkers(count, url=context.url, data_dir=context.data_dir, studies=names, logs=logs)
    stopped = _watch(engine, names, crew)
    _report(engine, names, out)
    for log, code in crew.failures() if not stopped else []:
        say(f"a worker ended with exit code {code}; it says why in {log}")
    if stopped:
        say("stopped: the same command goes on where this ended")
    raise SystemExit(130 if stopped else 1 if crew.failures() else 0)


def _say_budget(spec: "StudySpec", small: bool) -> None:
    note = "; a small budget: it shows the way, its numbers mean little" if small else ""
    p = spec.protocol
    say(
        f"{spec.name}: {spec.budget.trials} trials of {spec.budget.epochs} epochs, confirm "
        f"{p.confirm_configurations} + paper x {p.confirm_rounds} rounds, final {p.final_rounds} rounds{note}"
    )


def _watch(engine: "Engine", names: list[str], crew: "object") -> bool:
    """Show progress until the workers end; True where the user stopped them."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from hpo.launch import LocalWorkers

    assert isinstance(crew, LocalWorkers)
    stop: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.append(number)

    before = {n: signal.signal(n, on_signal) for n in (signal.SIGINT, signal.SIGTERM)}
    columns = (
        TextColumn("{task.description:<30}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        bars = {name: progress.add_task(name, total=None, note="") for name in names}
        while True:
            running = crew.running()
            for name in names:
                _show(progress, bars[name], engine, name)
            if stop or not running:
                break
            time.sleep(POLL_SECONDS)
        if stop:
            progress.console.print("stopping: the workers end their epoch and give their slots back")
            crew.stop()
    for number, handler in before.items():
        signal.signal(number, handler)
    return bool(stop)


def _show(progress: "object", bar: "object", engine: "Engine", name: str) -> None:
    from rich.progress import Progress, TaskID

    from hpo.storage import studies

    assert isinstance(progress, Progress)
    row = studies.get_study(engine, name)
    counts = studies.counts(engine, row.id)
    total = sum(c.total for c in counts.values())
    done = total - sum(c.open for c in counts.values())
    words = [f"{kind} {c.total - c.open}/{c.total}" for kind, c in counts.items() if c.total]
    progress.update(
        TaskID(int(str(bar))),
        completed=done,
        total=total or None,
        description=f"{name}: {row.phase}",
        note=", ".join(words),
    )


def _report(engine: "Engine", names: list[str], out: Path) -> None:
    from hpo.analysis import report, results, terminal

    files = report.write_report(engine, out)
    print_table(terminal.comparison_table([r for r in results.all_results(engine) if r.name in names]))
    say(f"report: {files.html.resolve()}")
