"""`hpo doctor`: versions, device, database, data; what is missing and the command that mends it."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import hpo
from hpo.cli.context import Context, format_option, pass_context, print_json
from hpo.errors import HpoError

DISTRIBUTION = "hpo-service"  # the name under which pip knows this package
_COMMAND = re.compile(r"`([^`]+)`")


class Missing(HpoError):
    """Something that hpo needs is not there; the message has the command that mends it in backticks."""


@click.command()
@format_option
@pass_context
def doctor(context: Context, form: str) -> None:
    """Look at all that hpo needs.

    Versions, device, database, data: exit code 1 where something is missing, with the command that mends it.

    \b
    Example:
      hpo doctor
    """
    looks: dict[str, Callable[[], str]] = {
        "versions": _versions,
        "device": _device,
        "database": lambda: _database(context),
        "data": lambda: _data(context),
    }
    checks = [_check(name, look) for name, look in looks.items()]
    if form == "json":
        print_json(checks)
    else:
        for one in checks:  # not a table: a command must not be cut in two
            click.echo(f"{'ok ' if one['ok'] else 'BAD'}  {one['name']}: {one['says']}")
    if not all(one["ok"] for one in checks):
        raise SystemExit(1)


def _check(name: str, look: Callable[[], str]) -> dict[str, Any]:
    """What a look found; `mend` is the command that its message names."""
    try:
        return {"name": name, "ok": True, "says": look(), "mend": None}
    except (HpoError, ImportError) as error:
        commands = _COMMAND.findall(str(error))
        return {"name": name, "ok": False, "says": str(error), "mend": commands[-1] if commands else None}


def _versions() -> str:
    """Every package that hpo requires, against the bounds that it was installed with."""
    from importlib import metadata

    from packaging.requirements import Requirement

    found = [f"hpo {hpo.__version__}"]
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        raise Missing(
            f"hpo {hpo.__version__} runs from its sources, so what it requires is not known; "
            "`pip install --editable .` in its folder"
        ) from None
    for line in requirements:
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        mend = f"`pip install '{needed.name}{needed.specifier}'`"
        try:
            there = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            raise Missing(f"{needed.name} is not installed; {mend}") from None
        if not needed.specifier.contains(there, prereleases=True):
            raise Missing(f"{needed.name} {there} is installed, hpo needs {needed.specifier}; {mend}")
        found.append(f"{needed.name} {there}")
    return ", ".join(found)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return ", ".join(f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count()))
    if Path("/proc/driver/nvidia/version").exists():
        raise Missing(
            f"torch {torch.__version__} cannot use this machine's NVIDIA GPU, so workers train on the CPU; "
            "`pip install --force-reinstall torch` with a build for its driver"
        )
    return f"cpu, {torch.get_num_threads()} threads (no CUDA device)"


def _database(context: Context) -> str:
    from hpo.storage import studies
    from hpo.storage.engine import display_url, is_missing

    engine = context.connect()
    if is_missing(engine):
        return f"{display_url(engine)}: not there yet, the first `hpo study create` makes it"
    engine = context.engine()
    return f"{display_url(engine)}: {len(studies.list_studies(engine))} studies"


def _data(context: Context) -> str:
    found = context.digits
    return f"{found.source}; digest {found.digest[:12]}"
