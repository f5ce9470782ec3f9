"""How a study searches: Optuna asked directly is the oracle of ask and of pruning; tell may be repeated by anybody."""

import math
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import GPSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Engine, event

from hpo.storage import claims, slots, studies
from hpo.storage.engine import begin_write
from hpo.storage.optuna_storage import CachedHpoStorage, EpochRecord, open_optuna
from hpo.storage.outcome import Outcome
from hpo.storage.slots import Kind, Slot
from hpo.storage.studies import NewStudy, StudyRow
from hpo.study import phases
from hpo.study.digits_spec import CHANCE
from hpo.study.projection import project
from hpo.study.search import Search, _sampler, distributions, fixed_trial
from hpo.study.spec import HYPERPARAMETERS, MODELS, StudySpec, builtin_spec
from hpo.training.seeds import derive
from tests.support.fixtures import Watch
from tests.support.outcomes import outcome

STARTUP = 5
EPOCHS = 9
OUTSIDE = {"learning_rate": 1.0, "weight_decay": 0.5, "dropout": 0.9}  # each beyond studies/ws.toml


def spec_of(sampler: str = "tpe", pruner: str = "median", *, trials: int = 12, **more: Any) -> StudySpec:
    """The shipped study of ws, shortened; `more` replaces whole keys."""
    tree = builtin_spec("ws").with_options(trials=trials, epochs=EPOCHS).model_dump()
    tree["sampler"] = {"name": sampler, "startup_trials": STARTUP}
    tree["pruner"]["name"] = pruner
    tree["budget"]["in_flight"] = 100
    return StudySpec.model_validate(tree | more)


class Worker:
    """A worker's way through a study, without training: claim, bind, ask, report, finish, tell."""

    def __init__(self, engine: Engine, row: StudyRow) -> None:
        self.engine, self.row = engine, row
        self.storage: CachedHpoStorage = open_optuna(engine)
        self.search = Search(self.storage, row)

    def take(self, n: int = 1) -> list[Slot]:
        """Claimed and bound slots, not yet asked."""
        claimed = claims.claim(
            self.engine, n, worker="host:1", lease_seconds=600.0, model=self.row.model, study_ids=[self.row.id]
        )
        return [self.bind(slot) for slot in claimed]

    def bind(self, slot: Slot) -> Slot:
        assert slot.token is not None
        template = None
        if slot.kind != "search":
            template = fixed_trial(self.search.spec, slot.params or {}, slot.label or "", slot.round or 0)
        bound = self.storage.bind_trial(slot.id, slot.token, template)
        return replace(slot, trial_id=bound.trial_id, trial_number=bound.number)

    def ask(self, slot: Slot) -> dict[str, float]:
        return {name: float(value) for name, value in self.search.ask(slot).items()}

    def report(self, slot: Slot, values: Mapping[int, float]) -> None:
        assert slot.token is not None
        assert slot.trial_id is not None
        rows = [
            EpochRecord(slot_id=slot.id, token=slot.token, trial_id=slot.trial_id, epoch=epoch, value=value)
            for epoch, value in values.items()
        ]
        assert self.storage.report(rows, 600.0) == set()

    def finish(self, slot: Slot, state: str = "complete", value: float = 0.8, epochs: int = EPOCHS) -> Slot:
        """Store the outcome; Optuna is not told."""
        assert slot.token is not None
        assert slots.finish(self.engine, slot.id, slot.token, outcome_of(slot, state, value, epochs))
        return slots.get_slot(self.engine, slot.id)

    def fail(self, slot: Slot, error: str = "out of memory") -> Slot:
        assert slot.token is not None
        assert slots.fail(self.engine, slot.id, slot.token, error, retry=False)
        return slots.get_slot(self.engine, slot.id)

    def tell(self) -> None:
        """Project what is untold, as every worker does now and then."""
        project(self.engine, self.search)

    def is_poor(self, slot: Slot, search: Search | None = None) -> bool:
        """Whether the slot's trial should stop, by what it has reported."""
        return bool((search or self.search).to_prune([(slot, self.trial(slot).intermediate_values)]))

    def trial(self, slot: Slot) -> FrozenTrial:
        assert slot.trial_id is not None
        return self.storage.backend.get_trial(slot.trial_id)

    def run(self, n: int, law: Callable[[dict[str, float]], float] | None = None) -> list[dict[str, float]]:
        """Search n slots one after the other; returns what was proposed."""
        proposed = []
        for _ in range(n):
            (slot,) = self.take()
            proposed.append(self.ask(slot))
            value = (law or accuracy)(proposed[-1])
            self.report(slot, {epoch: value * epoch / EPOCHS for epoch in range(1, EPOCHS + 1)})
            self.finish(slot, value=value)
            self.tell()
        return proposed


