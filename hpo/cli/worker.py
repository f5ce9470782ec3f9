"""`hpo worker`."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.context import AutoOrCount, Context, FiniteRange, pass_context
from hpo.study import limits
from hpo.worker.options import CHECKPOINT_SECONDS, LEASE_SECONDS, Options

if TYPE_CHECKING:
    from hpo.experiment.description import Description

KERNELS = "HPO_KERNELS"  # also read by `hpo.training.kernels`, in every process that trains

logger = logging.getLogger(__name__)

IDLE_MINUTES = 5.0  # of `--scale-to-zero` alone
SIGNALLED = 128  # exit codes above it are a signal's number more, as shells have them


def _stop_at_the_end(descriptor: int, stop: Callable[[], None]) -> None:
    """Read a pipe until nobody can write to it any more, then stop: the system closes it whatever ends its writer."""
    while os.read(descriptor, 4096):
        pass
    logger.warning("the process that started this worker has ended, so it ends too")
    stop()


def described(locators: Sequence[str]) -> "tuple[list[Description], list[str]]":
    """The experiments at these places, and why others cannot be served; UsageError where two have the same name."""
    from hpo.errors import ExperimentError, UsageError
    from hpo.experiment.prepare import prepared

    descriptions: list[Description] = []
    refused: list[str] = []
    for locator in dict.fromkeys(locators):
        try:
            descriptions.append(prepared(locator))
        except ExperimentError as error:
            logger.error("%s; its studies are left to others", error)
            refused.append(str(error))
    for name in {description.name for description in descriptions}:
        places = [description.locator for description in descriptions if description.name == name]
        if len(places) > 1:
            raise UsageError(f"--experiment: {' and '.join(places)} are both called {name}; give one of them alone")
    return descriptions, refused


@click.command()
@click.option("--study", "names", multiple=True, help="Serve this study alone; may be repeated. [default: all]")
@click.option(
    "--experiment",
    "locators",
    metavar="FILE[:NAME]|MODULE:NAME",
    multiple=True,
    help="Serve the studies of this experiment too, with the code that is found there; may be repeated.",
)
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--population",
    default="auto",
    type=AutoOrCount(limits.LANES),
    help="Trials trained at once: a number, or auto (in lockstep: measured; by functions: one).",
)
@click.option("--drain", is_flag=True, help="End when nothing is left to do, final rounds included.")
@click.option(
    "--scale-to-zero",
    "idle_minutes",
    metavar="[MINUTES]",
    is_flag=False,
    flag_value=IDLE_MINUTES,
    type=FiniteRange(0, limits.SECONDS),
    help="End when nothing could be claimed for so long, whatever others train; without MINUTES five.",
)
@click.option("--max-trials", type=click.IntRange(1, limits.COUNT), help="End after so many trials.")
@click.option(
    "--threads", type=click.IntRange(1, limits.THREADS), default=1, help="CPU threads; one worker a core is faster."
)
@click.option(
    "--kernels",
    type=click.Choice(["auto", "off"]),
    default="auto",
    envvar=KERNELS,
    show_envvar=True,
    help="auto: hpo's own where the device and a layer's shapes have some; off: plain torch.",
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
@click.option(
    "--heartbeat",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Touch this file every quarter of a lease, for a probe to see that the worker lives.",
)
@click.option("--stop-with-stdin", is_flag=True, help="Stop when stdin ends: together with whoever started it.")
@pass_context
def worker(
    context: Context,
    names: tuple[str, ...],
    locators: tuple[str, ...],
    device: str,
    population: int | None,
    drain: bool,
    idle_minutes: float | None,
    max_trials: int | None,
    threads: int,
    kernels: str,
    lease: float,
    artifacts: str | None,
    checkpoint: float,
    heartbeat: Path | None,
    stop_with_stdin: bool,
) -> None:
    """Pull trials and train them until stopped.

    SIGTERM, Ctrl-C and the end of its terminal (but for nohup) end it at the next training step: unfinished trials
    are checkpointed and given back, and go on from there. A second SIGTERM or Ctrl-C ends it at once.
    A study that cannot go on is left alone and named, the others are served; the exit code is 1 then. Where `hpo db
    upgrade` runs meanwhile, it ends as on SIGTERM, with code 3.

    Functions of an experiment train in processes of their own. What they print is in files of the folder logs beside
    the checkpoints.

    \b
    Example:
      hpo worker --drain
      hpo worker --scale-to-zero 10
      hpo worker --experiment cancer.py --population 4
      hpo --db postgresql+psycopg://hpo@db/hpo worker --device cuda --population 64
    """
    from hpo.storage import studies

    engine = context.engine()
    for name in names:
        studies.get_study(engine, name)  # a misspelt name is refused before the slow imports
    if heartbeat is not None:
        heartbeat.touch()  # one that cannot be written is refused here
    descriptions, refused = described(locators)
    if not locators:
        _ = context.digits  # images that cannot be loaded are refused before the slow imports

    import torch

    os.environ[KERNELS] = kernels  # for the processes in which recipes train too
    from hpo.training.kernels import selection
    from hpo.training.memory import keep_freed_memory
    from hpo.worker.worker import Worker

    selection.switch(kernels != "off")
    keep_freed_memory()
    torch.set_num_threads(threads)
    options = Options(
        study_names=names,
        device=device,
        lanes=population,
        drain=drain,
        idle_minutes=idle_minutes,
        heartbeat=heartbeat,
        max_trials=max_trials,
        lease_seconds=lease,
        artifacts=artifacts,
        checkpoint_seconds=checkpoint,
        threads=threads,
        refused=refused,
    )
    running = Worker(engine, lambda: context.digits, options, descriptions)
    context.log(running.short_name)
    running.listen()
    if stop_with_stdin:
        threading.Thread(target=_stop_at_the_end, args=[0, running.stop], name="stdin", daemon=True).start()
    logger.info(
        "worker %s: %s, kernels: %s; Ctrl-C ends it", running.name, running.device, selection.state(running.device)
    )
    code = running.run()
    if running.is_interrupted:  # threads may still wait for a database or a bucket: an orderly end would break off C++
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)
