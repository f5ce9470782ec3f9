"""`hpo launch`: workers on an engine."""

import functools
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from hpo.cli.context import Context, FiniteRange, pass_context, print_message
from hpo.study import limits
from hpo.text import is_unicode

if TYPE_CHECKING:
    from hpo.launch.launcher import Launcher, WorkerRequest

Command = TypeVar("Command", bound=Callable[..., Any])

LABEL = re.compile(r"[a-z]([-a-z0-9]{0,48}[a-z0-9])?")  # a DNS label, with room for what engines append
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # a DNS label
RESOURCE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")  # a DNS subdomain
RESOURCE_LENGTH = 253  # characters, at most
IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]*")
VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=([^\0\r\n]*)", re.DOTALL)
GPUS = 64  # of a worker, at most
ENDS = ("drain", "idle_minutes", "max_trials")  # parameters of `hpo worker` with which it ends by itself


def _label(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not LABEL.fullmatch(value):
        raise click.BadParameter(f"{value!r} is none; write up to 50 small letters, digits and hyphens, a letter first")
    return value


def _variables(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    matches = [(value, VARIABLE.fullmatch(value)) for value in values]
    for value, match in matches:
        if match is None:
            raise click.BadParameter(f"{value!r} is not NAME=VALUE in one line")
    return {match[1]: match[2] for _, match in matches if match}


def _plain(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    """Text that goes into scripts and manifests is one line."""
    for given in value if isinstance(value, tuple) else [value]:
        text = str(given) if isinstance(given, Path) else given
        if isinstance(text, str) and (not text.isprintable() or not text.strip()):
            raise click.BadParameter(f"{text!r} is not a line of text")
    return value


def _namespace(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not NAMESPACE.fullmatch(value):
        raise click.BadParameter(f"{value!r} is none; Kubernetes allows up to 63 small letters, digits and hyphens")
    return value


def _resource(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """The name of something in a cluster of Kubernetes."""
    if value is not None and not (RESOURCE.fullmatch(value) and len(value) <= RESOURCE_LENGTH):
        raise click.BadParameter(
            f"{value!r} is no name there; Kubernetes allows small letters, digits, hyphens and single dots"
        )
    return value


def _image(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not IMAGE.fullmatch(value):
        raise click.BadParameter(f"{value!r} is no image; write it as registry.example/hpo:cuda")
    return value


def _program(context: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """A program and its options, as a shell would read them."""
    import shlex

    _plain(context, parameter, value)
    try:
        words = shlex.split(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no command line: {str(error).lower()}") from None
    if not words or not words[0]:
        raise click.BadParameter(f"{value!r} names no program")
    return tuple(words)


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """What is asked of every engine alike."""

    arguments: tuple[str, ...]  # of the workers
    count: int
    name: str
    lasting: bool
    cpus: int  # a worker
    memory: float | None  # GiB a worker
    artifacts: str | None
    variables: Mapping[str, str]  # of the environment, for all to see
    submit: bool


def launch_options(command: Command) -> Command:
    """The options of LaunchOptions, which the command is given as `asked`."""

    @functools.wraps(command)
    def gathered(*words: Any, **values: Any) -> Any:
        asked = LaunchOptions(**{field.name: values.pop(field.name) for field in fields(LaunchOptions)})
        return command(*words, asked=asked, **values)

    decorated: Any = gathered
    for decorate in reversed(
        [
            click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- WORKER OPTIONS]"),
            click.option("--submit", is_flag=True, help="Hand it over; without this it is printed."),
            click.option("--count", type=click.IntRange(1, limits.WORKERS), default=1, help="How many workers."),
            click.option("--name", default="hpo", callback=_label, help="Of the job, and of all that belongs to it."),
            click.option("--lasting", is_flag=True, help="They last until stopped. [default: --drain]"),
            click.option("--cpus", type=click.IntRange(1, limits.THREADS), default=1, help="CPU cores a worker."),
            click.option("--memory", type=FiniteRange(0.1, 1e6), help="GiB a worker. [default: the engine's]"),
            click.option(
                "--artifacts",
                metavar="DIR|s3://BUCKET",
                envvar="HPO_ARTIFACTS",
                show_envvar=True,
                callback=_plain,
                help="Folder or bucket for checkpoints that all machines share, to go on with each other's trials.",
            ),
            click.option(
                "--env",
                "variables",
                metavar="NAME=VALUE",
                multiple=True,
                callback=_variables,
                help="A variable of the workers' environment, for all to see; may be repeated.",
            ),
        ]
    ):
        decorated = decorate(decorated)
    return cast(Command, decorated)


whole_gpus = click.option("--gpus", type=click.IntRange(0, GPUS), default=0, help="GPUs a worker.")


@click.group()
def launch() -> None:
    """Start workers on Slurm, Kubernetes, Ray or by ssh.

    Each command prints what it would submit, and with --submit does. Options of the workers follow after `--`; those of
    `hpo worker` are possible. An engine only hosts workers: what they do is decided by the database.

    \b
    Example:
      hpo launch slurm --count 8 --gpus 1 -- --population 64
      hpo launch slurm --count 8 --gpus 1 --submit -- --population 64
    """


@launch.command()
@launch_options
@whole_gpus
@click.option("--time", "minutes", type=click.IntRange(5, limits.COUNT), help="Minutes until a task is requeued.")
@click.option("--partition", callback=_plain, help="Where the job is to run. [default: Slurm's]")
@click.option("--account", callback=_plain, help="Whom the job is charged to. [default: Slurm's]")
@click.option(
    "--option", "options", multiple=True, metavar="--NAME=VALUE", callback=_plain,
    help="One more of sbatch, such as --option=--constraint=a100; may be repeated.",
)  # fmt: skip
@click.option(
    "--logs",
    type=click.Path(path_type=Path),
    default=Path("logs"),
    callback=_plain,
    help="Folder for the workers' logs.",
)
@pass_context
def slurm(
    context: Context,
    gpus: int,
    minutes: int | None,
    partition: str | None,
    account: str | None,
    options: tuple[str, ...],
    logs: Path,
    asked: LaunchOptions,
) -> None:
    """Start workers as an array job of Slurm.

    A task that is pre-empted, or near its time limit, checkpoints what it trains and is requeued. Workers run in this
    folder and with this environment, which has the database's URL; the nodes must share both.

    \b
    Example:
      hpo launch slurm --count 8 --gpus 1 --time 240 --partition gpu --artifacts /shared/hpo --submit
    """
    from hpo.launch.slurm import SlurmLauncher

    for option in options:
        if not re.fullmatch(r"--[a-z][-a-z]*(=.+)?", option):
            raise click.BadParameter(f"{option!r} is not --NAME or --NAME=VALUE", param_hint="--option")
    secrets = _secrets(context) if context.url_file is None else {}  # the file's name is in the environment already
    request = _request(context, asked, gpus, secrets=secrets)
    _warn_of_reach(context)
    launcher = SlurmLauncher(
        logs=logs.absolute(), minutes=minutes, partition=partition, account=account, options=options
    )
    _launch(launcher, request, asked.submit)


@launch.command()
@launch_options
@whole_gpus
@click.option("--image", required=True, callback=_image, help="The workers' image: the Dockerfile's, pushed somewhere.")
@click.option(
    "--secret", default="hpo-database", callback=_resource, help="The secret whose key `url` holds the database's URL."
)
@click.option("--namespace", callback=_namespace, help="Where in the cluster. [default: kubectl's]")
@click.option(
    "--claim",
    callback=_resource,
    help="A PersistentVolumeClaim for checkpoints, ReadWriteMany where nodes are several.",
)
@click.option(
    "--env-secret",
    callback=_resource,
    help="A secret whose keys become environment variables, as a bucket's credentials.",
)
@pass_context
def kubernetes(
    context: Context,
    gpus: int,
    image: str,
    secret: str,
    namespace: str | None,
    claim: str | None,
    env_secret: str | None,
    asked: LaunchOptions,
) -> None:
    """Start workers as a Job or a Deployment of Kubernetes.

    A Deployment with --lasting, for a Job is over when its workers end. The workers read the database's URL from a
    secret, which is mounted as a file; what --db says here does not matter.

    \b
    Example:
      kubectl create secret generic hpo-database --from-file=url=FILE
      hpo launch kubernetes --count 8 --gpus 1 --image registry.example/hpo:cuda --claim checkpoints --submit
    """
    from hpo.launch.kubernetes import ARTIFACTS, KubernetesLauncher

    if asked.artifacts is not None and not asked.artifacts.startswith("s3://"):
        raise click.UsageError(
            f"--artifacts {asked.artifacts}: pods share no folder with this machine; name a bucket, or a --claim"
        )
    if claim is not None:
        if asked.artifacts is not None:
            raise click.UsageError("--artifacts and --claim are two places for the same; give one of them")
        asked = replace(asked, artifacts=ARTIFACTS)
    request = _request(context, asked, gpus, shares_files=False)
    print_message(f"the pods read the database's URL from the secret {secret} (its key `url`)")
    launcher = KubernetesLauncher(image=image, secret=secret, namespace=namespace, claim=claim, variables=env_secret)
    _launch(launcher, request, asked.submit)


@launch.command()
@launch_options
@click.option("--gpus", type=FiniteRange(0, GPUS), default=0.0, help="GPUs a worker; 0.25: four share one.")
@click.option("--address", default="auto", callback=_plain, help="Of the cluster; auto: this machine's.")
@pass_context
def ray(context: Context, address: str, gpus: float, asked: LaunchOptions) -> None:
    """Start workers as actors of a Ray cluster.

    Ray starts them again where their node dies and scales the cluster to what they ask for; they end when their work
    is done. Needs Ray (`pip install 'hpo-service[ray]'`), and hpo on its nodes.

    \b
    Example:
      hpo launch ray --count 8 --gpus 0.25 --artifacts s3://bucket/hpo --submit -- --device cuda
    """
    from hpo.launch.ray_cluster import RayLauncher

    if gpus > 1 and gpus % 1:
        raise click.BadParameter("a fraction, or a whole number", param_hint="--gpus")
    request = _request(context, asked, gpus, secrets=_secrets(context))
    _warn_of_reach(context)
    _launch(RayLauncher(address=address), request, asked.submit)


@launch.command()
@launch_options
@click.option("--gpus", type=FiniteRange(0, 1), default=0.0, help="GPUs a worker; 0.5: two share one. [default: all]")
@click.option("--host", "hosts", multiple=True, callback=_plain, help="Where to start workers; may be repeated.")
@click.option(
    "--hosts",
    "file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file with a host a line; # begins a comment.",
)
@click.option("--folder", callback=_plain, help="Where the workers run there. [default: this folder's path]")
@click.option(
    "--python", default=sys.executable, show_default="this one", callback=_plain, help="The Python there that has hpo."
)
@click.option("--logs", default="logs", callback=_plain, help="Folder there for logs, locks and process ids.")
@click.option("--ssh", "program", default="ssh", callback=_program, help="The program, with its options.")
@pass_context
def ssh(
    context: Context,
    gpus: float,
    hosts: tuple[str, ...],
    file: Path | None,
    folder: str | None,
    python: str,
    logs: str,
    program: tuple[str, ...],
    asked: LaunchOptions,
) -> None:
    """Start workers on plain machines, in the background.

    --count is for each host. Workers that run already are not started twice. The database's URL is sent over the
    connection and stands in no command line.

    \b
    Example:
      hpo launch ssh --host gpu1 --host gpu2 --count 4 --gpus 1 --submit -- --device cuda
    """
    from hpo.launch.ssh import SshLauncher

    listed = tuple(hosts) if file is None else (*hosts, *_hosts_in(file))
    if not listed:
        raise click.UsageError("on which machines? give --host NAME or --hosts FILE")
    for host in listed:
        if host.startswith("-") or " " in host or not host.isprintable():
            raise click.BadParameter(f"{host!r} is no host", param_hint="--host")
    request = _request(context, asked, gpus, secrets=_secrets(context), folder=folder)
    _refuse_what_hosts_cannot_reach(context, listed)
    launcher = SshLauncher(hosts=tuple(dict.fromkeys(listed)), python=python, logs=logs, ssh=program)
    _launch(launcher, request, asked.submit)


def _request(
    context: Context,
    asked: LaunchOptions,
    gpus: float,
    *,
    secrets: Mapping[str, str] | None = None,
    folder: str | None = None,
    shares_files: bool = True,
) -> "WorkerRequest":
    """What the options ask for; the workers' own are checked here, before they fail on every machine."""
    from hpo.cli.worker import worker
    from hpo.launch.launcher import WorkerRequest

    parsed = worker.make_context("hpo worker", list(asked.arguments)).params
    ends = any(parsed[parameter] for parameter in ENDS)
    if asked.lasting and ends:
        raise click.UsageError("--lasting is for workers without an end: leave it out, or what ends them after `--`")
    if parsed["stop_with_stdin"]:
        raise click.UsageError("--stop-with-stdin: an engine's workers have no stdin; leave it out")
    environment = dict(asked.variables)
    if (artifacts := asked.artifacts) is not None:
        is_here = folder is None and shares_files and not artifacts.startswith("s3://")
        environment["HPO_ARTIFACTS"] = os.path.abspath(artifacts) if is_here else artifacts
    elif parsed["artifacts"] is None:
        print_message(
            "without --artifacts each machine keeps its own checkpoints: what another worker takes over, it begins anew"
        )
    if context.data_dir is not None and shares_files:
        environment["HPO_DATA_DIR"] = str(context.data_dir.absolute())
    if asked.submit and shares_files:
        context.engine().dispose()  # one that is missing is refused here, and not on every machine
    is_logged_as_usual = (context.log_format, context.verbosity) == ("auto", 0)
    options = [] if is_logged_as_usual else context.log_options
    runs_in = Path(folder) if folder else Path.cwd()
    for text in (*asked.arguments, *environment.values(), str(runs_in)):
        if not is_unicode(text):
            raise click.UsageError(f"{text!r} is not UTF-8: scripts and manifests are; write it in UTF-8")
    return WorkerRequest(
        name=asked.name,
        count=asked.count,
        arguments=[*options, "worker", *([] if asked.lasting or ends else ["--drain"]), *asked.arguments],
        folder=runs_in,
        environment=environment,
        secrets=secrets or {},
        lasting=asked.lasting,
        cpus=asked.cpus,
        gpus=gpus,
        memory_mib=None if asked.memory is None else round(asked.memory * 1024),
        lease_seconds=parsed["lease"],
    )


def _secrets(context: Context) -> dict[str, str]:
    """What a worker needs to open the database, wherever it runs."""
    from hpo.storage import urls

    url = urls.parse(context.url)
    if url.drivername.startswith("sqlite"):
        url = url.set(database=os.path.abspath(str(url.database)))
    password = os.environ.get("PGPASSWORD")
    return {
        "HPO_DATABASE_URL": url.render_as_string(hide_password=False),
        **({"PGPASSWORD": password} if password else {}),
    }


def _warn_of_reach(context: Context) -> None:
    """Say where a database can be reached from this machine alone."""
    from hpo.storage import urls

    url = urls.parse(context.url)
    if url.drivername.startswith("sqlite"):
        print_message(
            f"{urls.shown(url)} is a file on this machine: workers elsewhere cannot use it, for SQLite loses data on "
            "network file systems; use PostgreSQL where they may run on other machines"
        )
    elif not url.host or url.host.startswith("/") or _is_here(url.host):
        print_message(f"{urls.shown(url)} names this machine itself; write the name by which others know its server")


def _refuse_what_hosts_cannot_reach(context: Context, hosts: tuple[str, ...]) -> None:
    """UsageError for a SQLite file that is not on the machine where a worker would run."""
    from hpo.storage import urls

    elsewhere = [host for host in hosts if not _is_here(host.rpartition("@")[2])]
    if not elsewhere:
        return
    url = urls.parse(context.url)
    if url.drivername.startswith("sqlite"):
        raise click.UsageError(
            f"{urls.shown(url)} is a file on this machine, which workers on {', '.join(elsewhere)} cannot use: SQLite "
            "loses data on network file systems; put the studies into PostgreSQL and name it with --db"
        )
    _warn_of_reach(context)


def _is_here(host: str) -> bool:
    """Whether a host's name is this machine's."""
    import socket

    return host in ("localhost", "::1", socket.gethostname()) or host.startswith("127.")


def _hosts_in(file: Path) -> list[str]:
    """The hosts that a file lists."""
    try:
        lines = file.read_text().splitlines()
    except UnicodeDecodeError:
        raise click.UsageError(f"--hosts {file}: not a text file; write a host a line") from None
    hosts = [host for line in lines if (host := line.partition("#")[0].strip())]
    if not hosts:
        raise click.UsageError(f"--hosts {file}: no host stands there; write one a line")
    return hosts


def _launch(launcher: "Launcher", request: "WorkerRequest", submit: bool) -> None:
    """Print what would be handed over, or hand it over."""
    if submit:
        print_message(launcher.submit(request))
    else:
        click.echo(launcher.render(request), nl=False)