def accuracy(params: Mapping[str, float]) -> float:
    """A law with a best place: learning rate 1e-3, dropout 0.2."""
    return 0.9 - 0.05 * abs(math.log10(params["learning_rate"]) + 3) - 0.2 * abs(params["dropout"] - 0.2)


def outcome_of(slot: Slot, state: str, value: float, epochs: int) -> Outcome:
    """As a worker makes it."""
    return outcome(
        state,
        CHANCE if state == "diverged" else value,
        epochs=epochs,
        train_accuracy=0.97 if state == "complete" else None,
        train_loss=[1 / epoch for epoch in range(1, epochs + 1)],
        validation_accuracy=[0.1 * epoch for epoch in range(1, epochs + 1)],
        attempt=slot.attempt,
        worker=slot.worker,
        seconds=12.5,
        device="cpu x86_64, 1 thread(s)",
        git_commit="0123456789abcdef",
        seeds={"slot": slot.seed, "draw": 1},
    )


def start(engine: Engine, spec: StudySpec) -> Worker:
    """The study as `hpo study create` makes it, and a worker for it."""
    new = NewStudy(
        name=spec.name,
        model=spec.model,
        spec=spec.canonical(),
        spec_digest=spec.digest,
        data_digest="d" * 64,
        seed=spec.seed,
        in_flight=spec.budget.in_flight,
        trial_seeds=phases.search_seeds(spec.seed, 0, spec.budget.trials),
        adaptive_from=None if spec.sampler.name == "random" else spec.sampler.startup_trials,
        reference=spec.reference,
        tuned=spec.tuned,
        open_early=True,
    )
    return Worker(engine, studies.create_study(engine, new))


@pytest.fixture
def fresh(sqlite_template: Path, tmp_path: Path, open_database: Callable[[str], Engine]) -> Callable[[], Engine]:
    """Makes SQLite databases, as many as a test compares."""
    made = iter(range(100))

    def make() -> Engine:
        path = tmp_path / f"fresh{next(made)}.db"
        shutil.copy(sqlite_template, path)
        return open_database(f"sqlite:///{path}")

    return make


def twin(engine: Engine, open_database: Callable[[str], Engine], path: Path) -> Engine:
    """A copy of a SQLite database as it is now."""
    engine.dispose()  # the last connection writes the log back into the file
    shutil.copy(str(engine.url.database), path)
    return open_database(f"sqlite:///{path}")


def inside(params: Mapping[str, float], spec: StudySpec) -> bool:
    return all(spec.space[name].low <= value <= spec.space[name].high for name, value in params.items())


# --- The space ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_the_space_is_the_specs(model: str) -> None:
    """All hyperparameters jointly, in the table's order, with their bounds and scales."""
    spec = builtin_spec(model)
    space = distributions(spec)
    assert tuple(space) == HYPERPARAMETERS[spec.model]
    for name, actual in space.items():
        asked = spec.space[name]
        assert actual == FloatDistribution(asked.low, asked.high, log=asked.log)


# --- Trials that are known beforehand -----------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_trial_0_has_the_papers_values_even_outside_the_space(sqlite_engine: Engine, sampler: str) -> None:
    """They are kept as they are, and the samplers go on inside the space."""
    spec = spec_of(sampler, paper=OUTSIDE, trials=STARTUP + 1)
    worker = start(sqlite_engine, spec)
    proposed = worker.run(spec.budget.trials)
    assert proposed[0] == OUTSIDE
    first = slots.list_slots(sqlite_engine, worker.row.id, "search")[0]
    assert (first.idx, first.trial_number) == (0, 0)
    trial = worker.trial(first)
    assert (trial.number, trial.params, trial.state) == (0, OUTSIDE, TrialState.COMPLETE)
    assert not any(inside({name: value}, spec) for name, value in OUTSIDE.items())
    assert all(inside(params, spec) for params in proposed[1:])


def test_a_tuned_configuration_is_trial_1(engine: Engine) -> None:
    """What an exported file brings is tried right after the paper's."""
    tuned = {"learning_rate": 1e-3, "weight_decay": 1e-5, "dropout": 0.2}
    worker = start(engine, spec_of(tuned=tuned))
    paper, second, third = worker.run(3)
    assert paper == worker.search.spec.paper
    assert second == tuned
    assert third not in (paper, tuned)


# --- Random start-up trials ---------------------------------------------------------------------------------


