"""`hpo doctor`: versions, device, database, data; what is missing and the command that mends it."""

from collections.abc import Callable

import click

from hpo.cli.context import Context, format_option, pass_context, print_json


@click.command()
@format_option
@pass_context
def doctor(context: Context, form: str) -> None:
    """Look at everything that hpo needs; exit code 1 where something is missing.

    \b
    Example:
      hpo doctor
    """
    checks = [
        _check("versions", _versions, "make .venv, or pip install 'hpo'"),
        _check("device", _device, "install a torch build for this machine"),
        _check("database", lambda: _database(context), "hpo db upgrade"),
        _check("data", lambda: context.digits.source, "hpo data fetch FOLDER"),
    ]
    if form == "json":
        print_json(checks)
    else:
        for one in checks:
            click.echo(f"{'ok ' if one['ok'] else 'BAD'}  {one['name']}: {one['says']}")
            if not one["ok"]:
                click.echo(f"     mend it with: {one['mend']}")
    if not all(one["ok"] for one in checks):
        raise SystemExit(1)


def _check(name: str, look: Callable[[], str], mend: str) -> dict[str, str | bool]:
    from hpo.errors import HpoError

    try:
        return {"name": name, "ok": True, "says": look(), "mend": ""}
    except (HpoError, ImportError) as error:
        return {"name": name, "ok": False, "says": str(error), "mend": mend}


def _versions() -> str:
    from hpo.job import versions

    return ", ".join(f"{name} {version}" for name, version in versions().items())


def _device() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"cpu, {torch.get_num_threads()} threads (no CUDA device)"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _database(context: Context) -> str:
    from hpo.storage import studies
    from hpo.storage.engine import display_url

    engine = context.engine()
    return f"{display_url(engine)}, {len(studies.list_studies(engine))} studies"
