"""What goes on, for the terminal: workers, studies with how far they are, what needs attention."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from hpo.report.formats import NOTHING, Scale, duration, model_title, time
from hpo.report.formats import rate as per_hour
from hpo.report.terminal import add_numbers, add_words, plain_table
from hpo.results.progress import Attention, Overview, PhaseProgress, StudyProgress, WorkerProgress
from hpo.text import visible

MOST_NOTES = 10  # lines about what needs attention: those with workers that left may be many
BAR_WIDTH = 8  # columns of a phase's bar
WIDE, WIDER = 110, 130  # columns from which on there is room for models and intervals, and for bars


def overview_page(overview: Overview, *, width: int, bars: bool) -> RenderableType:
    """`hpo top`: all of it, what needs attention first."""
    alive = sum(progress.state == "alive" for progress in overview.workers)
    trials = sum(study.trials_per_hour for study in overview.studies)
    head = Text.assemble(
        ("hpo top", "bold"),
        f"  {time(overview.now, 'seconds')}, {_counted(len(overview.studies), 'study', 'studies')}, "
        f"{_counted(alive, 'worker', 'workers')}, {per_hour(trials)} trials an hour",
    )
    parts: list[RenderableType] = [head, ""]
    if overview.attention:
        parts += [*(_attention_line(note) for note in overview.attention[:MOST_NOTES]), ""]
    if (more := len(overview.attention) - MOST_NOTES) > 0:
        parts[-1:] = [Text(f"  and {more} more that need attention", style="dim"), ""]
    if not overview.studies:
        parts.append(Text("There are no studies yet; `hpo study create` makes one, `hpo run` does everything."))
    else:
        parts.append(progress_table(overview.studies, overview.now, wide=width >= WIDE, bars=bars and width >= WIDER))
    living = [progress for progress in overview.workers if progress.state == "alive"]
    if living:
        parts += ["", worker_table(living, overview.now)]
    return Group(*parts)


def progress_table(studies: Sequence[StudyProgress], at: float, *, wide: bool = True, bars: bool = False) -> Table:
    """A line for each study: those that go on first, those that are done last."""
    table = plain_table(None)
    add_words(table, "study", *(("model",) if wide else ()), "phase")
    for column in table.columns:
        column.min_width = 8  # numbers would leave them a letter
    for kind in ("search", "confirm", "final"):
        table.add_column(kind, justify="left" if bars else "right", no_wrap=True)
    add_numbers(table, "best", "trials/h", "ends in")
    for study in sorted(studies, key=lambda study: (study.phase == "done", bool(study.states))):
        best = None if study.best is None else study.best.value
        table.add_row(
            escape(study.name),
            *((escape(model_title(study.experiment, study.model)),) if wide else ()),
            escape(study.phase + "".join(f" ({state})" for state in study.states[:1])),
            *(_bar(phase) if bars else _share(phase, failures=wide) for phase in study.phases),
            NOTHING if study.metric is None else Scale(study.metric).value(best, 2),
            per_hour(study.trials_per_hour) if study.phase != "done" else NOTHING,
            _end(study, at, interval=wide),
        )
    return table


def worker_table(workers: Iterable[WorkerProgress], at: float) -> RenderableType:
    """`hpo workers list`: a line for each worker; of those that are gone why."""
    table = plain_table(None)
    add_words(table, "worker", "device", "state", "trains")
    add_numbers(table, "lanes", "trials/h", "seen", "version")
    for progress in workers:
        worker = progress.worker
        table.add_row(
            escape(worker.name),
            escape(worker.device),
            escape(_state(progress)),
            escape(", ".join(model_title(*model) for model in progress.models)) or NOTHING,
            f"{len(progress.running)}/{NOTHING if worker.lanes is None else worker.lanes}",
            per_hour(progress.trials_per_hour),
            f"{duration(at - worker.seen_at)} ago",
            escape(worker.version),
        )
    return table if table.row_count else Text("No worker lives; `hpo worker` starts one here.")


def _state(progress: WorkerProgress) -> str:
    if progress.state == "alive":
        return "asked to stop" if progress.worker.stop_requested else "alive"
    return progress.state if progress.state == "lost" else f"left: {visible(progress.worker.left_why or '')}"


def _attention_line(note: Attention) -> Text:
    line = Text.assemble(("! ", "bold red"), (f"{note.about} {note.name} ", "bold"), f"{note.what}: ")
    return line.append(f"`{note.command}`", style="yellow")


def _bar(phase: PhaseProgress) -> Table:
    """A bar, and beside it the numbers."""
    row = Table.grid(padding=(0, 1))
    row.add_column(width=BAR_WIDTH)
    row.add_column(justify="right", no_wrap=True)
    ended = phase.total - phase.open
    bar = ProgressBar(
        total=max(phase.total, 1),
        completed=ended,
        width=BAR_WIDTH,
        complete_style="cyan",
        finished_style="green",
    )
    row.add_row(bar, _share(phase, failures=True))
    return row


def _share(phase: PhaseProgress, *, failures: bool) -> str:
    failed = f" ({phase.failed} failed)" if phase.failed and failures else ""
    return f"{phase.total - phase.open}/{phase.total}{failed}" if phase.total else NOTHING


def _end(study: StudyProgress, at: float, *, interval: bool) -> str:
    if study.end is None:
        return NOTHING
    if not interval:
        return duration(study.end.expected - at)
    earliest, latest = study.end.earliest - at, study.end.latest - at
    return f"{duration(study.end.expected - at)} [{duration(earliest)}, {duration(latest)}]"


def _counted(count: int, singular: str, plural: str) -> str:
    return f"{count} {singular if count == 1 else plural}"
