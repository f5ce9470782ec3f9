"""`hpo workers`: which workers live, and asking them to end."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hpo.cli.context import Context, format_option, pass_context, print_json, print_message, print_table

if TYPE_CHECKING:
    from hpo.results.progress import WorkerProgress


@click.group()
def workers() -> None:
    """List the workers of this database; ask them to end.

    \b
    Example:
      hpo workers list
      hpo workers stop --all
    """


@workers.command(name="list")
@click.option("--all", "everyone", is_flag=True, help="Those that left in the last day too, and why.")
@format_option
@pass_context
def list_(context: Context, everyone: bool, form: str) -> None:
    """List the workers that live.

    What each trains, its trials in the last hour, and when it has last shown that it lives: with the renewals of its
    leases, while it holds none about once a minute.

    \b
    Example:
      hpo workers list --all
      hpo workers list --format json
    """
    from hpo.report.terminal_fleet import worker_table
    from hpo.results.progress import overview

    seen = overview(context.engine())
    chosen = [progress for progress in seen.workers if everyone or progress.state == "alive"]
    if form == "json":
        print_json([_described(progress) for progress in chosen])
    else:
        print_table(worker_table(chosen, seen.now))


@workers.command()
@click.argument("name", required=False)
@click.option("--all", "everyone", is_flag=True, help="All that live.")
@pass_context
def stop(context: Context, name: str | None, everyone: bool) -> None:
    """Ask workers to end, as SIGTERM does.

    NAME is a worker's name or its beginning, where no other begins so. A worker sees it when it renews its leases
    (every 15 seconds unless --lease is another), while idle within two minutes: what it trains is checkpointed
    and given back, others go on with it. Whoever may write to the database may ask.

    \b
    Example:
      hpo workers stop gpu-7:
      hpo workers stop --all
    """
    from hpo.errors import UsageError
    from hpo.storage import workers as table

    if (name is None) is not everyone:
        raise UsageError("give the name of one worker, or --all; `hpo workers list` shows them")
    engine = context.engine()
    names = [worker.name for worker in table.list_workers(engine, alive=True)]
    asked = table.request_stop(engine, names if name is None else [table.living_worker(engine, name).name])
    for each in asked:
        print_message(f"worker {each}: asked to stop")
    if not asked:
        print_message("no worker lives: there is nothing to stop")


def _described(progress: "WorkerProgress") -> dict[str, Any]:
    """A worker as plain types."""
    return {
        **asdict(progress.worker),
        "study_names": list(progress.worker.study_names),
        "state": progress.state,
        "models": [model._asdict() for model in progress.models],
        "running": [asdict(training) for training in progress.running],
        "trials_per_hour": progress.trials_per_hour,
    }
