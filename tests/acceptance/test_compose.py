"""docker-compose.yml: what it promises is checked always, and run for real where an engine can.

The real run builds the image, so it takes minutes; it needs an engine that answers and both base images
(`docker pull`, or tests/support/standin_images.sh where nothing can be pulled).
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import pytest
import yaml  # type: ignore[import-untyped]  # ships no types
from sqlalchemy import text
from sqlalchemy.engine import make_url

from hpo.storage import migrate
from hpo.storage.engine import begin_write, open_engine
from tests.support.commandline import PATIENCE
from tests.support.dashboard import TOKEN
from tests.support.server import Server

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
BASE_IMAGES = ("python:3.11-slim-bookworm", "postgres:18")
PASSWORD = "a b$c@/:#%"  # what a URL or a shell would choke on
PASSWORDS = {"HPO_DB_PASSWORD": PASSWORD, "HPO_WORKER_PASSWORD": f"another {PASSWORD}"}


def compose_commands() -> list[list[str]]:
    """Both generations of Compose, as far as they are here."""
    actual = []
    if shutil.which("docker-compose"):
        actual.append(["docker-compose"])
    if shutil.which("docker"):
        probe = subprocess.run(["docker", "compose", "version"], capture_output=True)
        if probe.returncode == 0:
            actual.append(["docker", "compose"])
    return actual


COMPOSE = compose_commands()
with_compose = pytest.mark.parametrize("compose", COMPOSE, ids=" ".join)
needs_compose = pytest.mark.skipif(not COMPOSE, reason="neither docker-compose nor docker compose is installed")


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without what steers the file, and `extra`."""
    return {name: v for name, v in os.environ.items() if not name.startswith(("HPO_", "COMPOSE_"))} | extra


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]
    return parsed


def test_only_the_dashboard_is_published_and_only_here(services: dict[str, Any]) -> None:
    """The database and all else stay inside; the dashboard is on the host's loopback, unless another is asked for."""
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert published == {"dashboard": ["${HPO_DASHBOARD_ADDRESS:-127.0.0.1}:${HPO_DASHBOARD_PORT:-8080}:8081"]}
    assert not any("network_mode" in service for service in services.values())


def test_passwords_are_on_no_command_line(services: dict[str, Any]) -> None:
    """They are nowhere but in variables of the environment, which must be given."""
    places = [
        (key, value)
        for service in services.values()
        for key, value in {**service, **service["environment"]}.items()
        if key != "environment" and "_PASSWORD:?" in str(value)
    ]
    assert {key for key, _ in places} == {"POSTGRES_PASSWORD", "PGPASSWORD", "HPO_WORKER_PASSWORD"}
    assert all(value.startswith(("${HPO_DB_PASSWORD:?", "${HPO_WORKER_PASSWORD:?")) for _, value in places)


def test_the_owners_password_reaches_nobody_else(services: dict[str, Any]) -> None:
    """What runs all the time has the role of workers alone, and no capability."""
    owners = {name for name, service in services.items() if "HPO_DB_PASSWORD" in str(service)}
    assert owners == {"db", "migrate", "role"}
    for name in services.keys() - owners:
        assert "//hpo_worker@" in services[name]["environment"]["HPO_DATABASE_URL"]
    assert all(service["cap_drop"] == ["ALL"] for service in services.values())
    assert {name for name, service in services.items() if "cap_add" in service} == {"db"}


@pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed")
def test_the_role_gets_its_password(services: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the service `role` runs, run for real, twice: the second time with another password."""
    with tempfile.TemporaryDirectory(prefix="hpo-pg-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder))
        rules = Path(folder) / "data" / "pg_hba.conf"
        rules.write_text(f"local all hpo_worker scram-sha-256\n{rules.read_text()}")
        owner = open_engine(server.url)
        migrate.create_or_check(owner)
        with begin_write(owner) as connection:
            connection.execute(text("SELECT pg_reload_conf()"))
        (script,) = services["role"]["command"]
        url = make_url(server.url)
        to_libpq = {"PGHOST": str(url.query["host"]), "PGUSER": str(url.username), "PGDATABASE": str(url.database)}
        for password in (PASSWORD, "it's \\ another"):
            subprocess.run(
                [*services["role"]["entrypoint"], script.replace("/worker-role.sql", str(ROOT / "worker-role.sql"))],
                env=environment(HPO_WORKER_PASSWORD=password, **to_libpq),
                check=True,
            )
            monkeypatch.setenv("PGPASSWORD", password)
            worker = open_engine(url.set(username="hpo_worker").render_as_string(hide_password=False))
            migrate.check(worker)
            worker.dispose()
        owner.dispose()
        server.close()


def test_what_needs_to_write_nothing_cannot(services: dict[str, Any]) -> None:
    """But for PostgreSQL, GPU workers, and what users ask for by `cli`."""
    writable = {name for name, service in services.items() if not service.get("read_only")}
    assert writable == {"db", "worker", "cli"}


def test_workers_have_time_to_give_their_slots_back(services: dict[str, Any]) -> None:
    for name in ("worker", "worker-cpu"):
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > 10


@needs_compose
@with_compose
def test_file_is_valid(compose: list[str]) -> None:
    """Both generations of Compose read it, with every profile."""
    command = [*compose, "--file", str(FILE), "--profile", "cpu", "--profile", "gpu", "--profile", "cli", "config"]
    read = subprocess.run(command, env=environment(**PASSWORDS), capture_output=True, text=True, timeout=PATIENCE)
    assert read.returncode == 0, read.stderr
    assert set(yaml.safe_load(read.stdout)["services"]) >= {"db", "migrate", "worker", "worker-cpu", "cli"}


@needs_compose
@with_compose
@pytest.mark.parametrize("name", ["HPO_DB_PASSWORD", "HPO_WORKER_PASSWORD"])
@pytest.mark.parametrize("empty", [False, True], ids=["missing", "empty"])
def test_up_without_a_password_stops(compose: list[str], name: str, empty: bool, tmp_path: Path) -> None:
    """`up` says what is missing before it asks any engine for anything."""
    copy = tmp_path / FILE.name  # away from a .env beside the real one
    copy.write_text(FILE.read_text())
    others = {key: value for key, value in PASSWORDS.items() if key != name}
    nowhere = environment(DOCKER_HOST=f"unix://{tmp_path}/none.sock", **others, **dict.fromkeys([name] * empty, ""))
    up = subprocess.run(
        [*compose, "up", "-d"], cwd=tmp_path, env=nowhere, capture_output=True, text=True, timeout=PATIENCE
    )
    assert up.returncode != 0
    assert f"set {name} in the environment or in the file .env" in up.stderr


@needs_compose
@with_compose
def test_password_from_a_file(compose: list[str], tmp_path: Path) -> None:
    """The file .env beside the compose file gives it too."""
    (tmp_path / FILE.name).write_text(FILE.read_text())
    (tmp_path / ".env").write_text("".join(f"{name}='{password}'\n" for name, password in PASSWORDS.items()))
    read = subprocess.run(
        [*compose, "config"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert read.returncode == 0, read.stderr
    database = yaml.safe_load(read.stdout)["services"]["db"]["environment"]
    assert database["POSTGRES_PASSWORD"].replace("$$", "$") == PASSWORD  # Compose prints $ as $$


# --- The real thing -------------------------------------------------------------------------------------


def why_not() -> str | None:
    """Say what a real run lacks here, or None."""
    if not COMPOSE or not shutil.which("docker"):
        return "Docker and Compose are not installed"
    if subprocess.run(["docker", "info"], capture_output=True).returncode != 0:
        return "no Docker engine answers"
    for image in BASE_IMAGES:
        if subprocess.run(["docker", "image", "inspect", image], capture_output=True).returncode != 0:
            return f"the image {image} is not here: docker pull it, or see tests/support/standin_images.sh"
    return None


class Compose(Protocol):
    """Runs the words of one command line on the test's project; returns its stdout."""

    def __call__(self, arguments: str, typed: str | None = None) -> str: ...


@pytest.fixture(scope="module")
def dashboard_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port: int = nobody.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def running(dashboard_port: int) -> Iterator[Compose]:
    """A project of its own with database, dashboard and one CPU worker; ends with nothing left of it."""
    if reason := why_not():
        pytest.skip(reason)
    project = f"hpo-test-{os.getpid()}"
    settings = environment(
        **PASSWORDS,
        HPO_DASHBOARD_PORT=str(dashboard_port),
        HPO_CPU_IMAGE=f"{project}:cpu",  # a user's hpo:cpu stays as it is
        HPO_GIT_COMMIT="of-the-test",
        HPO_DASHBOARD_TOKEN=TOKEN,
    )

    def compose(arguments: str, typed: str | None = None) -> str:
        command = [*COMPOSE[-1], "--project-name", project, "--file", str(FILE), *shlex.split(arguments)]
        done = subprocess.run(command, env=settings, capture_output=True, text=True, timeout=1800, input=typed)
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    try:
        compose("build migrate")
        compose("up -d db migrate dashboard worker-cpu")
        yield compose
    finally:
        compose("--profile cpu --profile cli down --volumes --remove-orphans")
        subprocess.run(["docker", "image", "rm", f"{project}:cpu"], check=True, capture_output=True)


def wait_for(what: Callable[[], bool], *, seconds: float, pause: float) -> None:
    """Ask every `pause` seconds until `what` holds; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(pause)


def asking(url: str, content: bytes | None = None, method: str = "GET") -> urllib.request.Request:
    """A request by whoever has the dashboard's token."""
    return urllib.request.Request(url, content, {"Authorization": f"Bearer {TOKEN}"}, method=method)


def containers(compose: Compose) -> list[str]:
    return compose("ps -q").split()


def show(compose: Compose, study: str) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(compose(f"run --rm -T --no-deps cli study show {study} --format json"))
    return shown


def test_worker_finishes_a_study(running: Compose, tmp_path: Path) -> None:
    """A study made through `cli`, from a file of the host, goes all its way in the worker's container."""
    small = {"trials": 2, "epochs": 1, "confirm_configurations": 1, "confirm_rounds": 1, "final_rounds": 1}
    spec = (ROOT / "studies" / "ws.toml").read_text()
    for key, value in small.items():
        spec, actual = re.subn(rf"^{key} = \d+$", f"{key} = {value}", spec, flags=re.MULTILINE)
        assert actual == 1
    (tmp_path / "small.toml").write_text(spec)
    running(f"run --rm -v {tmp_path}/small.toml:/work/small.toml cli study create --file small.toml")

    wait_for(lambda: show(running, "ws")["phase"] == "done", seconds=1800, pause=10)  # a container each time
    study = show(running, "ws")
    assert study["trials"]["complete"] + study["trials"]["diverged"] == 2
    assert {len(final["test_values"]) for final in study["final"]} == {1}


def test_dashboard_answers_on_loopback_alone(running: Compose, dashboard_port: int) -> None:
    """The published port is there on 127.0.0.1, and nowhere else, not even on another loopback address."""

    def answers() -> bool:
        try:
            with urllib.request.urlopen(asking(f"http://127.0.0.1:{dashboard_port}/api/studies"), timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:  # the container is up before the server is
            return False

    wait_for(answers, seconds=120, pause=1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", dashboard_port), timeout=5)


def test_a_note_gets_longer_and_shorter(running: Compose, dashboard_port: int) -> None:
    """In the browser, and the dashboard is a role that may delete nothing: what is left of a longer note is emptied."""
    study = f"http://127.0.0.1:{dashboard_port}/api/studies/1"

    def read() -> dict[str, Any]:
        with urllib.request.urlopen(asking(f"{study}?after=0"), timeout=PATIENCE) as answer:
            note: dict[str, Any] = json.load(answer)["note"]
            return note

    for length in (6000, 5, 20000, 0, 7):  # in the database a piece has some 2,000 characters
        note = {"body": "n" * length, "version": read()["version"] + 1}
        put = asking(f"{study}/note", json.dumps(note).encode(), method="PUT")
        put.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(put, timeout=PATIENCE):
            assert read() == note


def test_the_door(running: Compose, dashboard_port: int) -> None:
    """A stranger gets the login alone; the first user, made while the dashboard runs, gets in by name and password."""
    url = f"http://127.0.0.1:{dashboard_port}"

    def status(request: urllib.request.Request) -> int:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                code: int = answer.status
                return code
        except urllib.error.HTTPError as error:
            return error.code

    assert status(urllib.request.Request(f"{url}/")) == 401
    assert status(asking(f"{url}/")) == 200
    running("run --rm -T migrate user add ada --role editor --password-stdin", typed=f"{PASSWORD}\n")
    assert status(asking(f"{url}/")) == 401
    form = urlencode({"name": "ada", "password": PASSWORD}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{url}/login", form), timeout=PATIENCE) as answer:
        cookie = answer.headers["Set-Cookie"].partition(";")[0]
    assert status(urllib.request.Request(f"{url}/", headers={"Cookie": cookie})) == 200
    running("run --rm -T migrate user remove ada")


def test_report_is_written_to_the_host(running: Compose, tmp_path: Path) -> None:
    """As the user who asks, whatever number that is: the image's own user could not write in their folder."""
    tmp_path.chmod(0o700)
    running(f"run --rm -T --no-deps --user {os.getuid()}:{os.getgid()} -v {tmp_path}:/work cli report")
    page = tmp_path / "report" / "report.html"
    assert page.stat().st_size > 0
    assert page.stat().st_uid == os.getuid()


@pytest.mark.parametrize("service", ["worker-cpu", "dashboard", "db"])
def test_no_capability(running: Compose, service: str) -> None:
    """What runs can do nothing that root can, and cannot come to it; PostgreSQL has let go of what its start needs."""
    status = dict(line.split(":\t") for line in running(f"exec -T {service} cat /proc/1/status").splitlines())
    assert int(status["Uid"].split()[0]) > 0
    assert (int(status["CapPrm"], 16), int(status["CapEff"], 16), int(status["NoNewPrivs"])) == (0, 0, 1)
    if service != "db":
        assert int(status["CapBnd"], 16) == 0


def test_workers_role_can_delete_and_make_nothing(running: Compose) -> None:
    """With the password that a worker's container holds, whatever else runs in there instead of `hpo`."""
    refused = ["DELETE FROM hpo_slots", "DELETE FROM studies", "TRUNCATE trials", "CREATE TABLE mine (x int)"]
    program = f"""
import psycopg
connection = psycopg.connect('host=db user=hpo_worker dbname=hpo', autocommit=True)
for command in {refused}:
    try:
        connection.execute(command)
    except psycopg.errors.InsufficientPrivilege:
        print(command)
"""
    assert running(f"exec -T worker-cpu python -c {shlex.quote(program)}").splitlines() == refused


def test_password_is_in_no_process_title(running: Compose) -> None:
    for container in containers(running):
        titles = subprocess.run(["docker", "top", container, "-eo", "args"], capture_output=True, text=True).stdout
        assert PASSWORD not in titles


def test_containers_stop_in_time(running: Compose) -> None:
    """Each ends by itself on SIGTERM, within its grace period: 137 would be a SIGKILL.

    The worker gives its slots back meanwhile.
    """
    running("run --rm -T cli study create --model simple")
    wait_for(lambda: bool(show(running, "simple")["trials"]["running"]), seconds=600, pause=2)
    running("stop worker-cpu dashboard")
    for service in ("worker-cpu", "dashboard"):
        container = running(f"ps -q -a {service}").strip()
        ended = subprocess.run(
            ["docker", "inspect", "--format", "{{.State.ExitCode}}", container], capture_output=True, text=True
        )
        assert ended.stdout.strip() in ("0", "143")
    trials = show(running, "simple")["trials"]
    assert (trials["running"], trials["failed"]) == (0, 0)


def test_the_owner_deletes_a_study(running: Compose) -> None:
    """As the head of the file says, for the role of everything else may not."""
    running("run --rm -T migrate study delete ws --yes")
    assert [study["name"] for study in json.loads(running("run --rm -T cli study list --format json"))] == ["simple"]
