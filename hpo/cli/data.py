"""`hpo data`: where the digits come from."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpo.cli.context import Context, console, format_option, pass_context, print_json, print_table, say

if TYPE_CHECKING:
    from hpo.digits.download import Progress


@click.group()
def data() -> None:
    """Look at the digits, or fetch all of MNIST.

    \b
    Example:
      hpo data info
    """


@data.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@click.option("--url", help="Fetch from this mirror instead.")
@pass_context
def fetch(context: Context, folder: Path | None, url: str | None) -> None:
    """Fetch MNIST's four files.

    Their checksums are checked; started again, it goes on where it was. FOLDER is --data's folder if left out.

    \b
    Example:
      hpo data fetch mnist
      hpo --data mnist data info
    """
    from hpo.digits import download
    from hpo.errors import UsageError

    target = folder or context.data_dir
    if target is None:
        raise UsageError("where to? `hpo data fetch FOLDER`, or set --data or HPO_DATA_DIR")
    with _progress() as progress:
        fetched = download.fetch(target, url, progress=progress)
    for one in fetched:
        come = f"{one.transferred:,} of its {one.size:,} bytes fetched" if one.transferred else "was there"
        say(f"{one.path}: {come}, checksum right")
    say(f"MNIST is in {target}; use it with `hpo --data {target} ...` or HPO_DATA_DIR={target}")


@contextmanager
def _progress() -> Iterator["Progress"]:
    """A bar a file on stderr."""
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
    """Say which digits are used: source, pools, digest.

    \b
    Example:
      hpo data info --format json
    """
    from hpo.digits.load import info as info_of

    found = info_of(context.data_dir)
    if form == "json":
        print_json({**dataclasses.asdict(found), "images": found.images})
        return
    from rich.table import Table

    table = Table(title=f"{found.source}; digest {found.digest[:12]}", title_justify="left")
    for name in ("pool", "images", *"0123456789"):
        table.add_column(name, justify="left" if name == "pool" else "right")
    pools = {"A: tuning and training": found.pool_a, "B: final test alone": found.pool_b}
    for name, by_digit in pools.items():
        table.add_row(name, str(sum(by_digit)), *map(str, by_digit))
    print_table(table)
