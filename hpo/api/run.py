"""Everything on this machine, from an empty database to the report: what `hpo run` and `hpo.run` both do."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

from hpo.api.progress import ShowsProgress, StudyBar
from hpo.api.report import WrittenReport, write_report
from hpo.api.sources import Sources
from hpo.errors import UsageError
from hpo.worker import signals

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.launch.local import LocalWorkers
    from hpo.study.operations import Planned
    from hpo.study.requests import Requested
    from hpo.study.spec import StudySpec

POLL_SECONDS = 1.0
BudgetSize = Literal["full", "quick", "demo"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What is to be run, and how."""

    experiment: str | None = None  # its locator; None: the one that ships
    models: Sequence[str] = ()  # none: all, where no files are given either
    files: Sequence[Path] = ()  # of studies
    trials: int | None = None  # these three: None for what the study says
    epochs: int | None = None
    rounds: int | None = None
    budget: BudgetSize = "full"
    workers: int | None = None  # None: as many as suit this machine
    out: Path = Path("report")
    accept_changes: bool = False
    log_options: Sequence[str] = ()  # global options of the workers


@dataclass(frozen=True, kw_only=True)
class RunEnd:
    """How it ended."""

    caught: int | None  # the signal that stopped it
    written: WrittenReport | None  # None where it was stopped
    problems: Sequence[str] = ()  # what is not done, which workers failed: a sentence each


def run(sources: Sources, options: RunOptions, progress: ShowsProgress) -> RunEnd:
    """Create what is missing, run workers until all is done or a signal comes, and write the report.

    Raises HpoError where it cannot be done as it is asked for, before a database is made.
    """
    from hpo.launch import local
    from hpo.server.notes import update_notes
    from hpo.storage import studies
    from hpo.study import operations

    plan = _planned(sources, options)
    specs = [planned.spec for planned in plan]
    engine = sources.engine(create=True)
    new = operations.create(engine, plan, skip=True, accept=options.accept_changes)
    update_notes(engine, [spec.name for spec, created in zip(specs, new, strict=True) if created])
    for spec in specs:
        progress.message(_budget(spec, small=options.budget != "full"))
    names = [spec.name for spec in specs]
    done = all(studies.get_study(engine, name).phase == "done" for name in names)
    locators = [place for place in dict.fromkeys(p.data.locator for p in plan) if place is not None]
    crew = local.LocalWorkers(
        0 if done else options.workers or local.workers_here(),
        url=sources.url_to_pass,
        data_dir=sources.data_dir,
        studies=names,
        experiments=locators,
        logs=options.out / "logs",
        options=options.log_options,
    )
    if caught := _watch(engine, names, crew, progress):
        return RunEnd(caught=caught[0], written=None)
    written = write_report(sources, engine, options.out, names, locators)
    return RunEnd(caught=None, written=written, problems=_problems(engine, names, crew))


def _planned(sources: Sources, options: RunOptions) -> "list[Planned]":
    """The studies with their budgets, checked before a database is created for nothing."""
    from hpo.study import operations

    plan = []
    for study in _asked(sources, options):
        sizes = {"full": lambda spec: spec, "quick": lambda spec: spec.quick(), "demo": lambda spec: spec.demo()}
        spec = sizes[options.budget](study.spec)
        spec = spec.with_options(trials=options.trials, epochs=options.epochs, rounds=options.rounds)
        operations.check_name(spec)
        study.data.check(spec)
        plan.append(operations.Planned(spec=spec, data=study.data))
    return plan


def _asked(sources: Sources, options: RunOptions) -> "list[Requested]":
    """The studies of models and files, each once; without either, all models of the experiment, or built in."""
    named = options.models or (() if options.files else ("all",))
    wanted: list[tuple[str | None, Path | None]] = [
        *((model, None) for model in named),
        *((None, path) for path in options.files),
    ]
    distinct: dict[str, Requested] = {}
    for model, path in wanted:
        for study in sources.requests.studies(experiment=options.experiment, model=model, path=path):
            if distinct.setdefault(study.spec.name, study).spec != study.spec:
                raise UsageError(f"two studies are called {study.spec.name}; give one of them another name in its file")
    return list(distinct.values())