def test_a_startup_slot_is_random_by_its_own_seed_alone(fresh: Callable[[], Engine]) -> None:
    """Two workers with other histories propose the same for the same slot, and other things for other slots."""
    spec = spec_of()
    search, other = (start(fresh(), spec) for _ in range(2))
    first = search.run(STARTUP, law=accuracy)
    taken = other.take(STARTUP)  # all at once, none told, and asked backwards
    second = [other.ask(slot) for slot in reversed(taken)][::-1]
    assert first == second
    assert len({tuple(params.items()) for params in first}) == STARTUP
    assert all(inside(params, spec) for params in first)
    assert not set(first[1].values()) & set(first[2].values())


def test_another_study_seed_gives_other_startup_trials(fresh: Callable[[], Engine]) -> None:
    """Repeats of a study share only the paper's trial."""
    runs = [start(fresh(), spec_of(seed=seed)).run(4) for seed in (1, 2)]
    assert runs[0][0] == runs[1][0]
    values = [{value for params in run[1:] for value in params.values()} for run in runs]
    assert not values[0] & values[1]


def test_startup_trials_cover_the_space(sqlite_engine: Engine) -> None:
    """Uniform in the value or its logarithm, and of unrelated seeds: each quarter of a range has its share."""
    spec = spec_of("random", trials=1, seed=7)
    worker = start(sqlite_engine, spec)
    (slot,) = worker.take()
    trial = worker.trial(slot)
    for name, space in distributions(spec).items():
        assert isinstance(space, FloatDistribution)
        scale = math.log if space.log else float
        low, high = scale(space.low), scale(space.high)
        quarters = [0, 0, 0, 0]
        for seed in phases.search_seeds(7, 1, 401):
            sampler = _sampler(spec, replace(slot, seed=seed))
            drawn = [sampler.sample_independent(None, trial, n, d) for n, d in distributions(spec).items()]  # type: ignore[arg-type]
            value = dict(zip(distributions(spec), drawn, strict=True))[name]
            quarters[int(4 * (scale(value) - low) / (high - low))] += 1
        assert sum((n - 100) ** 2 / 100 for n in quarters) < 20  # chi-squared, 3 degrees of freedom


def test_random_repeats_a_whole_study(fresh: Callable[[], Engine]) -> None:
    """With `random` no slot depends on results: in another order and with other results, the same proposals."""
    spec = spec_of("random", "none")
    search, other = (start(fresh(), spec) for _ in range(2))
    assert search.run(12) == [other.ask(slot) for slot in other.take(12)]


# --- Adaptive trials ----------------------------------------------------------------------------------------


def oracle(
    worker: Worker, sampler: optuna.samplers.BaseSampler, slot: Slot, *, running: bool = True
) -> dict[str, float]:
    """What Optuna's own ask proposes for the slot, over a copy of the trials that there are."""
    memory = InMemoryStorage()
    study = optuna.create_study(storage=memory, sampler=sampler, direction="maximize")
    for trial in worker.storage.backend.get_all_trials(worker.row.search_study_id):
        if trial.number != slot.trial_number and (running or trial.state != TrialState.RUNNING):
            memory.create_new_trial(study._study_id, template_trial=trial)
    asked = study.ask(distributions(worker.search.spec))
    return dict(asked.params)


def seed_of(slot: Slot) -> int:
    return derive(slot.seed, "sampler") % 2**32


def test_an_adaptive_slot_is_asked_of_multivariate_tpe(sqlite_engine: Engine) -> None:
    """As Optuna's TPESampler proposes by the same seed and trials; all parameters come from one joint sample."""
    worker = start(sqlite_engine, spec_of())
    worker.run(STARTUP)
    (slot,) = worker.take()
    assert slot.adaptive
    expected = oracle(worker, TPESampler(seed=seed_of(slot), n_startup_trials=STARTUP), slot)
    asked = worker.ask(slot)
    assert asked == expected
    relative = [key for key in worker.trial(slot).system_attrs if key.startswith("tpe:relative_params")]
    assert len(relative) == 1  # else every parameter would have been sampled by itself


def test_what_runs_counts_as_bad(sqlite_engine: Engine) -> None:
    """Constant liar: with seven others running TPE proposes something else than without them, as Optuna does."""
    worker = start(sqlite_engine, spec_of(trials=20))
    worker.run(STARTUP + 4)
    taken = worker.take(8)
    asked = [worker.ask(slot) for slot in taken]
    sampler = TPESampler(seed=seed_of(taken[-1]), n_startup_trials=STARTUP)
    alone = TPESampler(seed=seed_of(taken[-1]), n_startup_trials=STARTUP)
    assert asked[-1] == oracle(worker, sampler, taken[-1])
    assert asked[-1] != oracle(worker, alone, taken[-1], running=False)
    assert len({tuple(params.items()) for params in asked}) == 8


