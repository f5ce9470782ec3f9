"""`protocol.advance` on both databases: search -> confirm -> final -> done, by exactly one of many callers."""

import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from hpo.errors import StudyBusy
from hpo.storage import claims, slots, studies
from hpo.storage.engine import begin_write
from hpo.storage.optuna_storage import make_storage
from hpo.storage.slots import Kind, Slot
from hpo.storage.studies import NewStudy, StudyRow
from hpo.study import phases
from hpo.study.labels import PAPER, TUNED
from hpo.study.phases import ConfigurationDiffers, advance, round_seed
from hpo.study.repeats import repeat_spec
from hpo.study.spec import HYPERPARAMETERS, StudySpec, builtin_spec
from tests.support.commandline import PATIENCE
from tests.support.outcomes import outcome as outcome_of

Result = tuple[float, float] | str  # accuracy and loss, or "pruned", "diverged", "failed"
Law = Callable[[Slot], Result]


def spec_of(
    model: str = "ws", *, trials: int = 4, seed: int = 1, k: int = 2, confirm: int = 2, final: int = 3
) -> StudySpec:
    """The shipped spec on a budget that a test can fill."""
    tree = builtin_spec(model).with_options(trials=trials, rounds=final, seed=seed).model_dump()
    tree["protocol"].update(confirm_configurations=k, confirm_rounds=confirm)
    return StudySpec.model_validate(tree)


def create(engine: Engine, spec: StudySpec, phase: studies.Phase = "search", group: str | None = None) -> StudyRow:
    """As `hpo study create` makes it, all slots free to be claimed."""
    return studies.create_study(
        engine,
        NewStudy(
            name=spec.name,
            model=spec.model,
            spec=spec.canonical(),
            spec_digest=spec.digest,
            data_digest="d" * 64,
            seed=spec.seed,
            in_flight=spec.budget.in_flight,
            trial_seeds=phases.search_seeds(spec.seed, 0, spec.budget.trials),
            adaptive_from=None,
            reference=spec.reference,
            phase=phase,
            repeat_group=group,
        ),
    )


def params_of(slot: Slot) -> dict[str, float]:
    """What a sampler might have proposed: told apart by the learning rate."""
    return dict.fromkeys(HYPERPARAMETERS[slot.model], 0.001 * (slot.idx + 1))


def take(engine: Engine, row: StudyRow, n: int = 100) -> list[Slot]:
    return claims.claim(engine, n, worker="w", lease_seconds=60.0, model=row.model, study_ids=[row.id])


def end(engine: Engine, slot: Slot, result: Result) -> None:
    """What a worker does with a claimed slot."""
    assert slot.token is not None
    if slot.kind == "search":
        make_storage(engine).bind_trial(slot.id, slot.token)
        if slot.params is None:
            assert slots.record_params(engine, slot.id, slot.token, params_of(slot))
    if result == "failed":
        assert slots.fail(engine, slot.id, slot.token, "out of memory", retry=False)
        return
    state = result if isinstance(result, str) else "complete"
    value, loss = (0.5, None) if isinstance(result, str) else result
    assert slots.finish(engine, slot.id, slot.token, outcome_of(state, value, loss=loss))


def work(engine: Engine, row: StudyRow, law: Law) -> int:
    """End everything that waits, moving no phase on; returns how many there were."""
    claimed = take(engine, row)
    for slot in claimed:
        end(engine, slot, law(slot))
    return len(claimed)


def good(slot: Slot) -> Result:
    """In the search later slots are better, in confirm trial 2 is, in the final all are alike."""
    if slot.kind == "search":
        return 0.8 + 0.01 * slot.idx, 0.3
    return (0.9, 0.2) if slot.label == "trial 2" else (0.8, 0.4)


def paper_is_good(slot: Slot) -> Result:
    return (0.95, 0.1) if slot.label == PAPER else good(slot)


def now(engine: Engine, row: StudyRow) -> StudyRow:
    return studies.get_study_by_id(engine, row.id)


