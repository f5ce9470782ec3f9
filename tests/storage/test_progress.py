"""How far studies are and what workers do: against the whole results, on both databases."""

from collections.abc import Iterable
from typing import get_args

import pytest
from sqlalchemy import Engine, delete, text, update

from hpo.errors import SchemaError, StudyNotFound
from hpo.results import queries
from hpo.results.progress import StudyProgress, overview, study_progress
from hpo.results.records import StudyResult
from hpo.storage import claims, slots, studies, workers
from hpo.storage.claims import Trained
from hpo.storage.engine import begin_write, now, open_engine
from hpo.storage.optuna_storage import open_optuna
from hpo.storage.schema import slots as slots_table
from hpo.storage.schema import workers as workers_table
from hpo.storage.slots import Kind, Slot
from hpo.storage.workers import STOPPED, WORK_DONE
from hpo.study.projection import project
from hpo.study.search import Search
from hpo.study.spec import StudySpec
from tests.support.beats import beat_of
from tests.support.fixtures import MakeStudy, Watch
from tests.support.handmade import DATA_DIGEST, Maker, create, make, small_spec


def tell(engine: Engine, maker: Maker) -> None:
    """Let Optuna's trials have the outcomes, as workers do."""
    project(engine, Search(open_optuna(engine), maker.row))


def named(spec: StudySpec, name: str) -> StudySpec:
    return spec.with_options(name=name)


def counts(runs: Iterable[object]) -> tuple[int, int, int, int]:
    states = [run.state for run in runs]  # type: ignore[attr-defined]
    done = sum(state in ("complete", "pruned", "diverged") for state in states)
    return states.count("waiting"), states.count("running"), done, states.count("failed")


def agree(progress: StudyProgress, result: StudyResult) -> None:
    """What the cheap way says is what the whole results say."""
    for phase, runs in zip(progress.phases, (result.search, result.confirm, result.final_runs), strict=True):
        assert (phase.waiting, phase.running, phase.done, phase.failed) == counts(runs), phase
        assert phase.claims == sum(run.attempt for run in runs)
        assert phase.reclaims == sum(max(run.attempt - 1, 0) for run in runs)
        assert phase.lost_leases == sum(run.expiries for run in runs)
    same = ("id", "name", "experiment", "model", "phase", "paused", "is_blocked", "gone", "waits_for", "metric")
    for name in (*same, "best", "tuned", "repeat_group", "created_at"):
        assert getattr(progress, name) == getattr(result, name), name


@pytest.mark.parametrize("tells", [True, False])
def test_it_agrees_with_the_whole_results(engine: Engine, tells: bool) -> None:
    """Studies in every phase, with pruned, diverged and failed trials, whether or not Optuna has been told."""

    def state(slot: Slot) -> str:
        return {3: "pruned", 4: "diverged"}.get(slot.idx, "complete") if slot.kind == "search" else "complete"

    spec = small_spec("ws", trials=10)
    makers = [
        make(engine, named(spec, "fresh"), limit=0),
        make(engine, named(spec, "search"), limit=8, state=state, fails=lambda s: s.kind == "search" and s.idx == 5),
        make(engine, named(spec, "blocked"), limit=10, fails=lambda s: s.kind == "search" and s.idx > 5),
        make(engine, named(spec, "confirm"), limit=13),
        make(engine, named(spec, "nothing-confirmed"), limit=19, fails=lambda s: s.kind == "confirm"),
        make(engine, named(spec, "final"), limit=22),
        make(engine, named(spec, "final-failed"), data_digest="e" * 64, fails=lambda s: s.kind == "final" and s.round),
        make(engine, named(spec, "done"), data_digest="f" * 64, repeat_group="group", binds=get_args(Kind)),
        make(engine, named(spec, "reference"), data_digest="f" * 64, paper_is_best=True, binds=get_args(Kind)),
    ]
    claims.claim(engine, 3, worker="w", lease_seconds=60, model="ws", study_ids=[makers[0].row.id])
    studies.set_paused(engine, makers[3].row.id, True)
    if tells:
        for maker in makers:
            tell(engine, maker)
    seen = overview(engine)
    results = queries.all_results(engine)
    assert len(results) == len(seen.studies) == len(makers)
    for progress, result in zip(seen.studies, results, strict=True):
        agree(progress, result)
        agree(study_progress(engine, progress.name), result)
        if result.phase == "done" and tells:  # the means are Optuna's
            means = {final.label: pytest.approx(final.test_mean) for final in result.final if final.same_as is None}
            assert progress.tested == means
        else:
            assert progress.tested == {}
    assert {progress.name for progress in seen.studies if progress.phase == "done"} == {"done", "reference"}
    assert {progress.name for progress in seen.studies if progress.is_blocked} == {
        "blocked",
        "nothing-confirmed",
        "final-failed",
    }
    assert {progress.name for progress in seen.studies if progress.waits_for} == {"final"}


