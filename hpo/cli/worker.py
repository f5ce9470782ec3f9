"""`hpo worker`."""

import logging
import os
import sys
import threading
from collections.abc import Callable

import click

from hpo.cli.context import AutoOrCount, Context, FiniteRange, pass_context
from hpo.study import limits
from hpo.worker.options import CHECKPOINT_SECONDS, LEASE_SECONDS, Options

logger = logging.getLogger(__name__)

SIGNALLED = 128  # exit codes above it are a signal's number more, as shells have them


def _stop_at_the_end(descriptor: int, stop: Callable[[], None]) -> None:
    """Read a pipe until nobody can write to it any more, then stop: the system closes it whatever ends its writer."""
    while os.read(descriptor, 4096):
        pass
    logger.warning("the process that started this worker has ended, so it ends too")
    stop()


@click.command()
@click.option("--study", "names", multiple=True, help="Serve this study alone; may be repeated. [default: all]")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--population",
    default="auto",
    type=AutoOrCount(limits.LANES),
    help="Trials trained in lockstep: a number, or auto (measured).",
)
@click.option("--drain", is_flag=True, help="End when nothing is left to do, final rounds included.")
@click.option("--max-trials", type=click.IntRange(1, limits.COUNT), help="End after so many trials.")
@click.option(
    "--threads", type=click.IntRange(1, limits.THREADS), default=1, help="CPU threads; one worker a core is faster."
)
@click.option(
    "--lease",
    type=FiniteRange(1, limits.SECONDS),
    default=LEASE_SECONDS,
    help="Seconds until a silent worker's slots go to others.",
)
@click.option(
    "--artifacts",
    metavar="DIR|s3://BUCKET",
    envvar="HPO_ARTIFACTS",
    show_envvar=True,
    help="Folder or bucket for checkpoints; workers of one database that share it resume each other's trials. "
    "[default: beside a SQLite file]",
)
@click.option(
    "--checkpoint",
    type=FiniteRange(0, limits.SECONDS),
    default=CHECKPOINT_SECONDS,
    help="Seconds at least between two checkpoints of what is in training.",
)
@click.option("--stop-with-stdin", is_flag=True, help="Stop when stdin ends: together with whoever started it.")
@pass_context
def worker(
    context: Context,
    names: tuple[str, ...],
    device: str,
    population: int | None,
    drain: bool,
    max_trials: int | None,
    threads: int,
    lease: float,
    artifacts: str | None,
    checkpoint: float,
    stop_with_stdin: bool,
) -> None:
    """Pull trials and train them until stopped.

    SIGTERM, Ctrl-C and the end of its terminal (but for nohup) end it at the next training step: unfinished trials
    are checkpointed and given back, and go on from there. A second SIGTERM or Ctrl-C ends it at once.
    A study that cannot go on is left alone and named, the others are served; the exit code is 1 then.

    \b
    Example:
      hpo worker --drain
      hpo --db postgresql+psycopg://hpo@db/hpo worker --device cuda --population 64
    """
    from hpo.storage import studies

    engine = context.engine()
    for name in names:
        studies.get_study(engine, name)  # a misspelt name is refused before the slow imports
    digits = context.digits

    import torch

    from hpo.training.memory import keep_freed_memory
    from hpo.worker.worker import Worker

    keep_freed_memory()
    torch.set_num_threads(threads)
    options = Options(
        study_names=names,
        device=device,
        lanes=population,
        drain=drain,
        max_trials=max_trials,
        lease_seconds=lease,
        artifacts=artifacts,
        checkpoint_seconds=checkpoint,
    )
    running = Worker(engine, digits, options)
    context.log(running.short_name)
    running.listen()
    if stop_with_stdin:
        threading.Thread(target=_stop_at_the_end, args=[0, running.stop], name="stdin", daemon=True).start()
    logger.info("worker %s: %s; Ctrl-C ends it", running.name, running.device)
    code = running.run()
    if code > SIGNALLED:  # threads may still wait for a database or a bucket: an orderly end would break off C++
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