def test_an_adaptive_slot_depends_on_results_and_on_its_seed(fresh: Callable[[], Engine]) -> None:
    """The same results give the same proposal, other results another one, another slot another one."""
    spec = spec_of()

    def upside_down(params: dict[str, float]) -> float:
        return 1.4 - accuracy(params)

    proposals = []
    for law in (accuracy, accuracy, upside_down):
        worker = start(fresh(), spec)
        worker.run(STARTUP, law)
        proposals.append([worker.ask(slot) for slot in worker.take(2)])
    assert proposals[0] == proposals[1]
    assert proposals[0][0] != proposals[0][1]
    assert proposals[0][0] != proposals[2][0]


def test_gp_proposes_by_optunas_gaussian_process(sqlite_engine: Engine) -> None:
    """As Optuna's GPSampler by the same seed, beside a running, a pruned, a diverged and a failed trial."""
    worker = start(sqlite_engine, spec_of("gp", trials=STARTUP + 6))
    worker.run(STARTUP)
    pruned, diverged, failed, running, slot = worker.take(5)
    for other in (pruned, diverged, failed, running):
        worker.ask(other)
    worker.report(pruned, {1: 0.5})
    worker.finish(pruned, "pruned", 0.5, 1)
    worker.finish(diverged, "diverged", epochs=2)
    worker.fail(failed)
    worker.tell()
    assert slot.adaptive
    expected = oracle(worker, GPSampler(seed=seed_of(slot), n_startup_trials=STARTUP), slot)
    asked = worker.ask(slot)
    assert asked == pytest.approx(expected)
    assert inside(asked, worker.search.spec)
    assert any(key.startswith("gp:") for key in worker.trial(slot).system_attrs)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_second_attempt_keeps_its_trial_and_parameters(sqlite_engine: Engine, sampler: str) -> None:
    """A slot that comes back continues the same trial, whatever has been learned meanwhile."""
    worker = start(sqlite_engine, spec_of(sampler))
    worker.run(STARTUP + 1)
    (slot,) = worker.take()
    asked = worker.ask(slot)
    assert slots.release(sqlite_engine, slot.id, slot.token or "")
    other = Worker(sqlite_engine, worker.row)
    again, following = other.take(2)
    assert (again.id, again.trial_id, again.attempt) == (slot.id, slot.trial_id, 2)
    other.ask(following)
    assert other.search.ask(again) == asked
    assert other.trial(again).params == asked


# --- Tell ---------------------------------------------------------------------------------------------------


def told(worker: Worker, slot: Slot) -> FrozenTrial:
    """The trial after the slot has been told, and that the slot is marked so."""
    worker.tell()
    assert slots.get_slot(worker.engine, slot.id).told
    assert slots.untold(worker.engine) == []
    return worker.trial(slot)


def claim_slot(worker: Worker) -> Slot:
    (slot,) = worker.take()
    worker.ask(slot)
    return slot


def test_a_complete_slot_is_told_with_its_value(engine: Engine) -> None:
    """COMPLETE with the outcome's value, feasible."""
    worker = start(engine, spec_of())
    slot = claim_slot(worker)
    worker.report(slot, {EPOCHS: 0.4})  # not what is told
    worker.finish(slot, value=0.8125)
    trial = told(worker, slot)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.8125)
    assert trial.constraints == {"diverged": 0.0}


def test_a_diverged_slot_is_told_complete_at_chance(engine: Engine) -> None:
    """The sampler learns from it as from a bad, infeasible trial; FAIL would teach nothing."""
    worker = start(engine, spec_of())
    slot = claim_slot(worker)
    worker.report(slot, {1: 0.9})
    worker.finish(slot, "diverged", epochs=2)
    trial = told(worker, slot)
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 0.5)
    assert trial.constraints == {"diverged": 1.0}
    assert trial.user_attrs["result"]["state"] == "diverged"


def test_a_pruned_slot_is_told_pruned_with_its_last_report(engine: Engine) -> None:
    """Optuna takes the value from the last report."""
    worker = start(engine, spec_of())
    slot = claim_slot(worker)
    worker.report(slot, {1: 0.5, 2: 0.625})
    worker.finish(slot, "pruned", 0.625, 2)
    trial = told(worker, slot)
    assert (trial.state, trial.value, trial.last_step) == (TrialState.PRUNED, 0.625, 2)


