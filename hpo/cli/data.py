"""`hpo data`: where the digits come from."""

import dataclasses
from pathlib import Path

import click

from hpo.cli.context import Context, format_option, pass_context, print_json, say


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
    """Fetch MNIST's four files with their checksums; started again it goes on where it was.

    FOLDER is --data's folder if left out.

    \b
    Example:
      hpo data fetch mnist
      hpo --data mnist data info
    """
    from hpo import mnist
    from hpo.errors import UsageError

    target = folder or context.data_dir
    if target is None:
        raise UsageError("where to? `hpo data fetch FOLDER`, or set --data or HPO_DATA_DIR")
    mnist.fetch(target, **({"base_url": url} if url else {}))
    say(f"MNIST is in {target}; use it with `hpo --data {target} ...` or HPO_DATA_DIR={target}")


@data.command()
@format_option
@pass_context
def info(context: Context, form: str) -> None:
    """Say which digits are used: source, pools, digest.

    \b
    Example:
      hpo data info --format json
    """
    from hpo import digits

    found = digits.info(context.data_dir)
    if form == "json":
        print_json(dataclasses.asdict(found))
        return
    for name, value in dataclasses.asdict(found).items():
        click.echo(f"{name.replace('_', ' ')}: {value}")
