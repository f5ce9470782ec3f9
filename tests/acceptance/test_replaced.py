"""The database is replaced under a process that uses it: that ends with one line, and neither database is mixed up."""

import os
import re
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from hpo.storage.schema import metadata
from tests.support.commandline import DRAIN, Hpo, finish, is_stopped, wait_until
from tests.support.exact import check_exact, results
from tests.support.fixtures import Postgres
from tests.support.long import too_long

STUDY = {"trials": 3, "epochs": 2, "sampler": "random", "pruner": "none", "confirm_rounds": 1, "rounds": 1}
EXACT = {"search": 3, "confirm": 2, "rounds": 1}
LINE = re.compile(r"hpo: .*: (another (file|database)|the file was moved or removed).* while this process used it; .*")


def path_of(hpo: Hpo) -> Path:
    return Path(hpo.url.removeprefix("sqlite:///"))


def backup_of(hpo: Hpo) -> Path:
    """A backup of the database as it is."""
    path = hpo.folder / "backup.db"
    with closing(sqlite3.connect(path_of(hpo))) as connection:
        connection.execute("VACUUM INTO ?", (str(path),))
    return path


def put_aside(hpo: Hpo) -> Path:
    """Move the database's files away; returns where the database is now."""
    aside = hpo.folder / "aside"
    aside.mkdir()
    for file in hpo.folder.glob(f"{path_of(hpo).name}*"):
        if file.is_file():
            file.rename(aside / file.name)
    return aside / path_of(hpo).name


def made_anew(hpo: Hpo, backup: Path) -> Path:
    aside = put_aside(hpo)
    hpo.create(**STUDY, seed=2)
    return aside


def restored(hpo: Hpo, backup: Path) -> Path:
    aside = put_aside(hpo)
    shutil.copy(backup, path_of(hpo))
    hpo("db", "new-identity")
    return aside


def restored_as_it_was(hpo: Hpo, backup: Path) -> Path:
    """Without the last step."""
    aside = put_aside(hpo)
    shutil.copy(backup, path_of(hpo))
    return aside


def removed(hpo: Hpo, backup: Path) -> Path:
    return put_aside(hpo)


def restored_in_place(hpo: Hpo, backup: Path) -> Path:
    """Into the same file, by SQLite's own means."""
    aside = hpo.folder / "aside.db"
    with closing(sqlite3.connect(path_of(hpo))) as old, closing(sqlite3.connect(aside)) as copy:
        old.backup(copy)
        with closing(sqlite3.connect(backup)) as new:
            new.backup(old)
    hpo("db", "new-identity")
    return aside


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of ours and of Optuna's trials."""
    with closing(sqlite3.connect(path)) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table}").fetchall()
            for table in [*metadata.tables, "studies", "trials", "trial_values", "trial_intermediate_values"]
        }


def the_line(err: str) -> str:
    """The only words about it: the last line."""
    *log, last = err.splitlines()
    assert LINE.fullmatch(last), err
    assert not [line for line in log if "ERROR" in line or "WARNING" in line or "given back" in line], err
    return last


@pytest.mark.parametrize("replace", [restored, *too_long(made_anew, removed, restored_in_place)])
def test_a_worker_in_training(hpo: Hpo, replace: Callable[[Hpo, Path], Path]) -> None:
    """It ends; what is in the place now is as it was, and the result that it had then is stored in its own database."""
    hpo.create(**STUDY)
    worker = hpo.start(*DRAIN, "--lease", "2")
    slot, pid = hpo.freeze_in_training()
    aside = replace(hpo, backup_of(hpo))
    here = path_of(hpo)
    before = contents(here) if here.exists() else None
    os.kill(pid, signal.SIGCONT)
    _, err = finish(worker, code=1)
    line = the_line(err)
    assert (contents(here) if here.exists() else None) == before
    results_folder = hpo.folder / "hpo.db.artifacts" / "results"
    kept = [path for path in results_folder.rglob("*.json") if path.name.startswith(f"{slot}-")]
    assert len(kept) == 1
    assert line.endswith(f"1 result(s) for the first are kept in {kept[0].parent}")
    if here.exists():
        hpo(*DRAIN, "--lease", "1")
        assert kept[0].exists(), "it is no other database's"
    first = Hpo(hpo.folder, f"sqlite:///{aside}")
    first(*DRAIN, "--lease", "1", "--artifacts", hpo.folder / "hpo.db.artifacts")
    assert not kept[0].exists()
    actual = check_exact(first.url, "ws", **EXACT)
    assert {one.attempt for of_kind in actual.values() for one in of_kind if one.id == slot} == {1}, (
        "nothing is trained twice"
    )
    if replace is not removed and replace is not made_anew:
        assert results(check_exact(hpo.url, "ws", **EXACT)) == results(actual)


@pytest.mark.parametrize("replace", [removed, *too_long(restored_as_it_was, restored_in_place)])
def test_a_worker_that_waits(hpo: Hpo, replace: Callable[[Hpo, Path], Path]) -> None:
    """It asks for work, and finds another database."""
    hpo.create(**STUDY)
    worker = hpo.start(*[word for word in DRAIN if word != "--drain"])
    wait_until(lambda: hpo.show()["phase"] == "done")
    replace(hpo, backup_of(hpo))
    before = contents(path_of(hpo)) if path_of(hpo).exists() else None
    _, err = finish(worker, code=1)
    assert "kept" not in the_line(err)
    assert (contents(path_of(hpo)) if path_of(hpo).exists() else None) == before


def test_everything_on_one_machine(hpo: Hpo) -> None:
    """`hpo run` ends with the line, and its workers with it."""
    run = hpo.start("run", "--file", hpo.study(**{**STUDY, "trials": 200}), "--workers", "1")
    wait_until(hpo.running)
    restored(hpo, backup_of(hpo))
    before = contents(path_of(hpo))
    _, err = finish(run, code=1)
    assert LINE.fullmatch(err.splitlines()[-1]), err
    log = (hpo.folder / "report" / "logs" / "worker-0.log").read_text()
    assert "Traceback" not in err + log
    assert contents(path_of(hpo)) == before
    hpo("report", "--out", "after")


def test_postgres(hpo_on_postgres: Hpo, postgres: Postgres) -> None:
    """A database of the same name that was restored from a backup, under a worker in training."""
    hpo = hpo_on_postgres
    name = make_url(hpo.url).database
    hpo.create(**{**STUDY, "epochs": 40})
    worker = hpo.start(*DRAIN)
    wait_until(lambda: hpo.show()["trials"]["running"])
    worker.send_signal(signal.SIGSTOP)  # for a moment there is no database of that name, which would end it too
    wait_until(lambda: is_stopped(worker.pid))
    postgres.sql(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    postgres.sql(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    postgres.sql(f"ALTER DATABASE {name} RENAME TO {name}_aside")
    postgres.sql(f"CREATE DATABASE {name} TEMPLATE {name}_aside")
    hpo("db", "new-identity")
    worker.send_signal(signal.SIGCONT)
    _, err = finish(worker, code=1)
    assert LINE.fullmatch(err.splitlines()[-1]), err
    assert hpo.show()["trials"]["running"] == 1, "what ran at the moment of the backup does so until its lease is over"
    postgres.sql(f"DROP DATABASE {name}_aside")
