"""`hpo run`: everything on this machine, from an empty database to the report."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from hpo.cli.context import (
    AutoOrCount,
    Context,
    accept_option,
    console,
    experiment_option,
    format_option,
    pass_context,
    print_message,
)
from hpo.cli.report import write_report
from hpo.cli.study import trials_text
from hpo.study import limits
from hpo.worker import signals

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID
    from sqlalchemy import Engine

    from hpo.launch.local import LocalWorkers
    from hpo.study.requests import Requested
    from hpo.study.spec import StudySpec

POLL_SECONDS = 1.0


@click.command()
@click.option("--model", multiple=True, help="A model to compare; may be repeated. [default: all]")
@experiment_option
@click.option("--file", "paths", type=click.Path(path_type=Path), multiple=True, help="A study file; may be repeated.")
@click.option("--trials", type=click.IntRange(0, limits.TRIALS), help="Search trials of each model.")
@click.option("--epochs", type=click.IntRange(1, limits.COUNT), help="Epochs of every training.")
@click.option("--rounds", type=click.IntRange(1, limits.ROUNDS), help="Final rounds of each configuration.")
@click.option("--quick", is_flag=True, help="A small budget: 20 trials of 8 epochs, 10 final rounds.")
@click.option("--demo", is_flag=True, help="The demo's tiny budget: 8 trials of 4 epochs, 5 final rounds.")
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
    from hpo.errors import UsageError
    from hpo.launch import local
    from hpo.server.notes import update_notes
    from hpo.storage import studies
    from hpo.study import operations

    if quick and demo:
        raise UsageError("--quick and --demo are two budgets: give one")
    plan = []
    for study in _asked(context, experiment, model, paths):
        budget = study.spec.demo() if demo else study.spec.quick() if quick else study.spec
        spec = budget.with_options(trials=trials, epochs=epochs, rounds=rounds)
        operations.check_name(spec)
        study.data.check(spec)  # before a database is created for nothing
        plan.append(operations.Planned(spec=spec, data=study.data))
    specs = [planned.spec for planned in plan]
    engine = context.engine(create=True)
    new = operations.create(engine, plan, skip=True, accept=accept_changes)
    update_notes(engine, [spec.name for spec, created in zip(specs, new, strict=True) if created])
    for spec in specs:
        _print_budget(spec, small=demo or quick)
    names = [spec.name for spec in specs]
    done = all(studies.get_study(engine, name).phase == "done" for name in names)
    count = 0 if done else workers or local.workers_here()
    places = [place for place in dict.fromkeys(p.data.locator for p in plan) if place is not None]
    crew = local.LocalWorkers(
        count,
        url=context.url_to_pass,
        data_dir=context.data_dir,
        studies=names,
        experiments=places,
        logs=out / "logs",
        options=context.log_options,
    )
    caught = _watch(engine, names, crew)
    if caught:
        print_message("stopped: the same command continues from here")
        raise SystemExit(128 + caught[0])
    write_report(context, engine, out, form, names, places)
    raise SystemExit(0 if _complete(engine, names, crew) else 1)


def _asked(context: Context, experiment: str | None, models: Sequence[str], paths: Sequence[Path]) -> "list[Requested]":
    """The studies of `--model` and `--file`, each once; without either, all models of the experiment, or built in."""
    from hpo.errors import UsageError

    named = models or (() if paths else ("all",))
    wanted: list[tuple[str | None, Path | None]] = [
        *((model, None) for model in named),
        *((None, path) for path in paths),
    ]
    distinct: dict[str, Requested] = {}
    for model, path in wanted:
        for study in context.requests.studies(experiment=experiment, model=model, path=path):
            if distinct.setdefault(study.spec.name, study).spec != study.spec:
                raise UsageError(f"two studies are called {study.spec.name}; give one of them another name in its file")
    return list(distinct.values())


def _print_budget(spec: "StudySpec", *, small: bool) -> None:
    note = "; a small budget: enough to see how it works, too small for conclusions" if small else ""
    p = spec.protocol
    confirm = f"confirm {p.confirm_configurations} + {spec.reference_label} x {p.confirm_rounds} rounds, "
    searched = f"{trials_text(spec)}, {confirm}" if spec.parsed_space.parameters else f"{trials_text(spec)}, "
    print_message(f"{spec.name}: {searched}final {p.final_rounds} rounds{note}")


@contextmanager
def _caught_signals(wake: threading.Event) -> Iterator[list[int]]:
    """Collect the signals that ask for the end, instead of being ended by them; each sets `wake`."""
    caught: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        wake.set()

    before = {number: signal.signal(number, on_signal) for number in signals.stopping()}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(engine: "Engine", names: Sequence[str], crew: "LocalWorkers") -> list[int]:
    """Run the workers until they end and show progress; returns the signals that stopped them."""
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description:<16}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TextColumn("{task.fields[note]}"),
    )
    wake = threading.Event()
    # The signals first, so that every worker that is started will be stopped.
    with _caught_signals(wake) as caught, bars.Progress(*columns, console=console(err=True)) as progress:
        tasks = {name: progress.add_task(name, total=None, note="") for name in names}
        try:
            crew.start()
            killed: set[Path] = set()
            while not caught:
                running = crew.running()
                for log, code in crew.failures():
                    if code == -signal.SIGKILL and log not in killed:
                        killed.add(log)
                        progress.console.print(_end_of_worker(log, code), markup=False, highlight=False)
                _show(progress, tasks, engine)
                if not running:
                    break
                wake.wait(POLL_SECONDS)
            if caught:
                progress.console.print("stopping: the workers finish their epoch and give their trials back")
        finally:
            crew.stop(hurry=lambda: sum(number != signal.SIGHUP for number in caught) > 1)
        return caught


def _show(progress: "Progress", tasks: "dict[str, TaskID]", engine: "Engine") -> None:
    """Bring the bars up to date; while the database is unreachable they show that, and the workers wait for it."""
    from hpo.errors import DatabaseUnreachable
    from hpo.storage import studies

    for name, task in tasks.items():
        try:
            row = studies.get_study(engine, name)
            counts = studies.counts(engine, row.id)
        except DatabaseUnreachable:
            progress.update(task, note="the database does not answer")
            continue
        total = sum(one.total for one in counts.values())
        done = total - sum(one.open for one in counts.values())
        parts = [f"{kind} {c.total - c.open}/{c.total}" for kind, c in counts.items() if c.total]
        note = f"{row.phase}{' (paused)' if row.paused else ''}: {', '.join(parts)}"
        progress.update(task, completed=done, total=total or None, note=note)


def _end_of_worker(log: Path, code: int) -> str:
    """How a worker ended that failed."""
    from hpo import machine
    from hpo.launch.local import WORKER_BYTES

    if code == -signal.SIGKILL:
        free = machine.free_memory()
        there = "" if free is None else f", {free >> 20} MB are free"
        return (
            f"a worker was killed, perhaps for memory: each needs about {WORKER_BYTES >> 20} MB{there}; --workers N "
            f"starts fewer; its log is {log}"
        )
    lines = log.read_text(errors="replace").split("\n")
    last = next((line for line in reversed(lines) if line.strip()), "")
    ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return f"a worker {ended}: {last}; its log is {log}"


def _complete(engine: "Engine", names: Sequence[str], crew: "LocalWorkers") -> bool:
    """Whether every study is done and every worker ended well; reports what did not."""
    from hpo.storage import studies

    failures = crew.failures()
    for log, code in failures:
        print_message(_end_of_worker(log, code))
    phases = {name: studies.get_study(engine, name).phase for name in names}
    for name, phase in phases.items():
        if phase != "done":
            print_message(
                f"study {name} is not done but in phase {phase}; `hpo study show {name}` shows what is missing"
            )
    return not failures and all(phase == "done" for phase in phases.values())