def rows_of(engine: Engine, row: StudyRow, kind: Kind) -> list[Slot]:
    return slots.list_slots(engine, row.id, kind)


def in_final(engine: Engine, spec: StudySpec, law: Law = good, group: str | None = None) -> StudyRow:
    """A study that has just entered its final."""
    row = create(engine, spec, group=group)
    work(engine, row, law)
    assert advance(engine, row) == "confirm"
    work(engine, row, law)
    assert advance(engine, row) == "final"
    return now(engine, row)


# --- The whole way ------------------------------------------------------------------------------------------


def test_a_study_goes_from_search_to_done(engine: Engine) -> None:
    """Each phase's slots are there once the phase before is over, and not earlier."""
    spec = spec_of()
    row = create(engine, spec)
    assert advance(engine, row) is None
    claimed = take(engine, row)
    for slot in claimed[:-1]:
        end(engine, slot, good(slot))
    assert advance(engine, row) is None  # one is still running
    end(engine, claimed[-1], good(claimed[-1]))
    assert rows_of(engine, row, "confirm") == []

    assert advance(engine, row) == "confirm"
    confirm = rows_of(engine, row, "confirm")
    # The best two besides the paper's are slots 3 and 2; trials are numbered as the slots here.
    assert [(s.label, s.round) for s in confirm] == [
        *[(PAPER, 0), (PAPER, 1), ("trial 3", 0), ("trial 3", 1), ("trial 2", 0), ("trial 2", 1)]
    ]
    assert [s.idx for s in confirm] == list(range(6))
    assert confirm[0].params == spec.paper
    assert confirm[2].params == params_of(claimed[3])
    assert advance(engine, row) is None

    assert work(engine, row, good) == 6
    assert now(engine, row).tuned is None
    assert advance(engine, row) == "final"
    assert now(engine, row).tuned == {"params": params_of(claimed[2]), "source": 2, "confirm_mean": 0.9}
    final = rows_of(engine, row, "final")
    assert [(s.label, s.round) for s in final] == [(label, r) for label in (PAPER, TUNED) for r in range(3)]
    assert [s.params for s in final] == [spec.paper] * 3 + [params_of(claimed[2])] * 3
    assert advance(engine, row) is None

    assert work(engine, row, good) == 6
    assert advance(engine, row) == "done"
    assert now(engine, row).phase == "done"
    assert advance(engine, row) is None
    assert take(engine, row) == []


def test_the_papers_win_has_its_rounds_once(engine: Engine) -> None:
    """Tuning has brought nothing: tuned is the paper's, with no second set of rounds."""
    spec = spec_of()
    row = in_final(engine, spec, paper_is_good)
    assert row.tuned == {"params": spec.paper, "source": PAPER, "confirm_mean": 0.95}
    assert [(s.label, s.round, s.params) for s in rows_of(engine, row, "final")] == [
        (PAPER, r, spec.paper) for r in range(3)
    ]


def test_a_tie_in_confirm_is_the_papers(engine: Engine) -> None:
    """Equal mean and loss: nothing was gained."""
    row = in_final(engine, spec_of(), lambda slot: (0.9, 0.2))
    assert row.tuned is not None
    assert row.tuned["source"] == PAPER


def test_rounds_share_their_seeds_over_models_and_configurations(engine: Engine) -> None:
    """Round r of every label, model and study has one seed; no two rounds, and no two kinds, share one."""
    actual: dict[tuple[str, int], set[int]] = {}
    for model, seed in (("simple", 1), ("ws", 2), ("ws-aux", 3)):
        spec = spec_of(model, seed=seed)
        row = in_final(engine, spec)
        for kind in ("confirm", "final"):
            for slot in rows_of(engine, row, kind):
                assert slot.round is not None
                assert slot.seed == round_seed(spec, kind, slot.round)
                actual.setdefault((kind, slot.round), set()).add(slot.seed)
    assert sorted(actual) == [("confirm", 0), ("confirm", 1), ("final", 0), ("final", 1), ("final", 2)]
    assert all(len(seeds) == 1 for seeds in actual.values())
    assert len(set.union(*actual.values())) == 5