def test_a_failed_slot_is_told_fail_with_its_error(engine: Engine) -> None:
    """FAIL and the end of a long traceback, where the reason stands."""
    worker = start(engine, spec_of())
    slot = claim_slot(worker)
    worker.fail(slot, "Traceback" + "." * 5000 + "CUDA out of memory")
    trial = told(worker, slot)
    assert trial.state == TrialState.FAIL
    assert trial.user_attrs["error"].endswith("CUDA out of memory")
    assert len(trial.user_attrs["error"]) <= 2000
    assert trial.user_attrs["attempt"] == 1


def test_a_slot_that_failed_before_its_trial_was_made_is_told(engine: Engine) -> None:
    """There is nothing to tell Optuna; the slot is marked all the same, so nobody asks again."""
    worker = start(engine, spec_of())
    worker.run(1)
    (claimed,) = claims.claim(engine, 1, worker="w", lease_seconds=60.0, model="ws", study_ids=[worker.row.id])
    assert claimed.trial_id is None
    worker.fail(claimed)
    worker.tell()
    assert slots.untold(engine) == []
    assert len(worker.storage.backend.get_all_trials(worker.row.search_study_id)) == 1


def test_the_papers_slot_may_fail_before_its_trial_starts(engine: Engine) -> None:
    """Its trial is made with the study and still waits: it is told FAIL, and the workers go on."""
    worker = start(engine, spec_of())
    (claimed,) = claims.claim(engine, 1, worker="w", lease_seconds=60.0, model="ws", study_ids=[worker.row.id])
    assert worker.trial(claimed).state == TrialState.WAITING
    worker.fail(claimed)
    assert told(worker, claimed).state == TrialState.FAIL


@pytest.mark.parametrize("state", ["complete", "pruned", "diverged", "failed"])
def test_twice_told_is_once_told(engine: Engine, state: str) -> None:
    """By the same worker and by another one, before and after the slot is marked: nothing changes."""
    worker = start(engine, spec_of())
    slot = claim_slot(worker)
    worker.report(slot, {1: 0.5})
    ended = worker.fail(slot) if state == "failed" else worker.finish(slot, state, 0.5, 1)
    worker.search.tell(ended)
    first = worker.trial(slot)
    assert first.state.is_finished()
    worker.search.tell(ended)
    Worker(engine, worker.row).search.tell(ended)
    assert worker.trial(slot) == first
    assert told(worker, slot) == first


class Cut(Exception):
    """A teller stops here."""