def test_ties_go_to_the_second_metric(engine: Engine) -> None:
    """Two trials with the best accuracy: the one with the lower loss, wherever it stands."""
    maker = make(engine, small_spec("ws", trials=6), limit=6)
    tell(engine, maker)
    best = queries.study_result(engine, "ws").best
    assert best is not None
    other = next(slot for slot in slots.list_slots(engine, maker.row.id, "search") if slot.trial_number != best.number)
    assert other.outcome is not None
    better = other.outcome.model_copy(update={"value": best.value, "loss": 0.001})
    with begin_write(engine) as connection:
        row = update(slots_table).where(slots_table.c.id == other.id)
        connection.execute(row.values(outcome=better.to_json()))
        connection.execute(
            text("update trial_values set value = :value where trial_id = :trial"),
            {"value": best.value, "trial": other.trial_id},
        )
    seen = study_progress(engine, "ws")
    assert seen.best is not None
    assert seen.best.number == other.trial_number != best.number
    assert seen.best == queries.study_result(engine, "ws").best


def test_what_is_planned_counts(engine: Engine) -> None:
    """Before a phase has slots its total is the spec's; an evaluation alone has no search."""
    make(engine, small_spec("ws", trials=10, rounds=5), limit=2)
    assert [phase.total for phase in study_progress(engine, "ws").phases] == [10, 9, 10]
    make(engine, named(small_spec("simple", trials=2, rounds=5), "two"), limit=0)
    assert [phase.total for phase in study_progress(engine, "two").phases] == [2, 6, 10], "one trial beside the paper's"
    create(engine, named(small_spec("simple", trials=0), "none"))
    assert [phase.total for phase in study_progress(engine, "none").phases] == [0, 0, 0]


def ago(engine: Engine, study_id: int, seconds: float) -> None:
    """Let all that ended in a study have begun and ended so much earlier."""
    with begin_write(engine) as connection:
        ended = update(slots_table).where(slots_table.c.study_id == study_id, slots_table.c.finished_at.is_not(None))
        connection.execute(
            ended.values(started_at=slots_table.c.started_at - seconds, finished_at=slots_table.c.finished_at - seconds)
        )


def live(engine: Engine, name: str = "w", **changes: object) -> None:
    workers.beat_alone(engine, beat_of(name, **{"data_digest": DATA_DIGEST, **changes}), 60)  # type: ignore[arg-type]


def test_the_rate_of_the_last_hour(engine: Engine) -> None:
    """Six trials that began half an hour ago are twelve an hour; the rest follows at that rate."""
    maker = make(engine, small_spec("ws", trials=12), limit=6)
    live(engine)
    with begin_write(engine) as connection:
        begun = update(slots_table).where(slots_table.c.finished_at.is_not(None))
        connection.execute(begun.values(started_at=now() - 1800, epoch=6))
    seen = study_progress(engine, "ws")
    assert seen.trials_per_hour == pytest.approx(12, rel=0.01)
    assert seen.epochs_per_hour == pytest.approx(72, rel=0.01)
    assert seen.end is not None
    left = sum(phase.open for phase in seen.phases)
    assert left == 6 + 9 + 10
    at = overview(engine).now
    assert seen.end.expected - at == pytest.approx(left / 12 * 3600, rel=0.01)
    assert at < seen.end.earliest < seen.end.expected < seen.end.latest
    ago(engine, maker.row.id, 7200)
    seen = study_progress(engine, "ws")
    assert seen.trials_per_hour == pytest.approx(6 / 2.5, rel=0.01), "of a day where the last hour has none"
    ago(engine, maker.row.id, 86400)
    seen = study_progress(engine, "ws")
    assert (seen.trials_per_hour, seen.end) == (0, None)