def trials_text(spec: "StudySpec") -> str:
    """How much a study searches, for people; epochs where its trainings are known to have them."""
    if not spec.parsed_space.parameters:
        return "nothing to search"
    epochs = f" of {spec.budget.epochs} epochs" if spec.goes_by_epochs else ""
    return f"{spec.budget.trials} trials{epochs}"


def _budget(spec: "StudySpec", *, small: bool) -> str:
    note = "; a small budget: enough to see how it works, too small for conclusions" if small else ""
    p = spec.protocol
    confirm = f"confirm {p.confirm_configurations} + {spec.reference_label} x {p.confirm_rounds} rounds, "
    searched = f"{trials_text(spec)}, {confirm}" if spec.parsed_space.parameters else f"{trials_text(spec)}, "
    return f"{spec.name}: {searched}final {p.final_rounds} rounds{note}"


# --- While the workers run ----------------------------------------------------------------------------------


@contextmanager
def _caught_signals(wake: threading.Event) -> Iterator[list[int]]:
    """Collect the signals that ask for the end, instead of being ended by them; each sets `wake`.

    Beside the main thread no signal comes, and none is collected.
    """
    caught: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        caught.append(number)
        wake.set()

    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, on_signal) for number in signals.stopping() if is_main}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(engine: "Engine", names: Sequence[str], crew: "LocalWorkers", progress: ShowsProgress) -> list[int]:
    """Run the workers until they end and show progress; returns the signals that stopped them."""
    wake = threading.Event()
    # The signals first, so that every worker that is started will be stopped.
    with _caught_signals(wake) as caught, progress:
        shown = [StudyBar(name=name) for name in names]
        try:
            progress.show(shown)
            crew.start()
            killed: set[Path] = set()
            while not caught:
                running = crew.running()
                for log, code in crew.failures():
                    if code == -signal.SIGKILL and log not in killed:
                        killed.add(log)
                        progress.message(_end_of_worker(log, code))
                shown = [_progress(study, engine) for study in shown]
                progress.show(shown)
                if not running:
                    break
                wake.wait(POLL_SECONDS)
            if caught:
                progress.message("stopping: the workers finish their epoch and give their trials back")
        finally:
            crew.stop(hurry=lambda: sum(number != signal.SIGHUP for number in caught) > 1)
        return caught


def _progress(before: StudyBar, engine: "Engine") -> StudyBar:
    """How far a study is; while the database is unreachable that is said, and the workers wait for it."""
    from hpo.errors import DatabaseUnreachable
    from hpo.storage import studies

    try:
        row = studies.get_study(engine, before.name)
        counts = studies.counts(engine, row.id)
    except DatabaseUnreachable:
        note = "the database does not answer"
        return StudyBar(name=before.name, done=before.done, total=before.total, note=note)
    total = sum(count.total for count in counts.values())
    done = total - sum(count.open for count in counts.values())
    parts = [f"{kind} {c.total - c.open}/{c.total}" for kind, c in counts.items() if c.total]
    note = f"{row.phase}{' (paused)' if row.paused else ''}: {', '.join(parts)}"
    return StudyBar(name=before.name, done=done, total=total, note=note)


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


def _problems(engine: "Engine", names: Sequence[str], crew: "LocalWorkers") -> list[str]:
    """What is not as it should be: workers that ended badly, studies that are not done."""
    from hpo.storage import studies

    phases = {name: studies.get_study(engine, name).phase for name in names}
    return [
        *(_end_of_worker(log, code) for log, code in crew.failures()),
        *(
            f"study {name} is not done but in phase {phase}; `hpo study show {name}` shows what is missing"
            for name, phase in phases.items()
            if phase != "done"
        ),
    ]