def test_a_repeats_confirm_rounds_are_its_own(engine: Engine) -> None:
    """The same for each model, none that another repeat has; final rounds are those of every study."""
    actual: dict[tuple[str, int], set[int]] = {}
    for model, number in (("ws", 1), ("ws-aux", 1), ("ws", 2)):
        spec = repeat_spec(spec_of(model), number)
        row = in_final(engine, spec, group=model)
        for slot in rows_of(engine, row, "confirm"):
            actual.setdefault(("confirm", number), set()).add(slot.seed)
        final = rows_of(engine, row, "final")
        assert all(slot.seed == round_seed(spec, "final", slot.round or 0) for slot in final)
    whole = {round_seed(spec_of(), "confirm", r) for r in range(2)}
    assert [len(seeds) for seeds in actual.values()] == [2, 2]
    assert len(set.union(whole, *actual.values())) == 6


# --- Failures -----------------------------------------------------------------------------------------------


def test_a_failed_search_slot_counts(engine: Engine) -> None:
    """It is part of the budget: the search ends without it, and it is no candidate."""
    row = create(engine, spec_of())
    work(engine, row, lambda slot: "failed" if slot.idx == 3 else good(slot))
    assert advance(engine, row) == "confirm"
    assert {s.label for s in rows_of(engine, row, "confirm")} == {PAPER, "trial 2", "trial 1"}
    assert len(rows_of(engine, row, "search")) == 4


def test_a_failed_paper_trial_is_confirmed_all_the_same(engine: Engine) -> None:
    """The paper's configuration needs no result of the search to take part."""
    row = create(engine, spec_of())
    work(engine, row, lambda slot: "failed" if slot.idx == 0 else good(slot))
    assert advance(engine, row) == "confirm"
    assert PAPER in {s.label for s in rows_of(engine, row, "confirm")}


@pytest.mark.parametrize("result", ["pruned", "diverged"])
def test_without_a_candidate_the_paper_is_confirmed_alone(engine: Engine, result: str) -> None:
    """No trial came to its end: the study still reaches its final."""
    row = create(engine, spec_of())
    work(engine, row, lambda slot: result)
    assert advance(engine, row) == "confirm"
    assert [(s.label, s.round) for s in rows_of(engine, row, "confirm")] == [(PAPER, 0), (PAPER, 1)]
    work(engine, row, good)
    assert advance(engine, row) == "final"
    assert {s.label for s in rows_of(engine, row, "final")} == {PAPER}


@pytest.mark.parametrize(
    ("trials", "failed", "moves"), [(4, 1, True), (4, 2, False), (8, 2, True), (8, 3, False), (1, 1, False)]
)
def test_a_search_of_which_too_much_failed_is_blocked(engine: Engine, trials: int, failed: int, moves: bool) -> None:
    """At most a quarter counts; of more nothing is confirmed until the failed ones have been queued again."""
    row = create(engine, spec_of(trials=trials))
    work(engine, row, lambda slot: "failed" if slot.idx < failed else good(slot))
    assert phases.is_blocked(engine, row) is not moves
    assert advance(engine, row) == ("confirm" if moves else None)
    if not moves:
        assert slots.requeue_failed(engine, row.id, "search") == failed
        assert not phases.is_blocked(engine, row)
        assert work(engine, row, good) == failed
        assert advance(engine, row) == "confirm"


def test_fewer_candidates_than_asked_for(engine: Engine) -> None:
    """Five are wanted and three complete: three and the paper's go on."""
    row = create(engine, spec_of(k=5))
    work(engine, row, good)
    assert advance(engine, row) == "confirm"
    assert {s.label for s in rows_of(engine, row, "confirm")} == {PAPER, "trial 1", "trial 2", "trial 3"}


