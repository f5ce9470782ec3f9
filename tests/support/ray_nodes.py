"""A real Ray cluster on loopback, of several nodes: those that a test adds, or those that Ray's autoscaler does."""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (pip install 'hpo-service[ray]')"
)

HEAD = "ray.head.default"  # as Ray's provider of such nodes calls the type of the head
STORE = 80 << 20  # bytes of a node's memory for objects, of which there are none
LOOPBACK = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing leaves this machine
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # as there, everybody uses loopback
}


class RayNodes:
    """A head without cores, and nodes of one core each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args={**self._asked(0), "include_dashboard": False})
        self.address: str = self._cluster.address

    def _asked(self, cores: int) -> dict[str, Any]:
        return {"num_cpus": cores, "node_ip_address": "127.0.0.1", "object_store_memory": STORE}

    def add(self) -> psutil.Process:
        """One more node; returns the process that is its root."""
        node = self._cluster.add_node(**self._asked(1))
        (raylet,) = node.all_processes["raylet"]
        return psutil.Process(raylet.process.pid)

    def close(self) -> None:
        self._cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray annotates little


def die(root: psutil.Process) -> None:
    """All processes of a node are gone at once, as when its power is."""
    processes = [root, *root.children(recursive=True)]
    for process in processes:
        process.suspend()  # none may react to the others' end
    for process in processes:
        process.kill()


@contextmanager
def autoscaled(most: int) -> Iterator[str]:
    """The address of a head without cores, whose autoscaler starts so many nodes of one core at most."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name, socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        unused.close()
        (Path(name) / "autoscaling.json").write_text(json.dumps(_autoscaling(address, most)))
        words = [
            *(str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=0"),
            *("--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}", "--include-dashboard=false"),
            *(f"--temp-dir={name}", f"--object-store-memory={STORE}", f"--autoscaling-config={name}/autoscaling.json"),
        ]
        environment = {**os.environ, **LOOPBACK, "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1"}
        head = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield address
        finally:
            for process in psutil.process_iter(["cmdline"]):
                # Nodes are nobody's children; the folder is in their words.
                if any(name in word for word in process.info["cmdline"] or ()):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        die(process)
            head.wait()


def _autoscaling(address: str, most: int) -> dict[str, Any]:
    """Ray's settings for nodes that are processes of this machine; all keys are asked for, though most are empty."""
    lists = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    node = {"resources": {"CPU": 1, "object_store_memory": STORE}, "node_config": {}, "min_workers": 0}
    return {
        "cluster_name": "lab",
        "max_workers": most,
        "idle_timeout_minutes": 0.05,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,  # they share an address
            "disable_node_updaters": True,  # there is no machine behind a node to log in to
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "node": {**node, "max_workers": most},
        },
        "head_node_type": HEAD,
        **{f"{name}_commands": [] for name in lists},
        **{name: {} for name in ("auth", "file_mounts", "docker")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }
