"""`hpo launch ray` on a real cluster of several nodes on loopback, one of which dies."""

import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from hpo.storage.engine import open_engine
from hpo.storage.slots import Slot
from hpo.storage.workers import list_workers
from tests.support.commandline import Hpo, finish, wait_until
from tests.support.exact import check_exact
from tests.support.launched import in_training, pid_of
from tests.support.ray_nodes import LOOPBACK, RayNodes, autoscaled, die, needs_ray

pytestmark = [needs_ray, pytest.mark.long]

STUDY = {"trials": 4, "epochs": 60, "sampler": "random", "pruner": "none", "confirm_rounds": 1, "rounds": 2}
WHEREVER = ("127.0.0.1", 0)  # a port that is free
WORKER = ("--drain", "--device", "cpu", "--population", "1", "--checkpoint", "0", "--lease", "5")
CORES = """
import logging, ray, sys
ray.init(sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
print(ray.cluster_resources().get("CPU", 0))
"""
ACTORS = """
import json, logging, ray, sys
ray.init(sys.argv[1], logging_level=logging.ERROR, log_to_driver=False)
print(json.dumps(sorted(actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True))))
"""


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LOOPBACK.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def nodes(loopback: None) -> Iterator[RayNodes]:
    running = RayNodes()
    yield running
    running.close()


def actors(hpo: Hpo, address: str) -> list[str]:
    """The names of those that live, or are to live again."""
    out, _ = finish(hpo.start_python("-c", ACTORS, address))
    names: list[str] = json.loads(out.splitlines()[-1])
    return names


def cores(hpo: Hpo, address: str) -> float | None:
    """Of all nodes together; None while nobody answers."""
    asking = hpo.start_python("-c", CORES, address)
    out, _ = asking.communicate()
    return None if asking.returncode else float(out.splitlines()[-1])


def trained_below(hpo: Hpo, root: psutil.Process) -> Slot | None:
    """The slot that a worker of this node trains, once it has some epochs done."""
    pids = {process.pid for process in root.children(recursive=True)}
    return next((slot for slot in in_training(hpo.url, 1) if pid_of(slot) in pids), None)


def test_the_study_ends_exactly_though_a_node_dies(hpo_on_postgres: Hpo, nodes: RayNodes) -> None:
    """Ray starts the worker on another node, where its trial goes on from its checkpoint; in the end no actor lives."""
    hpo = hpo_on_postgres
    hpo.create(**STUDY)
    dying, living = nodes.add(), nodes.add()
    words = ("launch", "ray", "--address", nodes.address, "--count", "2", "--submit")
    for _ in range(2):  # the second time they live already
        _, err = finish(hpo.start(*words, "--", *WORKER))
        assert "2 actor(s) in namespace hpo, hpo-0 to hpo-1" in err
    held = wait_until(lambda: trained_below(hpo, dying))
    wait_until(lambda: trained_below(hpo, living))
    assert actors(hpo, nodes.address) == ["hpo-0", "hpo-1"]
    die(dying)
    nodes.add()
    wait_until(lambda: hpo.show()["phase"] == "done")
    wait_until(lambda: not actors(hpo, nodes.address))
    search = check_exact(hpo.url, "ws", search=4, confirm=2, rounds=2)["search"]
    again = search[held.idx]
    assert again.outcome is not None
    assert (again.trial_id, again.attempt) == (held.trial_id, 2)
    assert again.outcome.resumed_at[0] >= 1
    assert all(slot.attempt == 1 for slot in search if slot.idx != held.idx)
    engine = open_engine(hpo.url)
    left = [one.left_why for one in list_workers(engine)]
    engine.dispose()
    assert left.count("its work was done") == 2
    assert left.count(None) == 1, "the one that died"


def test_the_autoscaler_adds_a_node_and_takes_it_away(hpo_on_postgres: Hpo, loopback: None) -> None:
    """While an actor waits for a place, and when its worker has ended: a cloud costs nothing then."""
    hpo = hpo_on_postgres
    hpo.create(trials=2, confirm_rounds=1, rounds=1)
    with autoscaled(1) as address:
        wait_until(lambda: cores(hpo, address) == 0)
        words = ("launch", "ray", "--address", address, "--submit", "--", *WORKER)
        finish(hpo.start(*words))
        wait_until(lambda: cores(hpo, address) == 1)
        wait_until(lambda: hpo.show()["phase"] == "done")
        wait_until(lambda: cores(hpo, address) == 0)
        assert actors(hpo, address) == []
    check_exact(hpo.url, "ws", search=2, confirm=2, rounds=1)


@pytest.mark.parametrize("host", ["127.0.0.2", "127.0.0.1", "localhost", "[::1]"])
@pytest.mark.parametrize("port", [1, 70000])
def test_without_a_cluster_it_is_one_line(hpo_on_postgres: Hpo, host: str, port: int) -> None:
    """Nobody listens at the address, or can."""
    hpo_on_postgres.create(trials=1)
    _, err = finish(hpo_on_postgres.start("launch", "ray", "--address", f"{host}:{port}", "--submit"), 1)
    *_, line = err.splitlines()
    assert line.startswith(f"hpo: Ray's cluster at {host}:{port} cannot be reached: ")
    assert "Traceback" not in err


def test_another_server_at_the_address(hpo_on_postgres: Hpo, loopback: None) -> None:
    """One that speaks HTTP, as Ray's own dashboard does, and one that accepts connections and says nothing."""
    hpo_on_postgres.create(trials=1)
    with ThreadingHTTPServer(WHEREVER, BaseHTTPRequestHandler) as web, socket.create_server(WHEREVER) as silent:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        for port, why in ((web.server_port, "is no Ray cluster"), (silent.getsockname()[1], "timed out")):
            address = f"127.0.0.1:{port}"
            _, err = finish(hpo_on_postgres.start("launch", "ray", "--address", address, "--submit"), 1)
            *_, line = err.splitlines()
            assert line.startswith(f"hpo: Ray's cluster at {address} cannot be reached: ")
            assert why in line
        web.shutdown()