def test_a_failed_confirm_round_drops_its_configuration(engine: Engine) -> None:
    """The best one has a failed round, so the next best wins."""
    row = create(engine, spec_of())
    work(engine, row, good)
    advance(engine, row)
    work(
        engine, row, lambda s: "failed" if (s.label, s.round) == ("trial 2", 1) else (0.9, 0.1) if s.round else good(s)
    )
    assert advance(engine, row) == "final"
    tuned = now(engine, row).tuned
    assert tuned is not None
    assert tuned["source"] != 2


def test_confirm_waits_where_every_configuration_failed(engine: Engine) -> None:
    """Nobody can win, so nothing moves until the rounds are queued again."""
    row = create(engine, spec_of())
    work(engine, row, good)
    advance(engine, row)
    work(engine, row, lambda slot: "failed" if slot.round == 0 else good(slot))
    assert advance(engine, row) is None
    assert now(engine, row).phase == "confirm"
    assert rows_of(engine, row, "final") == []
    assert slots.requeue_failed(engine, row.id, "confirm") == 3
    work(engine, row, good)
    assert advance(engine, row) == "final"


def test_a_failed_final_round_blocks_done(engine: Engine) -> None:
    """A comparison over fewer rounds than asked for is never called done; queued again it may be."""
    row = in_final(engine, spec_of())
    work(engine, row, lambda slot: "failed" if slot.idx == 4 else good(slot))
    assert advance(engine, row) is None
    assert advance(engine, replace(row, phase="search")) is None  # nor where the first, cheap look was too old
    assert now(engine, row).phase == "final"
    assert slots.requeue_failed(engine, row.id, "final") == 1
    assert advance(engine, row) is None  # it waits again
    assert work(engine, row, good) == 1
    assert advance(engine, row) == "done"


# --- Evaluation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["search", "final"])
def test_an_evaluation_alone_goes_to_its_final(engine: Engine, phase: studies.Phase) -> None:
    """With 0 trials there is no confirm: the final has what `evaluate` adds, and nothing is tuned."""
    spec = spec_of(trials=0)
    row = create(engine, spec, phase)
    with begin_write(engine) as connection:
        assert phases.add_final(connection, row, spec, PAPER, spec.paper, 2) == 2
    if phase == "search":
        assert advance(engine, row) == "final"
    row = now(engine, row)
    assert advance(engine, row) is None
    assert work(engine, row, good) == 2
    assert advance(engine, row) == "done"
    assert now(engine, row).tuned is None
    assert rows_of(engine, row, "confirm") == []


def test_more_rounds_reopen_a_study_that_is_done(engine: Engine) -> None:
    """Only the missing ones are added, with the seeds that they would have had from the start."""
    spec = spec_of(trials=0)
    row = create(engine, spec, "final")
    with begin_write(engine) as connection:
        phases.add_final(connection, row, spec, PAPER, spec.paper, 2)
    work(engine, row, good)
    assert advance(engine, row) == "done"
    with begin_write(engine) as connection:
        assert phases.add_final(connection, row, spec, PAPER, spec.paper, 2) == 0
    assert now(engine, row).phase == "done"
    with begin_write(engine) as connection:
        assert phases.add_final(connection, row, spec, PAPER, spec.paper, 5) == 3
        assert phases.add_final(connection, row, spec, "mine", {**spec.paper, "dropout": 0.3}, 2) == 2
    assert now(engine, row).phase == "final"
    final = rows_of(engine, row, "final")
    assert [(s.label, s.round) for s in final] == [(PAPER, r) for r in range(5)] + [("mine", 0), ("mine", 1)]
    assert all(s.seed == round_seed(spec, "final", s.round or 0) for s in final)
    work(engine, row, good)
    assert advance(engine, now(engine, row)) == "done"


def test_rounds_evaluated_early_are_not_run_again(engine: Engine) -> None:
    """The paper's rounds may be added while the search goes on; the final adds what is missing."""
    spec = spec_of()
    row = create(engine, spec)
    with begin_write(engine) as connection:
        phases.add_final(connection, row, spec, PAPER, spec.paper, 1)
    assert now(engine, row).phase == "search"
    work(engine, row, good)
    assert advance(engine, row) == "confirm"
    work(engine, row, good)
    assert advance(engine, row) == "final"
    final = rows_of(engine, row, "final")
    assert sorted((s.label or "", s.round) for s in final) == [(label, r) for label in (PAPER, TUNED) for r in range(3)]