@pytest.mark.parametrize("state", ["complete", "pruned", "diverged", "failed"])
def test_a_tell_that_broke_off_is_completed_by_another(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Cut after any of its statements nothing has happened, and whoever tells next does all of it."""
    worker = start(engine, spec_of())
    slot = claim_slot(worker)
    ended = worker.fail(slot) if state == "failed" else worker.finish(slot, state, 0.75, 2)
    before, left, cut = worker.trial(slot), 0, 0

    def dying(connection: Connection, cursor: Any, statement: str, *_: Any) -> None:
        nonlocal left
        if statement.startswith("BEGIN"):
            return
        if left == 0:
            raise Cut
        left -= 1

    event.listen(engine, "after_cursor_execute", dying)
    for left in range(1, 30):
        try:
            worker.search.tell(ended)
            break
        except Cut:
            cut += 1
            left = 1000
            assert worker.trial(slot) == before
            assert not slots.get_slot(engine, slot.id).told
    event.remove(engine, "after_cursor_execute", dying)
    assert cut >= (3 if state == "failed" else 6), "the slot, what its trial keeps, its state"
    trial = told(Worker(engine, worker.row), slot)
    kinds = {"failed": TrialState.FAIL, "pruned": TrialState.PRUNED}
    assert trial.state == kinds.get(state, TrialState.COMPLETE)
    if state != "failed":
        assert trial.value == (CHANCE if state == "diverged" else 0.2 if state == "pruned" else 0.75)
        assert trial.constraints == {"diverged": float(state == "diverged")}
        assert set(trial.user_attrs) == {"result", "train_accuracy", "loss_curve", "record"}


def test_workers_that_tell_at_once_do_not_disturb_each_other(engine: Engine) -> None:
    """Everybody who finds a slot untold tells it: the slower ones find the trial finished, which is no error."""
    worker = start(engine, spec_of())
    for state in ("complete", "pruned", "diverged", "failed"):
        slot = claim_slot(worker)
        worker.report(slot, {1: 0.5})
        ended = worker.fail(slot) if state == "failed" else worker.finish(slot, state, 0.5, 1)
        searches = [Worker(engine, worker.row).search for _ in range(4)]
        barrier = threading.Barrier(4)

        def tell(search: Search, ended: Slot = ended, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            search.tell(ended)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(tell, searches))
        assert told(worker, slot).state.is_finished()


def test_a_tell_by_another_version_is_left_as_it_is(engine: Engine) -> None:
    """One that tells by Optuna's own calls and marks the slot afterwards may be first."""
    worker = start(engine, spec_of())
    slot = claim_slot(worker)
    ended = worker.finish(slot, value=0.75)
    study = optuna.load_study(study_name=worker.row.name, storage=worker.storage)
    study.tell(slot.trial_number or 0, 0.75)
    before = worker.trial(slot)
    assert worker.search.tell(ended)
    assert worker.trial(slot) == before
    assert slots.untold(engine) == []


def test_everything_told_lets_the_next_ask_use_it(sqlite_engine: Engine) -> None:
    """A worker that has asked before sees what others told meanwhile, for the cached trials too."""
    worker, other = (w := start(sqlite_engine, spec_of())), Worker(sqlite_engine, w.row)
    worker.run(STARTUP)
    other.run(2)
    (slot,) = worker.take()
    expected = oracle(worker, TPESampler(seed=seed_of(slot), n_startup_trials=STARTUP), slot)
    assert worker.ask(slot) == expected


# --- What a trial keeps -------------------------------------------------------------------------------------


def test_a_trial_keeps_everything_about_its_training(engine: Engine) -> None:
    """Seeds, attempt, worker, device, seconds, accuracy, loss curve, versions, commit, digests: few attributes."""
    worker = start(engine, spec_of())
    slot = claim_slot(worker)
    ended = worker.finish(slot, value=0.8)
    kept = told(worker, slot).user_attrs
    assert ended.outcome is not None
    assert kept["result"] == {
        "state": "complete",
        "loss": 0.25,
        "train_accuracy": 0.97,
        "epochs": EPOCHS,
        "seconds": 12.5,
        "attempt": 1,
        "worker": "host:1",
        "device": "cpu x86_64, 1 thread(s)",
    }
    assert kept["train_accuracy"] == 0.97
    assert kept["loss_curve"] == list(ended.outcome.train_loss)
    assert kept["record"] == {
        "seeds": {"slot": slot.seed, "draw": 1},
        "versions": ended.outcome.versions,
        "git_commit": "0123456789abcdef",
        "spec_digest": ended.outcome.spec_digest,
        "data_digest": "d" * 64,
    }
    assert len(kept) <= 4  # each costs a write


def test_rounds_are_trials_of_studies_of_their_own(engine: Engine) -> None:
    """Confirm and final rounds stand in NAME:confirm and NAME:final, say whose they are, and are told there."""
    spec = spec_of(trials=0)
    worker = start(engine, spec)
    studies_of: dict[Kind, int] = {"confirm": worker.row.confirm_study_id, "final": worker.row.final_study_id}
    for kind, study_id in studies_of.items():
        new = [slots.NewSlot(seed=7, label="trial 3", params={**spec.paper, "dropout": 0.3}, round=2)]
        with begin_write(engine) as connection:
            slots.add_slots(connection, worker.row.id, kind, new)
        (slot,) = worker.take()
        worker.finish(slot, value=0.9)
        worker.search.tell(slots.get_slot(engine, slot.id))
        (trial,) = worker.storage.backend.get_all_trials(study_id)
        assert (trial.state, trial.value, trial.number) == (TrialState.COMPLETE, 0.9, 0)
        assert trial.params == {**spec.paper, "dropout": 0.3}
        assert (trial.user_attrs["configuration"], trial.user_attrs["round"]) == ("trial 3", 2)
        assert trial.user_attrs["record"]["seeds"]["slot"] == 7


def test_rounds_outside_the_space_are_kept_beside_those_inside(engine: Engine) -> None:
    """Any configuration can be evaluated: outside the space, and without weight decay where its scale is a log."""
    spec = spec_of(trials=0)
    worker = start(engine, spec)
    configurations = [spec.paper, OUTSIDE, {**spec.paper, "weight_decay": 0.0}, spec.paper]
    new = [slots.NewSlot(seed=1, label=str(i), params=p, round=0) for i, p in enumerate(configurations)]
    with begin_write(engine) as connection:
        slots.add_slots(connection, worker.row.id, "final", new)
    for slot, params in zip(worker.take(4), configurations, strict=True):
        assert slot.params == params
        trial = worker.trial(slot)
        assert {
            **trial.params,
            **{name: trial.user_attrs[name] for name in params if name not in trial.params},
        } == params
        worker.finish(slot)
    worker.tell()
    assert slots.untold(engine) == []


# --- Pruning ------------------------------------------------------------------------------------------------


def curve(place: int, epoch: int) -> float:
    """Learning curves that cross, so that a trial's fate changes from epoch to epoch."""
    return 0.5 + 0.4 * (epoch / EPOCHS) * math.sin(1.7 * place) ** 2 + 0.05 * math.cos(place * epoch)


def history(worker: Worker, n: int) -> None:
    """Complete trials with whole curves."""
    for place in range(n):
        slot = claim_slot(worker)
        worker.report(slot, {epoch: curve(place, epoch) for epoch in range(1, EPOCHS + 1)})
        worker.finish(slot, value=curve(place, EPOCHS))
    worker.tell()


def optunas(worker: Worker, slot: Slot, pruner: BasePruner) -> bool:
    """Optuna's own answer for the same trial."""
    study = optuna.load_study(study_name=worker.row.name, storage=worker.storage, pruner=pruner)
    assert slot.trial_id is not None
    return optuna.Trial(study, slot.trial_id).should_prune()


def test_median_pruning_is_optunas(sqlite_engine: Engine) -> None:
    """Epoch by epoch the same decision, both ways; nothing before the warm-up."""
    spec = spec_of(trials=20)
    worker = start(sqlite_engine, spec)
    history(worker, STARTUP)
    assert spec.warmup_epochs == 5
    decisions = []
    for place in range(STARTUP, STARTUP + 4):
        slot = claim_slot(worker)
        for epoch in range(1, EPOCHS + 1):
            worker.report(slot, {epoch: curve(place, epoch)})
            pruner = MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=spec.warmup_epochs)
            decision = worker.is_poor(slot)
            assert decision == optunas(worker, slot, pruner)
            decisions.append((epoch, decision))
        worker.finish(slot, value=curve(place, EPOCHS))
        worker.tell()
    assert {decision for epoch, decision in decisions if epoch >= spec.warmup_epochs} == {True, False}
    assert not any(decision for epoch, decision in decisions if epoch < spec.warmup_epochs)


