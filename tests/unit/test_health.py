"""When a worker leaves a study alone, or takes its machine for broken."""

from hpo.storage.studies import StudyRow
from hpo.worker.health import FIRST_FAILURES, LATER_FAILURES, Health


def study(number: int) -> StudyRow:
    return StudyRow(
        id=number,
        name=f"study {number}",
        model="ws",
        spec="{}",
        spec_digest="",
        data_digest="",
        phase="search",
        paused=False,
        seed=1,
        in_flight=1,
        repeat_group=None,
        search_study_id=1,
        confirm_study_id=2,
        final_study_id=3,
        tuned=None,
        created_at=0.0,
    )


A, B = study(1), study(2)


def fail(health: Health, which: StudyRow, turns: int, lanes: int = 1) -> None:
    for _ in range(turns):
        health.next_turn(lanes)
        for _ in range(lanes):
            health.record_failed(which, "Traceback\n  line\nRuntimeError: no device\n")


def names(health: Health) -> list[str]:
    return [row.name for row, _ in health.failing()]


def test_many_lanes_that_fail_at_once_are_one_failure() -> None:
    """A shared cause is no row of failures."""
    health = Health()
    fail(health, A, FIRST_FAILURES - 1, lanes=64)
    assert (names(health), health.trains, health.is_in_doubt) == ([], False, True)
    fail(health, A, 1)
    ((row, why),) = health.failing()
    assert row == A
    assert str(why) == f"its trainings failed {FIRST_FAILURES} times in a row here; last: RuntimeError: no device"


def test_a_completed_training_ends_the_row() -> None:
    """And allows the study a longer one from then on."""
    health = Health()
    fail(health, A, FIRST_FAILURES - 1)
    health.record_completed(A)
    assert (health.trains, health.is_in_doubt) == (True, False)
    fail(health, A, LATER_FAILURES - 1)
    assert names(health) == []
    fail(health, A, 1)
    assert names(health) == [A.name]


def test_a_study_is_no_excuse_for_another() -> None:
    """Each has its own row: what trains here clears the machine, not the study that fails."""
    health = Health()
    for _ in range(FIRST_FAILURES):
        fail(health, A, 1)
        health.record_completed(B)
    assert names(health) == [A.name]
    assert health.trains
