"""How far studies are, where their `hpo run` was started: bars in a terminal, a table in a notebook.

Messages and bars go to stderr, so that stdout holds data alone.
"""

import html
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

from hpo.api.console import console

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@dataclass(frozen=True, kw_only=True)
class StudyBar:
    """How far a study is, for a bar."""

    name: str
    done: int = 0  # trainings
    total: int = 0  # that are known of by now; 0: not known
    note: str = ""


class ShowsProgress(Protocol):
    """What shows progress between its `__enter__` and its `__exit__`, and messages at any time."""

    def __enter__(self) -> Self:
        """Begin to show progress."""

    def __exit__(self, *exception: object) -> None:
        """What is shown stays."""

    def message(self, text: str) -> None:
        """Show a line for people."""

    def show(self, studies: Sequence[StudyBar]) -> None:
        """Bring what is shown up to date."""


def where_it_runs() -> ShowsProgress:
    """A notebook's progress in a notebook, else bars."""
    ipython: Any = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython else None
    return NotebookTable(shell.display_pub) if hasattr(shell, "kernel") else Bars()


class Bars:
    """A bar a study, on stderr."""

    def __init__(self) -> None:
        self._console = console(err=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        from rich import progress

        self._tasks = {}
        self._bars = progress.Progress(
            progress.TextColumn("{task.description:<16}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("{task.fields[note]}"),
            console=self._console,
        )
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def message(self, text: str) -> None:
        """A line above the bars."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, studies: Sequence[StudyBar]) -> None:
        """Move the bars."""
        if self._bars is None:
            return
        for study in studies:
            if study.name not in self._tasks:
                self._tasks[study.name] = self._bars.add_task(study.name, total=None, note="")
            total = study.total or None
            self._bars.update(self._tasks[study.name], completed=study.done, total=total, note=study.note)


class NotebookTable:
    """Messages and a row a study, in one output of a notebook's cell that changes in place."""

    def __init__(self, publisher: Any) -> None:
        """`publisher` is IPython's, of what a cell displays."""
        self._publisher = publisher
        self._messages: list[str] = []
        self._studies: Sequence[StudyBar] = ()
        self._display = f"hpo-progress-{id(self)}"
        self._shown = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """What stands there stays."""

    def message(self, text: str) -> None:
        """A line above the table."""
        self._messages.append(text)
        self._publish()

    def show(self, studies: Sequence[StudyBar]) -> None:
        """Change the rows."""
        self._studies = studies
        self._publish()

    def _publish(self) -> None:
        """Send what is there by now, if it has changed."""
        rows = "".join(
            f'<tr><td style="text-align:left">{html.escape(study.name)}</td>'
            f'<td><progress value="{study.done}" max="{max(study.total, 1)}"></progress></td>'
            f"<td>{study.done}/{study.total or '?'}</td>"
            f'<td style="text-align:left">{html.escape(study.note)}</td></tr>'
            for study in self._studies
        )
        page = "".join(f"<div>{html.escape(text)}</div>" for text in self._messages) + f"<table>{rows}</table>"
        lines = [f"{study.name}: {study.done}/{study.total or '?'} {study.note}".rstrip() for study in self._studies]
        if page == self._shown:
            return
        self._publisher.publish(
            {"text/html": page, "text/plain": "\n".join([*self._messages, *lines])},
            transient={"display_id": self._display},
            update=bool(self._shown),
        )
        self._shown = page
