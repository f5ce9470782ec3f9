"""A SQLite file in which somebody used Optuna by itself before `hpo db upgrade`."""

import sqlite3
from contextlib import closing

import optuna
from optuna.storages import RDBStorage

from tests.support.commandline import DRAIN, Hpo, wait_until
from tests.support.exact import check_exact, results

STUDY = {"sampler": "random", "pruner": "none", "confirm_rounds": 1, "rounds": 1}
EXACT = {"search": 4, "confirm": 2, "rounds": 1}


def trial_ids(hpo: Hpo) -> set[int]:
    with closing(sqlite3.connect(hpo.url.removeprefix("sqlite:///"))) as connection:
        return {trial for (trial,) in connection.execute("SELECT trial_id FROM hpo_slots")}


def test_a_worker_that_stays_mixes_no_studies_up(hpo: Hpo) -> None:
    """A study is deleted, another created in its place: it is trained with its own configurations."""
    storage = RDBStorage(hpo.url)
    optuna.create_study(study_name="mine", storage=storage)
    storage.remove_session()
    storage.engine.dispose()
    hpo("db", "upgrade")
    hpo.create(**STUDY, seed=1)
    hpo.start(*[word for word in DRAIN if word != "--drain"])
    wait_until(lambda: hpo.show()["phase"] == "done")
    before = trial_ids(hpo)
    hpo("study", "delete", "ws", "--yes")
    hpo.create(**STUDY, seed=2)
    wait_until(lambda: hpo.show()["phase"] == "done")
    assert trial_ids(hpo).isdisjoint(before)
    alone = Hpo(hpo.folder, f"sqlite:///{hpo.folder / 'alone.db'}")
    alone.create(**STUDY, seed=2)
    alone(*DRAIN)
    mixed, alone_results = (results(check_exact(url, "ws", **EXACT)) for url in (hpo.url, alone.url))
    assert mixed == alone_results
