"""Slurm: an array job, a worker a task. Slurm requeues what it pre-empts, the script what reaches its time limit."""

import os
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hpo.launch.launcher import WorkerRequest, call, exports

WARNING_SECONDS = 120  # before the time limit; a worker ends within 10, but Slurm may be a minute late

# Where Slurm pre-empts or cancels a job, it sends SIGTERM to the batch shell alone or to all processes: its plugins
# differ. Passed on as SIGTERM it could be a worker's second, which kills; SIGHUP after SIGTERM changes nothing.
_RUN = """\
{command} &
worker=$!
trap 'kill -HUP $worker' TERM  # pre-empted (Slurm requeues it) or cancelled
trap 'requeue=yes; kill -HUP $worker' USR1  # near the time limit
wait $worker; code=$?
while kill -0 $worker 2>/dev/null; do wait $worker; code=$?; done
if [ -n "$requeue" ] && [ $code -gt 128 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $code"""


@dataclass(frozen=True, kw_only=True)
class SlurmLauncher:
    """An array job by sbatch."""

    logs: Path  # a folder that the nodes share
    minutes: int | None = None  # time limit of a run; None: the partition's
    partition: str | None = None
    account: str | None = None
    options: tuple[str, ...] = ()  # more of sbatch's, each --NAME or --NAME=VALUE

    def render(self, request: WorkerRequest) -> str:
        """The batch script."""
        command = shlex.join([sys.executable, "-m", "hpo", *request.arguments])
        return "\n".join(
            [
                "#!/bin/bash",
                *(f"#SBATCH {directive}" for directive in self._directives(request)),
                "",
                "# The database's URL, or the name of the file that holds it, is in the environment of sbatch.",
                *exports({"OMP_NUM_THREADS": "1", **request.environment}),
                "requeue=",
                _RUN.format(command=command),
                "",
            ]
        )

    def _directives(self, request: WorkerRequest) -> Iterator[str]:
        yield f"--job-name={request.name}"
        yield f"--array=0-{request.count - 1}"
        yield "--requeue"
        yield f"--signal=B:USR1@{WARNING_SECONDS}"
        yield "--export=ALL"
        yield f"--output={shlex.quote(str(self.logs / f'{request.name}-%A_%a.log'))}"
        yield "--open-mode=append"  # a task that is requeued goes on in its log
        yield f"--cpus-per-task={request.cpus}"
        if request.gpus:
            yield f"--gres=gpu:{request.gpus:g}"
        if request.memory_mib:
            yield f"--mem={request.memory_mib}M"
        if self.minutes:
            yield f"--time={self.minutes}"
        if self.partition:
            yield f"--partition={shlex.quote(self.partition)}"
        if self.account:
            yield f"--account={shlex.quote(self.account)}"
        yield from self.options

    def submit(self, request: WorkerRequest) -> str:
        """Give the script to sbatch, on its stdin."""
        self.logs.mkdir(parents=True, exist_ok=True)  # without it Slurm drops what a task writes
        job = call(
            ["sbatch", "--parsable"],
            self.render(request),
            needed="submit where Slurm's commands are, on a login node; without --submit the script is printed",
            environment={**os.environ, **request.secrets},
        )
        number = job.strip().partition(";")[0]
        return f"job {number}: {request.count} task(s), logs in {self.logs}; `squeue -j {number}`, `scancel {number}`"