def test_no_end_where_nothing_goes_on(engine: Engine) -> None:
    """Without a worker, when paused, and when done."""
    maker = make(engine, small_spec("ws", trials=12), limit=6)
    live(engine, "elsewhere", data_digest="other")
    live(engine, "others", study_names=("simple",))
    assert study_progress(engine, "ws").workers == ()
    assert study_progress(engine, "ws").end is None
    live(engine, "w")
    assert study_progress(engine, "ws").workers == ("w",)
    assert study_progress(engine, "ws").end is not None
    studies.set_paused(engine, maker.row.id, True)
    assert study_progress(engine, "ws").end is None
    studies.set_paused(engine, maker.row.id, False)
    maker.work()
    done = study_progress(engine, "ws")
    assert (done.phase, done.end, done.states) == ("done", None, ())


def test_who_trains_what(engine: Engine) -> None:
    """Lanes of a worker, how far each is, and what it finished in the last hour."""
    spec = small_spec("ws", trials=6)
    maker = make(engine, spec, limit=2)  # by host:1
    live(engine, "host:1", lanes=2)
    live(engine, "idle", lanes=4)
    taken = claims.claim(engine, 2, worker="host:1", lease_seconds=60, model="ws")
    with begin_write(engine) as connection:
        connection.execute(update(slots_table).where(slots_table.c.id == taken[1].id).values(epoch=4))
        connection.execute(update(workers_table).values(started_at=now() - 600))
    expired = claims.claim(engine, 1, worker="gone", lease_seconds=-1, model="ws")
    assert len(expired) == 1
    seen = overview(engine)
    busy, idle = seen.workers
    assert (busy.worker.name, busy.state, busy.worker.lanes) == ("host:1", "alive", 2)
    assert busy.models == (Trained("digits", "ws"),)
    assert [(t.study, t.kind, t.idx, t.epoch, t.epochs) for t in busy.running] == [
        ("ws", "search", taken[0].idx, 0, 6),
        ("ws", "search", taken[1].idx, 4, 6),
    ]
    assert busy.trials_per_hour == pytest.approx(2 * 6, rel=0.05)
    assert (idle.worker.name, idle.running, idle.models, idle.trials_per_hour) == ("idle", (), (), 0)
    (study,) = seen.studies
    assert study.running == busy.running, "what runs under an expired lease is nobody's"
    assert study.workers == ("host:1", "idle")
    assert maker.row.id == study.id


def test_workers_that_are_gone(engine: Engine) -> None:
    """Those of the last day, why they left, and what needs a look."""
    live(engine, "lives")
    workers.beat_alone(engine, beat_of("lost"), -1)
    for name, why in {
        "done": WORK_DONE,
        "term": "SIGTERM",
        "asked": STOPPED,
        "broken": "nothing can be trained",
    }.items():
        workers.beat_alone(engine, beat_of(name), 60)
        workers.beat_alone(engine, beat_of(name), 0, left_why=why)
    for name in ("old", "old-lost"):
        workers.beat_alone(engine, beat_of(name), 0, left_why="nothing can be trained" if name == "old" else None)
    with begin_write(engine) as connection:
        old = update(workers_table).where(workers_table.c.name.like("old%"))
        connection.execute(
            old.values(left_at=workers_table.c.left_at - 90_000, alive_until=workers_table.c.alive_until - 90_000)
        )
    seen = overview(engine)
    assert {progress.worker.name: progress.state for progress in seen.workers} == {
        "lives": "alive",
        "lost": "lost",
        "done": "left",
        "term": "left",
        "asked": "left",
        "broken": "left",
    }
    assert [(note.about, note.name) for note in seen.attention] == [("worker", "lost"), ("worker", "broken")]
    assert "nothing can be trained" in seen.attention[1].what


