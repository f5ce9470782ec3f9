"""`hpo launch kubernetes`: the container's command and probes as real processes, a real kubectl without a cluster."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.commandline import Hpo, Said, finish, wait_until

IMAGE = ("--image", "registry.example/hpo:cpu")
needs_kubectl = pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")


def container(hpo: Hpo, heartbeat: Path, *words: str) -> dict[str, Any]:
    """The container that is printed, its heartbeat in a folder of this test."""
    printed = hpo("launch", "kubernetes", *IMAGE, *words).stdout.replace("/tmp/heartbeat", str(heartbeat))
    (only,) = json.loads(printed)["spec"]["template"]["spec"]["containers"]
    return dict(only)


def succeeds(probe: dict[str, Any]) -> bool:
    """Whether a probe's command ends with 0, as the kubelet asks."""
    return subprocess.run(probe["exec"]["command"]).returncode == 0


def test_the_probes_tell_a_worker_that_lives(hpo: Hpo) -> None:
    """They hold once it has begun, though there is nothing to train; a file of long ago is no sign of life."""
    hpo.create(trials=1)
    hpo("study", "pause", "ws")
    heartbeat = hpo.folder / "heartbeat"
    printed = container(hpo, heartbeat, "--lasting", "--", "--device", "cpu", "--lease", "1")
    started, lives = printed["startupProbe"], printed["livenessProbe"]
    assert not succeeds(started)
    worker = hpo.start(*printed["args"])
    said = Said(worker)
    wait_until(lambda: succeeds(started))
    assert succeeds(lives)
    wait_until(lambda: said.count("Ctrl-C ends it"))  # it has come to wait for work
    long_ago = heartbeat.stat().st_mtime - 3600
    os.utime(heartbeat, (long_ago, long_ago))
    wait_until(lambda: succeeds(lives))  # it touches the file again
    os.kill(worker.pid, signal.SIGSTOP)
    os.utime(heartbeat, (long_ago, long_ago))
    assert not succeeds(lives)
    os.kill(worker.pid, signal.SIGCONT)
    worker.terminate()  # as the kubelet does first
    finish(worker, 143)


def test_a_jobs_worker_ends_with_0(hpo: Hpo) -> None:
    """So its index is complete, and nobody starts it again."""
    hpo.create(trials=1, confirm_rounds=1, rounds=1)
    printed = container(hpo, hpo.folder / "heartbeat", "--", "--drain", "--device", "cpu")
    finish(hpo.start(*printed["args"]))
    assert hpo.show()["phase"] == "done"


def test_a_heartbeat_that_cannot_be_written_is_one_line(hpo: Hpo) -> None:
    """Before anything is claimed."""
    hpo.create(trials=1)
    assert "nowhere" in hpo.refused("worker", "--drain", "--heartbeat", "nowhere/heartbeat")


@needs_kubectl
def test_without_a_cluster_it_is_one_line(hpo: Hpo, monkeypatch: pytest.MonkeyPatch) -> None:
    """As kubectl puts it."""
    cluster = {"cluster": {"server": "http://127.0.0.1:1"}, "name": "none"}
    context = {"context": {"cluster": "none", "user": "none"}, "name": "none"}
    (hpo.folder / "config").write_text(
        json.dumps({"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context]})
    )
    monkeypatch.setenv("KUBECONFIG", str(hpo.folder / "config"))
    said = hpo("launch", "kubernetes", *IMAGE, "--artifacts", "s3://bucket", "--submit", code=1).stderr
    *_, line = said.splitlines()
    assert line.startswith("hpo: kubectl get secret hpo-database --output=name: ")
    assert "Traceback" not in said
