"""Plain machines by ssh: workers in the background on each host, each with a log, a lock and a file with its pid."""

import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hpo.launch.launcher import LaunchFailed, WorkerRequest, call, exports

AT_ONCE = 16  # hosts

# What a host does. A worker inherits its lock, which the system gives back whatever ends it: so none is started twice,
# and a pid that belongs to another process by now fools nobody. The end of the connection ends no worker (setsid).
_HEAD = """\
set -eu
cd {folder}
mkdir -p {logs}
command -v flock >/dev/null || {{ echo "flock is missing; install util-linux" >&2; exit 1; }}
{environment}
{python} -m hpo --version >/dev/null || {{ echo "no hpo for this Python; name another with --python" >&2; exit 1; }}
host=$(uname -n)"""
_START = """\
worker={logs}/{name}-$host-{number}
( if flock --nonblock 9; then
    {gpu}setsid nohup {command} >>"$worker.log" 2>&1 </dev/null &
    echo $! >"$worker.pid"
    echo started
  else
    echo running
  fi ) 9>>"$worker.lock"
"""


@dataclass(frozen=True, kw_only=True)
class SshLauncher:
    """Shell scripts, each on the stdin of `ssh HOST sh -s`: nothing secret stands in a command line."""

    hosts: tuple[str, ...]
    python: str  # there
    logs: str  # a folder there, relative to the request's
    ssh: tuple[str, ...] = ("ssh",)  # the program with its options

    def render(self, request: WorkerRequest) -> str:
        """What each host is given to run; a comment stands for the secrets."""
        hosts = "".join(f"#   {shlex.join([*self.ssh, host, 'sh', '-s'])}\n" for host in self.hosts)
        secret = "".join(f"# export {name}=...\n" for name in request.secrets)
        return f"# The stdin of:\n{hosts}{secret}{self._script(request, {})}"

    def submit(self, request: WorkerRequest) -> str:
        """Start the workers that do not run yet, on all hosts; where one fails the others are started all the same."""
        script = self._script(request, request.secrets)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(lambda host: self._start(host, script), self.hosts))
        failed = [str(answer) for answer in answers if isinstance(answer, LaunchFailed)]
        words = [word for answer in answers if isinstance(answer, str) for word in answer.split()]
        started = f"{words.count('started')} worker(s) started, {words.count('running')} ran already"
        if failed:
            raise LaunchFailed(f"{started}; {'; '.join(failed)}")
        return f"{started}; logs and process ids are in {request.folder / self.logs} there"

    def _start(self, host: str, script: str) -> str | LaunchFailed:
        words = [*self.ssh, "-o", "BatchMode=yes", host, "sh", "-s"]
        try:
            return call(words, script, needed="install OpenSSH's client")
        except LaunchFailed as error:
            return LaunchFailed(f"{host}: {error}")

    def _script(self, request: WorkerRequest, secrets: Mapping[str, str]) -> str:
        command = shlex.join([self.python, "-m", "hpo", *request.arguments])
        python, logs = shlex.quote(self.python), shlex.quote(self.logs)
        environment = exports({"OMP_NUM_THREADS": "1", **request.environment, **secrets})
        folder = shlex.quote(str(request.folder))
        lines = [_HEAD.format(folder=folder, logs=logs, python=python, environment="\n".join(environment))]
        for number in range(request.count):
            gpu = f"CUDA_VISIBLE_DEVICES={int(number * request.gpus)} " if request.gpus else ""
            lines.append(_START.format(logs=logs, name=request.name, number=number, gpu=gpu, command=command))
        return "\n".join(lines)
