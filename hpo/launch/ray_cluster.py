"""Ray: an actor a worker. Ray starts it again where its node dies, and its autoscaler adds nodes while actors wait."""

import json
import logging
import os
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpo.launch.launcher import LaunchFailed, WorkerRequest

NAMESPACE = "hpo"  # of the actors' names
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
KNOCK_SECONDS = 10.0  # for a cluster to accept a connection, and to answer
# RFC 9113, 3.4 and 4.1: a client greets with a text and its settings, a server answers with its own settings
HTTP2_SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # a frame of none: length, type 4, flags, stream
HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP2_SETTINGS


class WorkerActor:
    """A worker as a process on the node where Ray has put this actor; when the worker ends, the actor does.

    The worker's output is the actor's, which Ray keeps. Where the actor is killed the worker's stdin ends, and with it
    the worker, in order.
    """

    def __init__(self, arguments: Sequence[str], folder: str, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "hpo", *arguments, "--stop-with-stdin"],
            cwd=folder if Path(folder).is_dir() else None,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,  # never written to
        )
        threading.Thread(target=self._end_with_worker, daemon=True).start()

    def _end_with_worker(self) -> None:
        """One that ended by itself is done; one that was killed is started again, as Ray does with dead actors."""
        import ray

        if self._process.wait() < 0:
            os._exit(1)
        ray.kill(ray.get_runtime_context().current_actor, no_restart=True)


@dataclass(frozen=True, kw_only=True)
class RayLauncher:
    """Detached actors, which outlive this process."""

    address: str  # of the cluster; auto: the one that this machine belongs to

    def render(self, request: WorkerRequest) -> str:
        """The actors' names, options, command and environment."""
        actors = {
            "cluster": self.address,
            "namespace": NAMESPACE,
            "actors": names_of(request),
            "options": options_of(request),
            "command": shlex.join(["python", "-m", "hpo", *request.arguments]),
            "folder": str(request.folder),
            "environment": {**self._environment(request), **dict.fromkeys(request.secrets, "...")},
        }
        return json.dumps(actors, indent=2) + "\n"

    def submit(self, request: WorkerRequest) -> str:
        """Make the actors that do not live yet."""
        try:
            import ray
        except ImportError:
            raise LaunchFailed(
                "ray is not installed here; `pip install 'hpo-service[ray]'`, here and on the cluster's nodes"
            ) from None
        try:
            _knock(self.address, ray.util.get_node_ip_address)
            ray.init(self.address, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, OverflowError, RuntimeError) as error:
            raise LaunchFailed(
                f"Ray's cluster at {self.address} cannot be reached: {str(error).splitlines()[0]}; start one "
                "(`ray start --head`) or name another with --address"
            ) from error
        try:
            actor: Any = ray.remote(WorkerActor)
            environment = {**self._environment(request), **request.secrets}
            for name in names_of(request):
                actor.options(name=name, get_if_exists=True, lifetime="detached", **options_of(request)).remote(
                    list(request.arguments), str(request.folder), environment
                )
        finally:
            ray.shutdown()
        first, *_, last = [*names_of(request), names_of(request)[-1]]
        return f"{request.count} actor(s) in namespace {NAMESPACE}, {first} to {last}; `ray.kill` stops each"

    def _environment(self, request: WorkerRequest) -> dict[str, str]:
        return {"OMP_NUM_THREADS": "1", **request.environment}


def _knock(address: str, here: Callable[[], str]) -> None:
    """OSError where nobody listens, or what listens is no gRPC server: Ray itself finds that out in minutes.

    By a loopback address Ray means this machine's in its network, which `here` returns.
    """
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "/" not in host:
        host = here() if host in LOOPBACK else host.strip("[]")
        with socket.create_connection((host, int(port)), KNOCK_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                connection.sendall(HTTP2_GREETING)
                answer = connection.recv(len(HTTP2_SETTINGS), socket.MSG_WAITALL)
                if answer[3:4] != HTTP2_SETTINGS[3:4]:
                    raise ConnectionError(f"what listens at {host}:{port} is no Ray cluster")


def names_of(request: WorkerRequest) -> list[str]:
    """The actors' names."""
    return [f"{request.name}-{number}" for number in range(request.count)]


def options_of(request: WorkerRequest) -> dict[str, Any]:
    """What Ray is told of each actor: its share of a node, and that it is to live on elsewhere."""
    memory = {"memory": request.memory_mib << 20} if request.memory_mib else {}
    return {"num_cpus": request.cpus, "num_gpus": request.gpus, **memory, "max_restarts": -1}