def test_a_label_is_one_configuration(engine: Engine) -> None:
    """Rounds of two configurations under one label would be averaged: refused, and nothing is added."""
    spec = spec_of(trials=0)
    row = create(engine, spec, "final")
    with begin_write(engine) as connection:
        phases.add_final(connection, row, spec, "mine", {**spec.paper, "dropout": 0.3}, 2)
    with pytest.raises(ConfigurationDiffers, match="'mine'"), begin_write(engine) as connection:
        phases.add_final(connection, row, spec, "mine", {**spec.paper, "dropout": 0.4}, 3)
    assert len(rows_of(engine, row, "final")) == 2


def test_the_papers_label_is_the_studys_own_paper(engine: Engine) -> None:
    """Another file's "paper" added during the search would stop every worker when confirm ends."""
    spec = spec_of()
    row = create(engine, spec)
    other = {**spec.paper, "dropout": 0.3}
    with pytest.raises(ConfigurationDiffers, match="'paper'"), begin_write(engine) as connection:
        phases.add_final(connection, row, spec, PAPER, other, 2)
    work(engine, row, good)
    assert advance(engine, row) == "confirm"
    work(engine, row, good)
    assert advance(engine, row) == "final"


def test_the_tuned_label_is_the_confirmed_configuration(engine: Engine) -> None:
    """Where the paper's won, no other file's configuration may pass for the study's tuned one."""
    spec = spec_of()
    row = in_final(engine, spec, paper_is_good)
    with pytest.raises(ConfigurationDiffers, match="'tuned'"), begin_write(engine) as connection:
        phases.add_final(connection, row, spec, TUNED, {**spec.paper, "dropout": 0.3}, 2)


# --- One of many --------------------------------------------------------------------------------------------


def all_at_once(open_database: Callable[[str], Engine], url: str, row: StudyRow, callers: int = 6) -> list[str | None]:
    """What `advance` answers to threads that call it at once, each with an engine of its own."""
    barrier = threading.Barrier(callers)
    engines = [open_database(url) for _ in range(callers)]

    def call(engine: Engine) -> str | None:
        barrier.wait()
        return advance(engine, row)

    with ThreadPoolExecutor(callers) as pool:
        return list(pool.map(call, engines))


def test_one_of_many_threads_moves_each_phase(
    database_url: str, open_database: Callable[[str], Engine], engine: Engine
) -> None:
    """Every phase is entered once and its slots are inserted once."""
    row = create(engine, spec_of())
    counts: Mapping[str, tuple[Kind, int]] = {"confirm": ("confirm", 6), "final": ("final", 6), "done": ("final", 6)}
    for phase, (kind, slots_there) in counts.items():
        work(engine, row, good)
        assert sorted(all_at_once(open_database, database_url, row), key=str) == [None] * 5 + [phase]
        assert now(engine, row).phase == phase
        assert len(rows_of(engine, row, kind)) == slots_there


_CALLER = """
import sys, time
from pathlib import Path
from hpo.study import phases
from hpo.storage.engine import open_engine
from hpo.storage import studies
url, study, folder, me = sys.argv[1:]
engine = open_engine(url)
row = studies.get_study_by_id(engine, int(study))
Path(folder, me).touch()
while len(list(Path(folder).iterdir())) < 3:
    time.sleep(0.001)
print(phases.advance(engine, row))
"""


