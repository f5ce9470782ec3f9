"""The face behind which launchers stand: what is asked of an engine, and what every launcher can do with it."""

import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hpo.errors import HpoError


class LaunchFailed(HpoError):
    """An engine did not take the workers: what is missing, or what it answered, and what to do."""


@dataclass(frozen=True, kw_only=True)
class WorkerRequest:
    """Workers to host: how many, their command, and each one's share of a machine."""

    name: str  # of the job and all that belongs to it: a DNS label
    count: int  # of workers; by ssh: on each host
    arguments: Sequence[str]  # of the command line after `hpo`: `worker` with its options
    folder: Path  # where they run, as far as machines share it: relative paths in `arguments` are meant from there
    environment: Mapping[str, str] = field(default_factory=dict)  # variables that anybody may see
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)  # on no command line, in nothing shown
    lasting: bool = False  # they end when they are stopped; else by themselves, with exit code 0
    cpus: int = 1  # a worker
    gpus: float = 0  # a worker
    memory_mib: int | None = None  # a worker; None: the engine's default
    lease_seconds: float = 60.0  # a worker shows that it lives four times as often


class Launcher(Protocol):
    """Hands workers over to an engine, which only hosts them: all state stays in the database."""

    def render(self, request: WorkerRequest) -> str:
        """What `submit` hands over, to be read; no secret stands in it."""

    def submit(self, request: WorkerRequest) -> str:
        """Hand it over; returns in a sentence what was and how to stop it. Raises LaunchFailed."""


def exports(variables: Mapping[str, str]) -> list[str]:
    """Lines of a shell script that set these variables."""
    return [f"export {name}={shlex.quote(value)}" for name, value in variables.items()]


def call(words: Sequence[str], text: str, *, needed: str, environment: Mapping[str, str] | None = None) -> str:
    """Run a program with this text on its stdin; returns its stdout.

    `needed` is what to do where the program is missing. Raises LaunchFailed with the program's last line.
    """
    try:
        done = subprocess.run(words, input=text, capture_output=True, text=True, env=environment)
    except FileNotFoundError:
        raise LaunchFailed(f"{words[0]} is not installed here: {needed}") from None
    except OSError as error:
        raise LaunchFailed(f"{words[0]}: {error.strerror}: {needed}") from error
    if done.returncode:
        lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
        reason = next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {done.returncode}")
        raise LaunchFailed(f"{shlex.join(words)}: {reason}")
    return done.stdout
