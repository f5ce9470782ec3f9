"""Real processes on one SQLite file: nothing twice, nothing lost, never too many."""

import subprocess
import sys

from sqlalchemy import Engine

from hpo.storage import claims, slots
from tests.support.commandline import PATIENCE
from tests.support.fixtures import MakeStudy

PULL = """
import sys
from hpo.storage import claims, slots
from hpo.storage.engine import open_engine
from tests.support.outcomes import outcome

engine = open_engine(sys.argv[1])
sys.stdin.readline()
while claims.any_open(engine):
    for slot in claims.claim(engine, 2, worker=sys.argv[2], lease_seconds=60, model="ws"):
        found = slots.list_slots(engine, slot.study_id)
        running = sum(other.adaptive and other.state == "running" for other in found)
        if slots.finish(engine, slot.id, slot.token, outcome()):
            print(slot.id, slot.attempt, running)
"""


def test_processes_share_one_file(sqlite_engine: Engine, make_study: MakeStudy) -> None:
    """Two pull, a third has died with slots in its hands: each slot is finished once, within the limit."""
    study = make_study(on=sqlite_engine, trials=80, adaptive_from=20, in_flight=3)
    lost = claims.claim(sqlite_engine, 3, worker="dead", lease_seconds=-1, model="ws")
    url = sqlite_engine.url.render_as_string()
    pulling = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PULL, url, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for process in pulling:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    done: list[tuple[int, int, int]] = []
    for process in pulling:
        told, problems = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, problems
        lines = [[int(word) for word in line.split()] for line in told.splitlines()]
        done += [(slot_id, attempt, running) for slot_id, attempt, running in lines]
    assert sorted(slot_id for slot_id, _, _ in done) == [s.id for s in slots.list_slots(sqlite_engine, study.id)]
    assert {slot_id for slot_id, attempt, _ in done if attempt == 2} == {slot.id for slot in lost}
    assert max(running for _, _, running in done) <= 3
    workers = {slot.worker for slot in slots.list_slots(sqlite_engine, study.id)}
    assert workers == {"one", "two"}, "else this has tested nothing"