def test_one_of_many_processes_moves_a_phase(sqlite_url: str, sqlite_engine: Engine, tmp_path: Path) -> None:
    """Between processes too, where SQLite's lock is the file's."""
    engine = sqlite_engine
    row = create(engine, spec_of())
    work(engine, row, good)
    folder = tmp_path / "ready"
    folder.mkdir()
    words = [sys.executable, "-c", _CALLER, sqlite_url, str(row.id), str(folder)]
    running = [subprocess.Popen([*words, str(i)], stdout=subprocess.PIPE, text=True) for i in range(3)]
    said = [process.communicate(timeout=PATIENCE)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sorted(said) == ["None", "None", "confirm"]
    assert len(rows_of(engine, row, "confirm")) == 6


def test_finishing_and_advancing_together_never_strands_a_study(
    database_url: str, open_database: Callable[[str], Engine], engine: Engine
) -> None:
    """Whoever ends the last slots attempts the phase after its own commit: one of them succeeds, each time."""
    row = create(engine, spec_of(trials=4, final=4))
    engines = [open_database(database_url) for _ in range(4)]
    while now(engine, row).phase != "done":
        before = now(engine, row).phase
        held = take(engine, row)
        barrier = threading.Barrier(4)

        def finish(place: int, held: list[Slot] = held, barrier: threading.Barrier = barrier) -> str | None:
            mine = held[place::4]
            for slot in mine[:-1]:
                end(engines[place], slot, good(slot))
            barrier.wait()
            for slot in mine[-1:]:
                end(engines[place], slot, good(slot))
            return advance(engines[place], row)

        with ThreadPoolExecutor(4) as pool:
            moves = [move for move in pool.map(finish, range(4)) if move]
        assert len(moves) == 1
        assert now(engine, row).phase == moves[0] != before


def test_a_phase_and_its_slots_come_together(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the two, neither is there: the next caller does both."""
    row = create(engine, spec_of())
    work(engine, row, good)

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(slots, "add_slots", killed)
        with pytest.raises(KeyboardInterrupt):
            advance(engine, row)
    assert now(engine, row).phase == "search"
    assert rows_of(engine, row, "confirm") == []
    assert advance(engine, row) == "confirm"
    assert len(rows_of(engine, row, "confirm")) == 6


@pytest.mark.parametrize("phase", ["search", "final", "blocked", "done"])
def test_a_look_takes_no_write_lock(sqlite_engine: Engine, phase: str) -> None:
    """Idle workers look every second: where nothing is to do they must not queue up behind the writers."""
    engine = sqlite_engine
    if phase == "search":
        row = create(engine, spec_of())
    else:
        row = in_final(engine, spec_of())
        if phase == "blocked":
            work(engine, row, lambda slot: "failed")
        if phase == "done":
            work(engine, row, good)
            assert advance(engine, row) == "done"
            row = now(engine, row)
    answers: list[str | None] = []
    looking = threading.Thread(target=lambda: answers.append(advance(engine, row)), daemon=True)
    with begin_write(engine):
        looking.start()
        looking.join(5)
        assert answers == [None]


def test_a_stale_row_moves_nothing_wrongly(engine: Engine) -> None:
    """A caller may have read the study long ago: what counts is the phase under the lock."""
    row = create(engine, spec_of())
    work(engine, row, good)
    assert advance(engine, row) == "confirm"
    work(engine, row, good)
    assert advance(engine, row) == "final"  # this row still says search
    work(engine, row, good)
    assert advance(engine, row) == "done"
    assert advance(engine, row) is None


def test_a_deleted_study_moves_nowhere(engine: Engine) -> None:
    """Its workers find that out elsewhere."""
    row = create(engine, spec_of())
    studies.delete_study(engine, row.name)
    assert advance(engine, row) is None


def test_a_study_is_extended_only_before_confirm(engine: Engine) -> None:
    """Added trials belong to the search; once confirm has chosen among them it is too late."""
    row = create(engine, spec_of())
    work(engine, row, good)
    assert studies.extend_study(engine, row, [1, 2], adaptive_from=None) == 6
    assert advance(engine, row) is None
    assert work(engine, row, good) == 2
    assert advance(engine, row) == "confirm"
    with pytest.raises(StudyBusy, match="past its search"):
        studies.extend_study(engine, row, [3], adaptive_from=None)