@pytest.mark.parametrize("pruner", ["median", "hyperband", "none"])
def test_no_trial_is_read_before_the_pruner_may_stop_one(sqlite_engine: Engine, statements: Watch, pruner: str) -> None:
    """The answer is known without the database; and then from what has been read, while that is young enough."""
    spec = spec_of(pruner=pruner, trials=20)
    worker = start(sqlite_engine, spec)
    history(worker, STARTUP)
    slot = claim_slot(worker)
    first = {"median": spec.warmup_epochs, "hyperband": spec.min_resource_epochs, "none": EPOCHS + 1}[pruner]
    for epoch in range(1, EPOCHS + 1):
        with statements(sqlite_engine) as sent:
            worker.search.to_prune([(slot, dict.fromkeys(range(1, epoch + 1), 0.9))], max_age=600.0)
        assert bool(sent) == (epoch == first) or (pruner == "hyperband" and epoch > first), epoch


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_several_trials_are_one_question(sqlite_engine: Engine, statements: Watch, pruner: str) -> None:
    """The lanes of a worker end their epochs together: trials are read once for all, and the answers are the same."""
    worker = start(sqlite_engine, spec_of(pruner=pruner, trials=20))
    history(worker, STARTUP)
    taken = [claim_slot(worker) for _ in range(3)]
    for slot, value in zip(taken, (0.0, 0.99, 0.01), strict=True):
        worker.report(slot, dict.fromkeys(range(1, EPOCHS + 1), value))
    reached = [(slot, worker.trial(slot).intermediate_values) for slot in taken]
    alone = [slot for slot in taken if worker.is_poor(slot)]
    with statements(sqlite_engine) as alone_sent:
        worker.search.to_prune(reached[:1])
    with statements(sqlite_engine) as together_sent:
        poor = worker.search.to_prune(reached)
    assert poor == alone
    assert pruner == "hyperband" or poor == [taken[0], taken[2]]  # hyperband compares within its brackets
    reads = [sum(statement.startswith("SELECT") for statement, _ in sent) for sent in (alone_sent, together_sent)]
    assert reads[0] == reads[1]


