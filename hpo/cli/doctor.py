"""`hpo doctor`: versions, device, database, data; what is missing and the command that fixes it."""

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
    """Something that hpo needs is missing; the message has the command that fixes it, in backticks."""


@click.command()
@format_option
@pass_context
def doctor(context: Context, form: str) -> None:
    """Check everything that hpo needs.

    Versions, device, database, data: exit code 1 where something is missing, with the command that fixes it.

    \b
    Example:
      hpo doctor
    """
    checks: dict[str, Callable[[], str]] = {
        "versions": _versions,
        "device": _device,
        "kernels": _kernels,
        "database": lambda: _database(context),
        "data": lambda: _data(context),
    }
    results = [_run(name, check) for name, check in checks.items()]
    if form == "json":
        print_json(results)
    else:
        for result in results:  # not a table: a command must not be cut in two
            click.echo(f"{'ok ' if result['ok'] else 'BAD'}  {result['name']}: {result['message']}")
    if not all(result["ok"] for result in results):
        raise SystemExit(1)


def _run(name: str, check: Callable[[], str]) -> dict[str, Any]:
    """The result of a check; `fix` is the command that its message names."""
    try:
        return {"name": name, "ok": True, "message": check(), "fix": None}
    except (HpoError, ImportError) as error:
        commands = _COMMAND.findall(str(error))
        return {"name": name, "ok": False, "message": str(error), "fix": commands[-1] if commands else None}


def _versions() -> str:
    """Every package that hpo requires, against the bounds that it was installed with."""
    from importlib import metadata

    from packaging.requirements import Requirement

    installed = [f"hpo {hpo.__version__}"]
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
        fix = f"`pip install '{needed.name}{needed.specifier}'`"
        try:
            version = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            raise Missing(f"{needed.name} is not installed; {fix}") from None
        if not needed.specifier.contains(version, prereleases=True):
            raise Missing(f"{needed.name} {version} is installed, hpo needs {needed.specifier}; {fix}")
        installed.append(f"{needed.name} {version}")
    return ", ".join(installed)


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


def _kernels() -> str:
    """Not having some is no fault: training is slower."""
    import torch

    from hpo.training.kernels import selection

    devices = ["cuda", "cpu"] if torch.cuda.is_available() else ["cpu"]
    return "; ".join(f"{device}: {selection.state(torch.device(device))}" for device in devices)


def _database(context: Context) -> str:
    from hpo.storage import studies
    from hpo.storage.engine import display_url, is_missing

    engine = context.connect()
    if is_missing(engine):
        return f"{display_url(engine)}: does not exist yet, the first `hpo study create` creates it"
    engine = context.engine()
    return f"{display_url(engine)}: {len(studies.list_studies(engine))} studies"


def _data(context: Context) -> str:
    digits = context.digits
    return f"{digits.source}; digest {digits.digest[:12]}"
