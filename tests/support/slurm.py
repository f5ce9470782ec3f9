"""A real Slurm of one node on loopback: munge, slurmctld and slurmd with folders and ports of their own."""

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.commandline import wait_until

_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])  # where daemons lie, not in everybody's PATH
PROGRAMS = {name: shutil.which(name, path=_PATH) for name in ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")}
needs_slurm = pytest.mark.skipif(
    None in PROGRAMS.values(), reason="Slurm is not installed (Debian: apt-get install slurm-wlm munge)"
)

# cred_expire: what is requeued waits for so long, lest a node still run it.
_SETTINGS = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=5,batch_sched_delay=1
SlurmdParameters=config_overrides
ReturnToService=2
SlurmctldPort={controller}
SlurmdPort={node}
PreemptMode=REQUEUE
PreemptType=preempt/partition_prio
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=1 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


class Slurm:
    """A cluster of one node with one core; what runs in partition `low` makes room for what runs in `high`."""

    def __init__(self, configuration: Path) -> None:
        self.environment = {"SLURM_CONF": str(configuration)}

    def __call__(self, *words: str) -> str:
        """Run one of Slurm's commands; returns what it printed."""
        environment = {**os.environ, **self.environment}
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout

    def task(self, job: str) -> dict[str, str]:
        """What `scontrol show job` says of an array's only task."""
        shown = self("scontrol", "show", "job", f"{job}_0", "--oneliner").split()
        return dict(word.split("=", 1) for word in shown if "=" in word)


@contextmanager
def single_node() -> Iterator[Slurm]:
    """A cluster for as long as the block lasts."""
    host = socket.gethostname().partition(".")[0]
    with tempfile.TemporaryDirectory(prefix="hpo-slurm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for below in ("state", "spool"):
            (folder / below).mkdir()
        controller, node = _free_ports(2)
        configuration = folder / "slurm.conf"
        configuration.write_text(
            _SETTINGS.format(host=host, folder=folder, user=getpass.getuser(), controller=controller, node=node)
        )
        key = folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o400)
        with contextlib.ExitStack() as daemons:
            munge = [f"--{name}={folder}/munge.{end}" for name, end in _MUNGE.items()]
            daemons.enter_context(_daemon(folder / "munged.log", "munged", "--foreground", "--force", *munge))
            wait_until((folder / "munge.socket").exists)
            slurm = Slurm(configuration)
            for program, *options in (("slurmctld", "-c"), ("slurmd",)):
                words = [program, "-D", "-f", str(configuration), *options]
                daemons.enter_context(_daemon(folder / f"{program}.out", *words))
            wait_until(lambda: _is_up(slurm))
            try:
                yield slurm
            finally:
                with contextlib.suppress(subprocess.CalledProcessError):
                    slurm("scancel", "--user", getpass.getuser())
                    _wait_for_an_empty_queue(slurm)


_MUNGE = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}


@contextmanager
def _daemon(log: Path, program: str, *options: str) -> Iterator[None]:
    path = PROGRAMS[program]
    assert path is not None
    with log.open("wb") as out:
        process = subprocess.Popen([path, *options], stdout=out, stderr=out, start_new_session=True)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_up(slurm: Slurm) -> bool:
    try:
        return slurm("sinfo", "--noheader", "--format=%T", "--partition=low").strip() == "idle"
    except subprocess.CalledProcessError:
        return False  # nobody answers yet


def _wait_for_an_empty_queue(slurm: Slurm) -> None:
    wait_until(lambda: not slurm("squeue", "--noheader").strip())


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for unused in sockets:
        unused.bind(("127.0.0.1", 0))
    ports = [unused.getsockname()[1] for unused in sockets]
    for unused in sockets:
        unused.close()
    return ports
