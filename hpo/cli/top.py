"""`hpo top`: what goes on, live."""

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import click

from hpo.api.console import console
from hpo.cli.context import Context, FiniteRange, pass_context, print_message
from hpo.study import limits

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from sqlalchemy import Engine

INTERVAL = 3.0  # seconds


@click.command()
@click.option("--once", is_flag=True, help="Print it once and end.")
@click.option("--interval", type=FiniteRange(0.2, limits.SECONDS), default=INTERVAL, help="Seconds between two looks.")
@pass_context
def top(context: Context, once: bool, interval: float) -> None:
    """Watch studies and workers, live.

    On top what needs attention, with the command that mends it; then the studies with the trainings of each phase, the
    best value so far, trainings an hour and when each will be done (with an interval of 90%); then the workers.
    Ctrl-C ends it. Where stdout is no terminal, what is seen is printed anew each time.

    \b
    Example:
      hpo top
      hpo top --once
      hpo top --interval 60 >> fleet.log
    """
    engine, screen = context.engine(), console()
    if once:
        screen.print(_page(engine, screen))
        return
    with suppress(KeyboardInterrupt):  # how it is meant to end
        _Watch(engine, screen, interval).run()


def _page(engine: "Engine", screen: "Console") -> "RenderableType":
    from hpo.report.terminal_fleet import overview_page
    from hpo.results.progress import overview

    return overview_page(overview(engine), width=screen.width, bars=screen.is_terminal)


class _Watch:
    """Looks again and again; a database that does not answer is waited for."""

    def __init__(self, engine: "Engine", screen: "Console", interval: float) -> None:
        self._engine, self._screen, self._interval = engine, screen, interval
        self._page: RenderableType = ""
        self._away = ""  # why the database does not answer

    def run(self) -> None:
        """Look until interrupted."""
        from rich.live import Live

        if not self._screen.is_terminal:
            while True:
                if self._look():
                    self._screen.print(self._page, "")
                time.sleep(self._interval)
        with Live(console=self._screen, screen=True, auto_refresh=False) as live:
            while True:
                self._look()
                live.update(self._whole_page(), refresh=True)
                time.sleep(self._interval)

    def _look(self) -> bool:
        """Read it once more; False where the database does not answer, which is said once on stderr."""
        from hpo.errors import DatabaseUnreachable

        try:
            self._page = _page(self._engine, self._screen)
        except DatabaseUnreachable as error:
            if not self._away and not self._screen.is_terminal:
                print_message(f"hpo: {error}; waiting for it")
            self._away = str(error)
            return False
        self._away = ""
        return True

    def _whole_page(self) -> "RenderableType":
        """What was read last, below a line where that is old."""
        from rich.console import Group
        from rich.text import Text

        if not self._away:
            return self._page
        return Group(Text(f"{self._away}; waiting for it, what is below was seen before", style="bold red"), self._page)
