"""A worker killed (SIGKILL) exactly between two writes: the next one heals it, and the study is the undisturbed one."""

from pathlib import Path
from typing import Any

import pytest

from hpo.storage import slots, studies
from hpo.storage.claims import MAX_ATTEMPTS
from hpo.storage.engine import open_engine
from tests.support import crash as crash_script
from tests.support.commandline import DRAIN, PATIENCE, Hpo
from tests.support.exact import check_exact, results

STUDY = {"trials": 3, "epochs": 2, "sampler": "random", "pruner": "none", "confirm_rounds": 1, "rounds": 1}
EXACT = {"search": 3, "confirm": 2, "rounds": 1}

_STORAGE = "hpo.storage.optuna_storage:HpoStorage"
POINTS = {
    "claimed, but no trial": (f"before.{_STORAGE}.bind_trial", 2),
    "a trial, but no parameters": (f"after.{_STORAGE}.bind_trial", 2),
    "proposed, but nothing stored": ("before.hpo.storage.slots:record_params", 2),
    "parameters stored in the slot, but not at its trial": ("before.hpo.study.search:write_proposal", 2),
    "parameters stored, but not committed": ("after.hpo.study.search:write_proposal", 2),
    "in the middle of a report": ("before.hpo.storage.trials:write_curves", 2),
    "pool B opened, but no result": ("after.hpo.storage.slots:record_opening", 1),
    "a result on disk alone": ("after.hpo.worker.spool:Spool.put", 2),
    "outcome stored, but untold": ("after.hpo.storage.slots:finish", 2),
    "marked as told, but its trial has not ended": ("before.hpo.study.search:end_trial", 2),
    "told, but not committed": ("after.hpo.study.search:end_trial", 2),
    "last search slot done, but no confirm": ("before.hpo.storage.studies:set_phase", 1),
    "confirm entered, but without its slots": ("after.hpo.storage.studies:set_phase", 1),
    "last confirm slot done, but no final": ("before.hpo.storage.studies:set_phase", 2),
    "winner chosen, but no final slots": ("after.hpo.storage.studies:set_tuned", 1),
    "last final slot done, but the study is not": ("before.hpo.storage.studies:set_phase", 3),
}


def crash(hpo: Hpo, point: str, times: int) -> None:
    """Run a draining worker that is killed at a point."""
    script = Path(crash_script.__file__)
    process = hpo.start_python(script, point, str(times), *DRAIN, "--lease", "1")
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == -9, err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[list[tuple[Any, ...]]]:
    """The study when nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    hpo = Hpo(folder, f"sqlite:///{folder / 'hpo.db'}")
    hpo.create(**STUDY)
    hpo(*DRAIN)
    return results(check_exact(hpo.url, "ws", **EXACT))


@pytest.mark.parametrize("where", list(POINTS))
def test_a_worker_killed_at_a_point(hpo: Hpo, where: str, undisturbed: list[list[tuple[Any, ...]]]) -> None:
    """Afterwards: exact counts, the same configurations, the same results to the last digit."""
    hpo.create(**STUDY)
    crash(hpo, *POINTS[where])
    hpo(*DRAIN, "--lease", "1")
    assert results(check_exact(hpo.url, "ws", **EXACT)) == undisturbed


def test_a_slot_that_kills_its_workers_fails_in_the_end(hpo: Hpo) -> None:
    """Its attempts are used up, it fails with the reason, and the study goes on without it."""
    hpo.create(**{**STUDY, "trials": 4})
    for _ in range(MAX_ATTEMPTS):
        crash(hpo, "before.hpo.training.population:Population.train_epoch", 1)
    hpo(*DRAIN, "--lease", "1")
    shown = hpo.show()
    assert (shown["trials"]["failed"], shown["trials"]["complete"]) == (1, 3)
    assert shown["phase"] == "done"
    engine = open_engine(hpo.url)
    try:
        row = studies.get_study(engine, "ws")
        failed = [slot for slot in slots.list_slots(engine, row.id, "search") if slot.state == "failed"]
    finally:
        engine.dispose()
    for slot in failed:
        assert "the lease expired" in str(slot.error)
        text = hpo("trial", "show", "ws", str(slot.trial_number)).stdout
        assert "the lease expired" in " ".join(text.split())
