"""`hpo data`: which digits are used, and downloading MNIST."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.context import Context, console, format_option, pass_context, print_json, print_message, print_table

if TYPE_CHECKING:
    from hpo.digits.download import Progress


@click.group()
def data() -> None:
    """Inspect the digits, or fetch all of MNIST.

    \b
    Example:
      hpo data info
    """


@data.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--url", help="Fetch from this mirror instead of the public ones.")
@pass_context
def fetch(context: Context, folder: Path | None, url: str | None) -> None:
    """Fetch MNIST's four files.

    Their checksums are verified; an interrupted download is resumed. FOLDER defaults to --data's folder.

    \b
    Example:
      hpo data fetch mnist
      hpo --data mnist data info
    """
    from hpo.digits import download, load
    from hpo.errors import UsageError

    target = folder or context.data_dir
    if target is None:
        raise UsageError("no folder given: use `hpo data fetch FOLDER`, or set --data or HPO_DATA_DIR")
    with _progress() as progress:
        fetched = download.fetch(target, url, progress=progress)
    for file in fetched:
        transfer = f"{file.transferred:,} of {file.size:,} bytes fetched" if file.transferred else "already there"
        print_message(f"{file.path}: {transfer}, checksum correct")
    load.load(target)  # other files that lie there may be in the way
    print_message(f"MNIST is in {target}; use it with `hpo --data {target} ...` or HPO_DATA_DIR={target}")


@contextmanager
def _progress() -> Iterator["Progress"]:
    """Show a progress bar per file on stderr."""
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TransferSpeedColumn(),
    )
    with progress.Progress(*columns, console=console(err=True)) as bars:
        tasks: dict[str, progress.TaskID] = {}

        def show(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=None)
            bars.update(tasks[name], completed=done, total=total)

        yield show


@data.command()
@format_option
@pass_context
def info(context: Context, form: str) -> None:
    """Show which digits are used: source, pools, digest.

    \b
    Example:
      hpo data info --format json
    """
    from hpo.digits import load

    digits = load.info(context.data_dir)
    if form == "json":
        print_json({**dataclasses.asdict(digits), "images": digits.images})
        return
    from rich.table import Table

    table = Table(title=f"{digits.source}; digest {digits.digest[:12]}", title_justify="left")
    for name in ("pool", "images", *"0123456789"):
        table.add_column(name, justify="left" if name == "pool" else "right")
    pools = {"A: tuning and training": digits.pool_a, "B: final test only": digits.pool_b}
    for name, by_digit in pools.items():
        table.add_row(name, str(sum(by_digit)), *map(str, by_digit))
    print_table(table)