def noted(engine: Engine) -> dict[str, tuple[str, str]]:
    return {note.name: (note.what, note.command) for note in overview(engine).attention if note.about == "study"}


def test_what_needs_attention(engine: Engine) -> None:
    """Each matter with the command that mends it, until it is mended."""
    spec = small_spec("ws", trials=8)
    done = make(engine, named(spec, "done"))
    create(engine, named(spec, "unserved"), data_digest="e" * 64)
    create(engine, named(spec, "held"))
    studies.set_paused(engine, studies.get_study(engine, "held").id, True)
    make(engine, named(spec, "failing"), limit=8, fails=lambda s: s.kind == "search" and s.idx > 4)
    make(engine, named(spec, "confirming"), limit=12, fails=lambda s: s.kind == "confirm" and s.round == 0)
    live(engine)
    seen = noted(engine)
    assert "done" not in seen
    assert seen["unserved"] == ("waits for a worker: none that lives serves it", "hpo worker")
    assert seen["held"] == ("is paused, and nothing of it has begun", "hpo study resume held")
    assert seen["failing"][0].startswith("stands still: 3 of 8 trials failed")
    assert seen["failing"][1] == "hpo study resume failing"
    assert "failed in its confirm phase" in seen["confirming"][0]
    assert list(seen) == ["failing", "confirming", "unserved", "held"], "the worst first"
    live(engine, "another", data_digest="e" * 64)
    assert "unserved" not in noted(engine)
    with begin_write(engine) as connection:
        connection.execute(text("pragma foreign_keys = off") if engine.dialect.name == "sqlite" else text("select 1"))
        studies._delete_optuna(connection, [done.row.final_study_id])
    assert noted(engine)["done"][1] == "hpo study delete done --yes"
    assert study_progress(engine, "done").gone == ("done:final",)


def test_a_spec_that_cannot_be_read_stops_nothing(engine: Engine, make_study: MakeStudy) -> None:
    """Its counts are shown, what is the matter is said, and the others are as they were."""
    make_study("damaged")  # with a spec of two braces
    make(engine, named(small_spec("simple"), "whole"), limit=3)
    damaged, whole = overview(engine).studies
    assert damaged.unreadable is not None
    assert (damaged.metric, damaged.best, damaged.end) == (None, None, None)
    assert damaged.of("search").waiting == 10
    assert damaged.states == ("broken",)
    assert whole.best is not None
    assert "cannot read" in noted(engine)["damaged"][0]


def test_no_study_of_that_name(engine: Engine) -> None:
    with pytest.raises(StudyNotFound, match="no study is called 'x'"):
        study_progress(engine, "x")
    empty = overview(engine)
    assert (empty.studies, empty.workers, empty.attention) == ((), (), ())


def test_a_missing_file_is_not_made(tmp_path: object) -> None:
    engine = open_engine(f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(SchemaError, match="no database there yet"):
        overview(engine)
    engine.dispose()


def test_many_studies_need_no_more_statements(engine: Engine, statements: Watch) -> None:
    """A page of fifty studies asks the database as often as that of two."""

    def asked() -> int:
        with statements(engine) as seen:
            overview(engine)
        return len(seen)

    for index in range(2):
        make(engine, named(small_spec("ws", trials=4), f"ws-{index}"), limit=30)
    few = asked()
    for index in range(2, 12):
        make(engine, named(small_spec("ws", trials=4), f"ws-{index}"), limit=30)
    assert asked() == few <= 16


def test_a_deleted_study_leaves_no_trace(engine: Engine) -> None:
    make(engine, small_spec("ws", trials=4), limit=2)
    studies.delete_study(engine, "ws")
    with begin_write(engine) as connection:
        assert connection.execute(delete(slots_table)).rowcount == 0
    assert overview(engine).studies == ()
