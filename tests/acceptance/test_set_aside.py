"""A study that cannot go on is set aside by name, in one line, and the others are served; on both databases."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, text
from torch import nn

from hpo.digits import models
from hpo.storage import slots, studies
from hpo.storage.engine import begin_write, open_engine
from tests.support.commandline import DRAIN, Hpo, finish, wait_until
from tests.support.open_slots import any_running

BOTH = pytest.mark.parametrize("two_studies", ["hpo", "hpo_on_postgres"], indirect=True)
Damage = Callable[[Hpo], None]
DELETE = """
import optuna, sys
name, url = sys.argv[1:]
while name in optuna.get_all_study_names(url):  # Optuna gives up in silence where a worker has just written to it
    optuna.delete_study(study_name=name, storage=url)
"""


@pytest.fixture(params=["hpo"])
def two_studies(request: pytest.FixtureRequest) -> Hpo:
    """`hpo` on a database with the studies `broken` and `whole`, of one model; a test may ask for another database."""
    hpo: Hpo = request.getfixturevalue(request.param)
    for name in ("broken", "whole"):
        hpo.create(name=name, trials=2, rounds=1, confirm_rounds=1)
    return hpo


@pytest.fixture
def engine(two_studies: Hpo) -> Any:
    opened = open_engine(two_studies.url)
    yield opened
    opened.dispose()


def delete_from_optuna(hpo: Hpo, name: str) -> None:
    """As a user does it, past hpo."""
    finish(hpo.start_python("-c", DELETE, name, hpo.url))


def change_spec(hpo: Hpo, spec: str) -> None:
    engine = open_engine(hpo.url)
    with begin_write(engine) as connection:
        connection.execute(text("UPDATE hpo_studies SET spec = :spec WHERE name = 'broken'"), {"spec": spec})
    engine.dispose()


DAMAGES: dict[str, tuple[Damage, str]] = {
    "search": (lambda hpo: delete_from_optuna(hpo, "broken"), "deleted from Optuna's tables: broken;"),
    "confirm": (lambda hpo: delete_from_optuna(hpo, "broken:confirm"), "deleted from Optuna's tables: broken:confirm;"),
    "final": (lambda hpo: delete_from_optuna(hpo, "broken:final"), "deleted from Optuna's tables: broken:final;"),
    "a spec of another version": (lambda hpo: change_spec(hpo, '{"news": 1}'), "unknown key"),
    "no spec": (lambda hpo: change_spec(hpo, "damaged"), "is not JSON"),
}


@pytest.mark.parametrize(
    ("two_studies", "damage"),
    [*(("hpo", damage) for damage in DAMAGES), ("hpo_on_postgres", "search")],
    indirect=["two_studies"],
)
def test_a_study_that_cannot_go_on_stops_no_other(two_studies: Hpo, engine: Engine, damage: str) -> None:
    """One line names it with the reason, the other study is served, nothing stays claimed, the exit code is 1.

    Where somebody else might read its spec and search on, the other study's test waits until it is deleted.
    """
    act, reason = DAMAGES[damage]
    act(two_studies)
    log = two_studies(*DRAIN, code=1).stderr
    (line,) = [line for line in log.splitlines() if "left alone from now on" in line]
    assert "study broken" in line
    assert reason in line
    assert "`hpo study delete broken --yes`" in line
    assert [line for line in log.splitlines() if line.endswith("left alone: broken")] != []
    assert "Traceback" not in log
    if "spec" in damage:
        assert studies.get_study(engine, "whole").phase == "final"
        two_studies("study", "delete", "broken", "--yes")
        two_studies(*DRAIN)
    assert studies.get_study(engine, "whole").phase == "done"
    assert not any_running(engine)


def test_list_and_show_tell_it_and_nothing_is_added(two_studies: Hpo) -> None:
    """What the database shows is told; commands that would add to the study refuse; it can be deleted."""
    delete_from_optuna(two_studies, "broken")
    assert [row["gone"] for row in two_studies.json("study", "list")] == [["broken"], []]
    assert "search (broken)" in " ".join(two_studies("study", "list").stdout.split())
    assert "hpo study delete broken --yes" in " ".join(two_studies("study", "show", "broken").stdout.split())
    for command in ("study resume broken", "study extend broken --trials 2", "evaluate --study broken"):
        assert "study broken cannot go on" in two_studies.refused(*command.split())
    two_studies("study", "delete", "broken", "--yes")
    two_studies(*DRAIN)
    assert two_studies.show("whole")["phase"] == "done"


@BOTH
def test_a_study_deleted_while_it_trains(two_studies: Hpo, engine: Engine) -> None:
    """What has begun may end, then the study is left alone, and the other one is served to its end."""
    two_studies("study", "delete", "broken", "--yes")
    two_studies.create(name="long", model="simple", trials=200, epochs=40)  # deleted long before its end
    worker = two_studies.start(*DRAIN)
    row = studies.get_study(engine, "long")
    wait_until(lambda: [slot for slot in slots.list_slots(engine, row.id) if slot.epoch > 0])
    delete_from_optuna(two_studies, "long")
    log = finish(worker, code=1)[1]
    assert log.count("study long is left alone from now on") == 1
    assert "Traceback" not in log
    assert studies.get_study(engine, "whole").phase == "done"
    assert not any_running(engine)


class Unstackable(nn.Module):
    """An architecture of a user's that has no population: running statistics belong to no lane."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(-3), nn.BatchNorm1d(196), nn.Linear(196, 2))


def test_a_group_without_a_population_stops_no_other(
    two_studies: Hpo, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All studies of the model are set aside, each in a line, and another model is served."""
    two_studies.create(name="simple", model="simple", trials=2, rounds=1, confirm_rounds=1)
    monkeypatch.setitem(models.ARCHITECTURES, "ws", Unstackable)
    log = two_studies(*DRAIN, code=1).stderr
    lines = [line for line in log.splitlines() if "left alone from now on: CannotStack" in line]
    assert [line.split("study ")[1].split()[0] for line in lines] == ["broken", "whole"]
    assert studies.get_study(engine, "simple").phase == "final", "another machine may search on, so pool B stays shut"
    for name in ("broken", "whole"):
        two_studies("study", "pause", name)
    two_studies(*DRAIN)
    assert studies.get_study(engine, "simple").phase == "done"
