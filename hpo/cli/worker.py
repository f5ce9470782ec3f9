"""`hpo worker` and `hpo evaluate`."""

import os
import sys

import click

from hpo.cli.context import Context, pass_context, say


def _lanes(ctx: click.Context, parameter: click.Parameter, value: str) -> int | None:
    if value == "auto":
        return None
    if value.isdecimal() and int(value) >= 1:
        return int(value)
    raise click.BadParameter(f"{value!r} is neither auto nor a number of lanes from 1 on")


@click.command()
@click.option("--study", "names", multiple=True, help="Serve this study alone; may be repeated. [default: all]")
@click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--population", default="auto", callback=_lanes, help="Trials trained in lockstep: a number, or auto (measured)."
)
@click.option("--drain", is_flag=True, help="End when nothing is left to do, finals included.")
@click.option("--max-trials", type=click.IntRange(min=1), help="End after so many trials.")
@click.option("--threads", type=click.IntRange(min=1), default=1, help="CPU threads; one worker a core is faster.")
@click.option(
    "--lease",
    type=click.FloatRange(min=1),
    default=60.0,
    help="Seconds until a silent worker's slots go to others.",
)
@click.option(
    "--artifacts",
    metavar="DIR|s3://BUCKET",
    envvar="HPO_ARTIFACTS",
    show_envvar=True,
    help="Where checkpoints lie, for workers to go on from each other's. [default: beside a SQLite file]",
)
@click.option(
    "--checkpoint",
    type=click.FloatRange(min=0),
    default=60.0,
    help="Seconds between two checkpoints of what is in work.",
)
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
) -> None:
    """Pull trials and train them until stopped.

    SIGTERM and Ctrl-C end it at the next training step: unfinished trials are checkpointed and given back, and go on
    from there. A second one ends it at once.

    \b
    Example:
      hpo worker --drain
      hpo --db postgresql+psycopg://hpo@db/hpo worker --device cuda --population 64
    """
    from hpo.storage import studies

    engine = context.engine()
    for name in names:
        studies.get_study(engine, name)  # a slip is told before the slow imports
    digits = context.digits

    import torch

    from hpo.training.memory import keep_freed_memory
    from hpo.worker.worker import Options, Worker

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
    one = Worker(engine, digits, options, say)
    one.listen()
    say(f"worker {one.name}: {one.device}; Ctrl-C ends it")
    code = one.run()
    say(f"{one.trials} trial(s) in {one.seconds:.0f} s, {one.training_seconds / one.seconds:.0%} of it training")
    if code:  # threads may still wait for a database or a bucket, and an orderly end would break them off inside of C++
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