def test_hyperband_is_optunas(sqlite_engine: Engine, open_database: Callable[[str], Engine], tmp_path: Path) -> None:
    """Hyperband keeps notes in the trials, so ours and Optuna's own run over two copies of one database."""
    spec = spec_of(pruner="hyperband", trials=40)
    worker = start(sqlite_engine, spec)
    history(worker, STARTUP)
    for slot in slots.list_slots(sqlite_engine, worker.row.id, "search")[:STARTUP]:
        assert not worker.is_poor(slot)  # a start-up trial, and no note of it
        assert not any(key.startswith("completed_rung") for key in worker.trial(slot).system_attrs)
    copied = twin(sqlite_engine, open_database, tmp_path / "twin.db")
    other = Worker(copied, worker.row)
    pruner = HyperbandPruner(min_resource=spec.min_resource_epochs, max_resource=EPOCHS, reduction_factor=3)
    decisions = []
    for place in range(STARTUP, STARTUP + 6):
        ours, theirs = claim_slot(worker), claim_slot(other)
        for epoch in range(1, EPOCHS + 1):
            for who, slot in ((worker, ours), (other, theirs)):
                who.report(slot, {epoch: curve(place, epoch)})
            decision = worker.is_poor(ours)
            assert decision == optunas(other, theirs, pruner)
            decisions.append(decision)
            if decision:
                break
        for who, slot in ((worker, ours), (other, theirs)):
            who.finish(slot, "pruned" if decision else "complete", curve(place, epoch), epoch)
            who.tell()
    assert set(decisions) == {True, False}


def test_a_trial_that_another_worker_finished_is_not_pruned(sqlite_engine: Engine) -> None:
    """A worker frozen between its report and this question wakes to a told trial, where hyperband may write no note."""
    worker = start(sqlite_engine, spec_of("random", "hyperband", trials=20))
    slot = worker.take(STARTUP + 1)[STARTUP]
    worker.ask(slot)
    worker.report(slot, dict.fromkeys(range(1, EPOCHS + 1), 0.8))
    successor = Worker(sqlite_engine, worker.row)
    successor.finish(slot)
    successor.tell()
    assert not worker.is_poor(slot)


def test_startup_trials_are_never_pruned(sqlite_engine: Engine) -> None:
    """However poor, and even where Optuna would: the analysis needs an unbiased sample."""
    worker = start(sqlite_engine, spec_of("random", trials=20))
    taken = worker.take(STARTUP + 6)
    for slot in taken:
        worker.ask(slot)
    for slot in taken[STARTUP + 1 :]:
        worker.report(slot, dict.fromkeys(range(1, EPOCHS + 1), 0.9))
        worker.finish(slot, value=0.9)
    worker.tell()
    last, first = taken[STARTUP - 1], taken[STARTUP]
    for slot in (last, first):
        worker.report(slot, dict.fromkeys(range(1, EPOCHS + 1), 0.1))
        assert optunas(worker, slot, MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=5))
    assert (last.idx, first.idx) == (STARTUP - 1, STARTUP)
    assert not worker.is_poor(last)
    assert worker.is_poor(first)


def test_none_prunes_nothing_and_rounds_are_never_pruned(sqlite_engine: Engine) -> None:
    """Without a pruner nobody stops; confirm and final rounds never do, whatever the pruner."""
    worker = start(sqlite_engine, spec_of(pruner="none", trials=20))
    history(worker, STARTUP)
    slot = claim_slot(worker)
    worker.report(slot, dict.fromkeys(range(1, EPOCHS + 1), 0.0))
    assert not worker.is_poor(slot)
    assert not optunas(worker, slot, NopPruner())
    for kind in ("confirm", "final"):
        round_ = replace(slot, kind=kind, idx=99)
        median = Search(worker.storage, replace(worker.row, spec=spec_of(trials=20).canonical()))
        assert worker.is_poor(replace(slot, idx=99), median)  # the very values for which a search trial stops
        assert not worker.is_poor(round_, median)


def test_a_diverged_or_pruned_trial_counts_for_the_median_as_optuna_counts_it(sqlite_engine: Engine) -> None:
    """Pruned trials are left out, diverged ones have the epochs that they had."""
    spec = spec_of(trials=20)
    worker = start(sqlite_engine, spec)
    history(worker, STARTUP)
    for state, value in (("pruned", 0.99), ("diverged", 0.99), ("failed", 0.99)):
        slot = claim_slot(worker)
        worker.report(slot, dict.fromkeys(range(1, 7), value))
        if state == "failed":
            worker.fail(slot)
        else:
            worker.finish(slot, state, value, 6)
    worker.tell()
    slot = claim_slot(worker)
    for epoch in range(1, EPOCHS + 1):
        worker.report(slot, {epoch: 0.6})
        pruner = MedianPruner(n_startup_trials=STARTUP, n_warmup_steps=spec.warmup_epochs)
        assert worker.is_poor(slot) == optunas(worker, slot, pruner)


def test_a_known_zero_on_a_log_scale_is_refused_where_it_would_be_a_trial(sqlite_engine: Engine) -> None:
    """A study's scales must not change, and a log scale holds no 0; without a search it may be evaluated."""
    paper = {"learning_rate": 3e-3, "weight_decay": 0.0, "dropout": 0.15}
    with pytest.raises(ValueError, match=r"paper.weight_decay: 0 has no place"):
        spec_of(paper=paper)
